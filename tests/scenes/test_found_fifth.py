"""Holes that a fifth reader proved, each by what is right; those still open are marked."""

import pytest

from proj.inventory.models import Cluster, Hold, Instance, Job, Question, Request
from proj.reconcile import ask, look, requests
from tests.scenes.conftest import Scene

pytestmark = pytest.mark.django_db(transaction=True)

still_open = pytest.mark.xfail(strict=True, reason="proven, and not mended yet")


def test_health_is_not_green_while_nobody_looks_but_houses_are_kept(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker `ganeti` is dead; beat and the worker that keeps house live."""
    from proj import health

    monkeypatch.setattr(health, "now", scene.world.clock)
    scene.world.crash("vm1")
    seen = []
    for _ in range(60):
        for _ in range(3):
            scene.engine.housekeeping()
            scene.pause(10)
        seen.append(bool(list(health.problems())))
    assert scene.state("vm1") == "ACTIVE running"
    assert all(seen[-10:])


@pytest.mark.parametrize("how", ["paused", "failing"])
def test_many_requests_of_a_cluster_that_is_not_read_all_end(
    scene: Scene, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.world.faults import Fault

    monkeypatch.setattr(requests, "SEEN_TO_AT_ONCE", 10)
    cluster = scene.engine.cluster
    if how == "paused":
        Cluster.objects.update(paused=True)
    else:
        scene.world.fail(Fault.DOWN)
        scene.go_on(30)
    at = scene.world.clock()
    Request.objects.bulk_create(
        Request(
            cluster=cluster, kind="instance", name=f"x{n}", epoch=scene.engine.cluster.epoch,
            requested_at=at,
        )
        for n in range(42)
    )  # fmt: skip
    for _ in range(90):
        scene.go_on(10, step=10)
    left = Request.objects.filter(state="open").count()
    assert left == 0


@still_open
def test_a_list_confirms_nobody_who_was_recorded_by_older_evidence_since(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer from before the list is settled while the list is being compared."""
    engine, world = scene.engine, scene.world
    scene.go_on(5)
    engine.messages.clear()
    world.crash("vm1")
    scene.ask("vm1")
    tell = []
    for _ in range(8):
        engine.ask()
        engine.messages, mine = (
            [it for it in engine.messages if it.turn == "step"],
            [it for it in engine.messages if it.turn == "settle"],
        )
        tell += mine
        if tell:
            break
        steps, engine.messages = engine.messages, []
        scene.pause(0.5)
        for it in steps:
            engine.take(it)
        tell += [it for it in engine.messages if it.turn == "settle"]
        engine.messages = [it for it in engine.messages if it.turn == "step"]
        if tell:
            break
    assert tell
    assert Question.objects.filter(answer__isnull=False).exists()
    world.start("vm1")
    scene.pause(1)
    request = scene.ask_all("sweep")
    scene.pause(1)
    compare = look.compare

    def slow(*args, **kwargs):
        found = compare(*args, **kwargs)
        for it in tell:
            engine.take(it)
        tell.clear()
        return found

    monkeypatch.setattr(look, "compare", slow)
    engine.look_now()
    scene.pause(1)
    engine.feed_now()
    request.refresh_from_db()

    scene.row("vm1")
    assert (
        request.outcome not in ("in_sync", "reconciled") or scene.state("vm1") == "ACTIVE running"
    )


def test_a_claim_made_since_a_step_began_is_not_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step has read the clock; before it reads the rows, another worker claims a question."""
    engine, recover, done = scene.engine, ask._recover, []
    scene.go_on(10)
    scene.world.lock_node("node1", 30)  # keeps a chain alive
    scene.ask("web")
    for _ in range(3):
        engine.ask()
        scene.pause(0.3)
        engine.deliver()
    assert engine.cluster.await_token

    submit = engine.world.backend().submit_query
    del submit

    def late(*args, **kwargs):
        if not done:
            done.append(True)
            scene.pause(0.01)
            scene.ask("vm11")
            # The other worker has claimed it, and is about to submit.
            from django.db import transaction

            from proj.reconcile import questions, turns

            with transaction.atomic():
                fresh = turns.locked(engine.cluster)
                questions.claim(fresh, engine.policy, engine.tuning, at=scene.world.clock())
            done.append(Question.objects.get(name="vm11").token)
        return recover(*args, **kwargs)

    monkeypatch.setattr(ask, "_recover", late)
    engine.deliver()
    assert len(done) == 2
    assert done[1]
    it = Question.objects.get(name="vm11")
    assert it.token == done[1]
    assert not it.attempts


@still_open
def test_an_id_that_is_missing_since_just_now_is_not_passed_with_an_older_gap(
    scene: Scene,
) -> None:
    w = scene.world
    first = w.begin("ACTIVATE_DISKS", "web", seconds=1)
    scene.go_on(5)
    lost = w.begin("ACTIVATE_DISKS", "web", seconds=1, hidden=True)
    w.begin("ACTIVATE_DISKS", "web", seconds=1)
    scene.go_on(scene.engine.tuning.gap - 4)
    assert first <= scene.engine.cluster.feed_after < lost
    for _ in range(20):
        # Each second somebody submits two, of which the higher shows first.
        scene.go_on(0.5, step=0.5)
        before = scene.engine.cluster.feed_after
        late = w.begin("MIGRATE", "vm1", hidden=True, held=True)
        w.begin("ACTIVATE_DISKS", "web", seconds=0.1)
        scene.engine.feed_now()
        if scene.engine.cluster.feed_after != before:
            break
        w.show(late)
        w.cancel(late)
    Cluster.objects.update(feeds=1)
    w.show(late)
    w.release(late)
    scene.go_on(1.5, step=0.5)
    states = []
    for _ in range(2):
        scene.engine.look_now()
        scene.pause(2.5)
    scene.engine.feed_now()
    scene.engine.deliver()
    states.append(scene.state("vm1"))
    assert "ERROR ERROR_wrongnode" not in states


def test_one_never_shown_that_was_renamed_is_not_whoever_has_its_name_now(scene: Scene) -> None:
    w, engine = scene.world, scene.engine
    engine.announce("new", "CREATE")
    job = w.begin_create("new", node="node1", secondaries=())
    scene.go_on(3)
    mine = scene.row("new").api_id
    w.lock_node("node1", 200)
    w.finish(job)
    engine.look_now()
    scene.row("new")
    w.rename("new", "other")
    w.create("new", node="node2")
    scene.pause(1)
    engine.look_now()
    scene.go_on(300)
    assert not scene.problems()
    assert scene.row("other").api_id == mine


def test_an_approved_hold_that_cannot_be_read_stops_no_look(scene: Scene) -> None:
    cluster = scene.engine.cluster
    at = scene.world.clock()
    Hold.objects.create(
        cluster=cluster, digest="x", entries=5, reason="?", epoch=cluster.epoch,
        since=at, seen_at=at, current=True, approved_at=at,
    )  # fmt: skip
    scene.world.crash("vm1")
    errors = []
    for _ in range(150):
        try:
            scene.engine.beat()
        except Exception as error:
            errors.append(repr(error))
        scene.pause(2)
    assert scene.state("vm1") == "STOPPED ERROR_down"


def test_one_cluster_s_bad_row_keeps_no_other_from_its_housekeeping(scene: Scene) -> None:
    from datetime import timedelta

    one, at = scene.engine.cluster, scene.world.clock()
    Cluster.objects.update(paused=True)
    Hold.objects.create(
        cluster=one, digest="x", entries=5, reason="?", epoch=one.epoch,
        since=at, seen_at=at, current=True,
    )  # fmt: skip
    scene.ask("vm1")
    other = Cluster.objects.create(
        name="zeta", host="h", user="u", password_source="env:X", insecure=True, paused=True,
        confirm_max_age=timedelta(hours=24), moment=at,
    )  # fmt: skip
    Request.objects.create(
        cluster=other, kind="sweep", epoch=0, requested_at=at, first_transition=0
    )
    errors = []
    for _ in range(60):
        try:
            scene.engine.housekeeping()
        except Exception as error:
            errors.append(repr(error))
        scene.pause(10)
    assert Request.objects.get(cluster=other).state == "closed"


def test_health_is_not_green_while_every_first_look_dies(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock has jumped, or the cluster is new; readings of the queue succeed."""
    from proj import health

    def dies(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("a row that nobody can compare")

    scene.pause(3600)
    monkeypatch.setattr(look, "compare", dies)
    scene.world.crash("vm1")
    for _ in range(400):
        try:
            scene.engine.beat()
        except RuntimeError:
            scene.engine.deliver()
        scene.pause(1)
    monkeypatch.setattr(health, "now", scene.world.clock)
    found = list(health.problems())
    assert found


@still_open
def test_results_that_hang_leave_places_for_looks(scene: Scene) -> None:
    """While one turn waits for the result of others, further turns begin no more of that."""
    w = scene.world
    scene.go_on(5)
    jobs = [w.others_ask("vm1", held=True) for _ in range(12)]
    scene.go_on(3)
    for it in jobs:
        w.release(it)
    scene.pause(3)
    w.faults.hanging |= set(jobs)
    depth, most, before = [0], [0], w.touch

    def touch(method: str) -> None:
        if method == "poll":
            depth[0] += 1
            most[0] = max(most[0], depth[0])
            # It hangs; meanwhile beat goes on, and another worker takes the next turn.
            if depth[0] < 10:
                scene.pause(2)
                scene.engine.feed_now()
            depth[0] -= 1

    w.touch = touch
    scene.engine.feed_now()
    w.touch = before
    assert most[0] < scene.engine.cluster.max_requests


def test_a_404_of_a_clock_that_was_ahead_answers_nobody(scene: Scene) -> None:
    """The worker died when it had noted the 404, and before it closed the request."""
    cluster = scene.engine.cluster
    scene.go_on(5)
    from datetime import timedelta

    ahead = scene.world.clock() + timedelta(hours=1)
    request = Request.objects.create(
        cluster=cluster, kind="instance", name="ghost", epoch=cluster.epoch,
        requested_at=ahead, absent_at=ahead + timedelta(seconds=1),
    )  # fmt: skip
    Cluster.objects.update(moment=ahead + timedelta(seconds=1))
    scene.world.create("ghost")
    scene.pause(1)
    scene.engine.feed_now()
    request.refresh_from_db()
    assert request.state == "open"


def test_what_is_announced_to_a_cluster_that_is_not_read_does_not_pile_up(scene: Scene) -> None:
    Cluster.objects.update(paused=True)
    for n in range(60):
        scene.engine.announce(f"typo{n}", "REBOOT")
        scene.pause(10)
        if n % 10 == 0:
            scene.engine.housekeeping()
    number = Job.objects.filter(announced=True).count()
    assert number <= 20


@still_open
def test_a_row_of_an_empty_uuid_blocks_nothing(scene: Scene) -> None:
    Instance.objects.create(
        cluster=scene.engine.cluster, uuid="", name="ghost", status="ACTIVE",
        backend_status="running", epoch=scene.engine.cluster.epoch,
        created_at=scene.world.clock(), observed_not_before=scene.world.clock(),
        observed_not_after=scene.world.clock(),
    )  # fmt: skip
    scene.go_on(400)
    assert not scene.problems()


@still_open
def test_seats_of_jobs_that_have_ended_are_free_where_the_queue_cannot_be_read(
    scene: Scene,
) -> None:
    """A user who may not read the queue: our own jobs can be polled by their ids all the same."""
    from tests.world.faults import Fault

    w = scene.world
    w.fail(Fault.FORBIDDEN, "read_queue")
    for name in ("web", "vm1", "vm11"):
        w.lock_instance(name, 320)
        scene.ask(name)
    scene.go_on(700, step=5)
    w.create("vm2")
    w.crash("vm1")
    request = scene.ask("vm1")
    scene.go_on(900, step=5)
    request.refresh_from_db()
    [(it.job_id, it.state, w.queue.jobs[it.job_id].word) for it in Job.objects.all()]
    assert scene.state("vm1") == "STOPPED ERROR_down"


@still_open
def test_a_job_that_only_waits_excuses_nobody_in_health(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proj import health

    scene.world.begin("REBOOT", "vm1", held=True)
    scene.world.faults.unaskable.add("vm1")
    scene.world.remove("vm1")
    scene.go_on(900, step=5)
    monkeypatch.setattr(health, "now", scene.world.clock)
    found = list(health.problems())
    assert scene.rows("vm1") == ["DELETED"] or found


@pytest.mark.parametrize("how", ["paused", "failing"])
def test_questions_of_requests_that_ended_do_not_pile_up(scene: Scene, how: str) -> None:
    from tests.world.faults import Fault

    if how == "paused":
        Cluster.objects.update(paused=True)
    else:
        scene.world.fail(Fault.DOWN)
    for n in range(60):
        scene.ask(f"typo{n}")
        if n % 3 == 0:
            scene.engine.beat()
        scene.pause(10)
    scene.go_on(300, step=10)
    left = Request.objects.filter(state="open").count()
    assert Question.objects.count() <= left + 10


@pytest.mark.parametrize("how", ["instance", "all"])
def test_health_is_not_green_while_nobody_asks(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The worker `on-demand` is dead, so that no chain begins; a host system goes on to wish."""
    from proj import health

    engine = scene.engine
    monkeypatch.setattr(type(engine), "ask", lambda *_: None)
    monkeypatch.setattr(type(engine), "step", lambda *_: None)
    if how == "all":
        scene.ask_all("all")
    for _ in range(8):
        if how == "instance":
            scene.ask("vm1")
        scene.go_on(60, step=2)
    monkeypatch.setattr(health, "now", scene.world.clock)
    found = list(health.problems())
    assert found


@still_open
def test_one_of_many_that_are_reported_is_not_said_to_be_unknown_to_ganeti(scene: Scene) -> None:
    Cluster.objects.update(unknown="report")
    scene.world.create_many(250, "odd")
    scene.go_on(70)
    request = scene.ask("odd0249")
    scene.go_on(30)
    request.refresh_from_db()
    assert "neither Ganeti" not in request.error


def test_what_lists_said_of_one_that_is_gone_is_not_kept_for_ever(scene: Scene) -> None:
    """It returned, and went again before it was settled, and the clock jumped in between."""
    from proj.reconcile import feed
    from tests.world.faults import Fault

    uuid = scene.world.machine("vm11").uuid
    scene.world.remove("vm11")
    scene.go_on(100)
    assert scene.rows("vm11") == ["DELETED"]
    scene.world.fail(Fault.SERVER_ERROR, "submit_query")
    scene.world.create("vm11", uuid=uuid)
    scene.engine.look_now()
    assert Instance.objects.get(name="vm11").differs_since
    scene.pause(3600)
    scene.world.remove("vm11")
    scene.world.mend()
    scene.go_on(1200, step=3)
    Instance.objects.get(name="vm11")
    assert feed._is_quiet(scene.engine.cluster)


def test_a_result_of_others_is_read_once(scene: Scene) -> None:
    """One turn reads it slowly; meanwhile the next turn has the same work before it."""
    w = scene.world
    scene.go_on(5)
    jobs = [w.others_ask("vm1", held=True) for _ in range(4)]
    scene.go_on(3)
    for it in jobs:
        w.release(it)
    scene.pause(3)
    done = []

    def touch(method: str) -> None:
        if method == "poll" and not done:
            done.append(True)
            scene.pause(2)
            scene.engine.feed_now()

    w.touch = touch
    before = len(w.requests)
    scene.engine.feed_now()
    polled = sorted(it.about for it in w.requests[before:] if it.method == "poll")
    assert len(polled) == len(set(polled))


def test_a_clock_a_second_behind_takes_no_claim_for_lost(scene: Scene) -> None:
    """Redis has another master, whose clock is a little behind, as BACKWARDS allows for."""
    scene.go_on(10)
    scene.ask("vm1")
    scene.engine.ask()
    assert Question.objects.get(name="vm1").job_id
    scene.world.clock.jump(-1)
    scene.engine.deliver()
    it = Question.objects.filter(name="vm1").first()
    assert it is None or not it.attempts
