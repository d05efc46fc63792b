"""Holes that a fourth reader proved, each by what is right."""

import pytest

from proj.inventory.models import Cluster, Instance
from proj.reconcile import compare as comparing
from proj.reconcile import holds, look
from proj.reconcile.brake import Limits
from tests.scenes.conftest import Scene

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.usefixtures("redis")
def test_a_place_that_was_just_taken_is_nobody_else_s() -> None:
    from proj import semaphore
    from proj.clock import server

    key = "requests:delta"
    server().delete(key)
    lost = []
    for _ in range(20):
        server().delete(key)
        pipe = server().pipeline(transaction=False)
        for n in range(100):
            pipe.eval(semaphore._TAKE, 1, key, 1000, semaphore.LEASE, f"w{n}")
        taken = [it for it in pipe.execute() if it]
        lost.append(len(taken) - server().zcard(key))
    server().delete(key)
    assert not any(lost)


@pytest.mark.usefixtures("redis")
def test_threads_never_hold_more_than_the_limit() -> None:
    import threading
    import time

    import redis
    from django.conf import settings

    from proj import semaphore

    key, limit = "requests:epsilon", 4
    held, most, over, lock = [0], [0], [0], threading.Lock()

    def work() -> None:
        server = redis.Redis.from_url(settings.REDIS_URL)
        for n in range(1500):
            owner = f"{threading.get_ident()}-{n}"
            if not server.eval(semaphore._TAKE, 1, key, limit, semaphore.LEASE, owner):
                continue
            with lock:
                held[0] += 1
                most[0] = max(most[0], held[0])
                over[0] += held[0] > limit
            time.sleep(0.0005)
            with lock:
                held[0] -= 1
            server.zrem(key, owner)

    threads = [threading.Thread(target=work) for _ in range(8)]
    [it.start() for it in threads]
    [it.join() for it in threads]
    assert most[0] <= limit


def test_an_approval_while_a_list_is_compared_is_not_lost(make_scene, monkeypatch) -> None:
    scene = make_scene(*(f"vm{n}" for n in range(10)), limits=Limits())
    scene.world.stop_all()
    scene.go_on(20)
    (hold,) = scene.holds()
    compare, let = look.compare, []

    def slow(*args, **kwargs):
        found = compare(*args, **kwargs)
        if not let:
            let.append(holds.approve(hold, scene.engine.tuning, at=scene.world.clock()))
        return found

    monkeypatch.setattr(look, "compare", slow)
    scene.engine.look_now()
    scene.go_on(120)
    assert scene.state("vm0") == "STOPPED ADMIN_down"


@pytest.mark.parametrize("named", [True, False])
def test_a_plan_says_not_in_sync_of_what_it_cannot_read(scene: Scene, named) -> None:
    from proj.reconcile import requests

    scene.world.crash("vm1")
    scene.world.faults.unreadable.add("vm1")
    if named:
        plan = requests.request_instance(
            scene.engine.cluster,
            "vm1",
            tuning=scene.engine.tuning,
            at=scene.world.clock(),
            plan=True,
        )
    else:
        plan = scene.ask_all("plan")
    scene.engine.plan()
    plan.refresh_from_db()
    assert plan.error or plan.outcome == "failed"


def test_a_plan_of_nobody_is_not_in_sync(scene: Scene) -> None:
    from proj.reconcile import requests

    plan = requests.request_instance(
        scene.engine.cluster,
        "nobody",
        tuning=scene.engine.tuning,
        at=scene.world.clock(),
        plan=True,
    )
    scene.engine.plan()
    plan.refresh_from_db()
    assert plan.outcome == "failed"


def test_a_query_of_several_opcodes_that_waits_again_is_no_evidence_of_now(scene: Scene) -> None:
    """Its first opcode has read vm1; its second waits for a lock: Ganeti says `waiting` again."""
    w = scene.world
    scene.go_on(5)
    number = w.others_ask("vm1", seconds=400)
    job = w.queue.jobs[number]
    scene.go_on(3)
    assert job.word == "running"
    job.opcodes = 2
    # Between two opcodes a job is `waiting`, or `queued`, once more (CalcStatus, calcJobStatus).
    job.word, job.has, job.held = "queued", None, True
    w.crash("vm1")
    crashed = w.clock.peek()
    scene.go_on(70)
    assert scene.state("vm1") == "STOPPED ERROR_down"
    job.word = "running"
    w.finish(number)
    bad = []
    for _ in range(40):
        scene.go_on(0.5, step=0.5)
        it = scene.row("vm1")
        if it.status == "ACTIVE" and it.observed_not_before > crashed:
            bad.append((it.backend_status, it.observed_not_before.isoformat()))
    assert not bad


def test_health_is_not_green_while_nobody_settles(scene: Scene, monkeypatch) -> None:
    from proj import health

    engine = scene.engine
    monkeypatch.setattr(type(engine), "settle", lambda *_: None)
    monkeypatch.setattr(type(engine), "housekeeping", lambda *_: None)
    request = scene.ask("vm1")
    scene.world.crash("web")
    scene.go_on(1500, step=2)
    request.refresh_from_db()
    monkeypatch.setattr(health, "now", scene.world.clock)
    found = list(health.problems())
    assert found


def test_one_announced_that_two_strangers_fit_is_neither(make_scene, monkeypatch) -> None:
    monkeypatch.setattr(comparing, "CHUNK", 1)
    scene = make_scene("web")
    scene.engine.announce("new", "CREATE")
    mine = scene.row("new").api_id
    scene.world.create("new.a.org")
    scene.world.create("new.b.org")
    scene.engine.look_now()
    assert scene.row("new").api_id == mine


def test_a_wish_by_name_is_not_done_while_its_successor_is_not_recorded(scene: Scene) -> None:
    """vm1 was made anew before the wish; its node is locked, so that no job adopts it at once."""
    scene.world.recreate("vm1", node="node3", secondaries=())
    scene.world.lock_node("node3")
    scene.engine.look_now()
    request = scene.ask("vm1")
    for _ in range(100):
        scene.go_on(1)
        request.refresh_from_db()
        if request.state == "closed":
            break
    assert request.outcome not in ("in_sync", "reconciled") or "ACTIVE" in scene.rows("vm1")


def test_a_wish_is_not_done_by_a_404_from_before_it(scene: Scene) -> None:
    machine = scene.world.machine("vm1")
    scene.world.remove("vm1")
    scene.engine.look_now()
    scene.pause(11)
    scene.engine.look_now()
    scene.engine.messages.clear()
    scene.pause(1)
    scene.engine.ask()
    scene.world.create("vm1", node=machine.node, uuid=machine.uuid)
    scene.pause(1)
    request = scene.ask("vm1")
    scene.pause(1)
    scene.engine.deliver()
    request.refresh_from_db()
    assert request.outcome not in ("in_sync", "reconciled")


def test_all_while_nobody_settles_is_seen_in_health(scene: Scene, monkeypatch) -> None:
    from proj import health

    engine = scene.engine
    monkeypatch.setattr(type(engine), "settle", lambda *_: None)
    monkeypatch.setattr(type(engine), "housekeeping", lambda *_: None)
    request = scene.ask_all("all")
    scene.go_on(1500, step=2)
    request.refresh_from_db()
    monkeypatch.setattr(health, "now", scene.world.clock)
    found = list(health.problems())
    assert found


def test_a_plan_says_not_in_sync_of_what_it_could_not_judge(scene: Scene) -> None:
    """A job on vm1 ends, and is seen to end, while the list of the plan is under way."""
    job = scene.world.begin("ACTIVATE_DISKS", "vm1", seconds=500)
    scene.go_on(3)
    scene.world.crash("vm1")
    plan = scene.ask_all("plan")

    done = []

    def amid(method: str) -> None:
        if method == "look" and not done:
            done.append(True)
            scene.world.finish(job)
            scene.engine.feed_now()

    scene.world.touched = amid
    scene.engine.plan()
    plan.refresh_from_db()
    assert plan.planned or plan.error


@pytest.mark.parametrize("named", [3, 200])
def test_many_that_are_held_end_no_request_about_others(make_scene, monkeypatch, named) -> None:
    from proj.reconcile import unconfirmed

    scene = make_scene(*(f"vm{n}" for n in range(14)), limits=Limits())
    scene.world.stop(*(f"vm{n}" for n in range(8)))
    scene.go_on(20)
    assert scene.holds()
    Cluster.objects.update(max_in_flight=1)
    monkeypatch.setattr(unconfirmed, "NAMED", named)
    scene.world.queries.seconds = 30
    request = scene.ask_all("all")
    for _ in range(600):
        scene.go_on(1)
        request.refresh_from_db()
        if request.state == "closed":
            break
    others = Instance.objects.filter(name__in=[f"vm{n}" for n in range(8, 14)])
    done = others.filter(confirmed_at__gte=request.requested_at).count()
    assert done == 6


def test_many_that_are_held_hide_no_other_that_is_late(make_scene, monkeypatch) -> None:
    from proj import health

    monkeypatch.setattr(health, "PAGE", 6)
    scene = make_scene(*(f"vm{n}" for n in range(10)), limits=Limits())
    scene.world.stop(*(f"vm{n}" for n in range(6)))
    scene.go_on(600, step=2)
    assert scene.holds()
    old = scene.row("vm0").differs_since
    Instance.objects.filter(name="vm9").update(differs_since=old, differs=scene.row("vm0").differs)
    monkeypatch.setattr(health, "now", scene.world.clock)
    found = list(health.problems())
    assert found


def test_a_stranger_that_the_newest_incomplete_list_lacks_is_not_adopted(scene: Scene) -> None:
    from tests.world.faults import Fault

    scene.world.fail(Fault.SERVER_ERROR, "submit_query")
    scene.world.faults.unreadable.add("vm11")
    scene.world.create("new")
    for _ in range(2):
        scene.engine.look_now()
        scene.pause(scene.engine.tuning.proof_within + 1)
    scene.world.remove("new")
    scene.engine.look_now()
    scene.engine.feed_now()
    assert not Instance.objects.filter(name="new").exists()


def test_a_list_from_before_an_announcement_gives_it_no_uuid(scene: Scene) -> None:
    """`new` was there, unknown; it is removed, and its successor announced, amid the list."""
    _old, done = scene.world.create("new"), []

    def amid(method: str) -> None:
        if method == "look" and not done:
            done.append(True)
            scene.world.remove("new")
            scene.pause(0.5)
            scene.engine.announce("new", "CREATE")
            scene.world.begin_create("new", seconds=5)

    scene.world.touched = amid
    scene.engine.look_now()
    row = scene.row("new")
    mine = row.api_id
    assert row.uuid is None
    scene.go_on(120)
    assert scene.row("new").api_id == mine


def test_a_change_of_word_voids_no_approval(make_scene) -> None:
    from tests.world.faults import Fault

    scene = make_scene(*(f"vm{n}" for n in range(10)), limits=Limits())
    scene.world.fail(Fault.SERVER_ERROR, "submit_query")
    scene.world.crash(*(f"vm{n}" for n in range(6)))
    scene.go_on(20)
    (hold,) = scene.holds()
    holds.approve(hold, scene.engine.tuning, at=scene.world.clock())
    scene.world.stop(*(f"vm{n}" for n in range(6)))
    scene.go_on(200)
    assert scene.row("vm0").status == "STOPPED"


def test_a_creation_that_is_tried_again_keeps_its_announced_id(scene: Scene) -> None:
    """The first one failed after lists had shown it; its name stands for the next one."""
    scene.engine.announce("new", "CREATE")
    first = scene.world.begin_create("new")
    scene.go_on(3)
    scene.engine.look_now()
    mine = scene.row("new").api_id
    scene.world.finish(first, "error", leaving="before")
    scene.go_on(120)
    assert scene.state("new") == "ERROR"
    scene.engine.announce("new", "CREATE")
    second = scene.world.begin_create("new")
    scene.go_on(10)
    assert scene.state("new") == "BUILD"
    scene.world.finish(second)
    scene.go_on(120)
    assert scene.state("new") == "ACTIVE running"
    assert scene.row("new").api_id == mine
    assert not scene.problems()


def test_a_creation_that_is_tried_again_at_once_leaves_no_second_row(scene: Scene) -> None:
    scene.engine.announce("new", "CREATE")
    first = scene.world.begin_create("new")
    scene.go_on(3)
    scene.engine.look_now()
    scene.world.finish(first, "error", leaving="before")
    second = scene.world.begin_create("new")
    scene.go_on(5)
    scene.engine.look_now()
    scene.world.finish(second)
    scene.go_on(120)
    assert scene.rows("new") == ["ACTIVE"]
    assert not scene.problems()


def test_a_wish_is_not_done_by_the_end_of_one_whose_name_has_another_by_now(scene: Scene) -> None:
    """No list has shown the successor yet when a 404 proves that the old one is gone."""
    scene.world.remove("vm1")
    scene.engine.look_now()
    scene.pause(scene.engine.tuning.gone_after + 1)
    scene.engine.look_now()
    scene.engine.messages.clear()
    scene.world.create("vm1", node="node3", secondaries=())
    scene.world.lock_node("node3")
    request = scene.ask("vm1")
    for _ in range(5):
        scene.engine.ask()
        scene.engine.deliver()
    request.refresh_from_db()
    assert request.outcome not in ("in_sync", "reconciled") or "ACTIVE" in scene.rows("vm1")


def test_while_nobody_settles_answers_and_their_messages_stay_few(
    make_scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proj.inventory.models import Question
    from proj.reconcile import ask

    monkeypatch.setattr(ask, "MOST_ANSWERS", 5)
    scene = make_scene(*(f"vm{number}" for number in range(30)))
    monkeypatch.setattr(type(scene.engine), "settle", lambda *_: None)
    scene.ask_all("all")
    scene.go_on(20)
    seats = scene.engine.cluster.max_in_flight
    assert 5 <= Question.objects.filter(answer__isnull=False).count() <= 5 + 2 * seats
    sent: list[object] = []
    send = scene.engine._send

    def counted(turn: str, *arguments: object) -> None:
        sent.extend([turn] if turn == "settle" else [])
        send(turn, *arguments)

    monkeypatch.setattr(scene.engine, "_send", counted)
    scene.go_on(300)
    assert 1 <= len(sent) <= 300 / scene.engine.tuning.answer_timeout + 1


def test_one_message_has_all_answers_settled_that_a_worker_left(make_scene) -> None:
    from proj.inventory.models import Question
    from proj.reconcile import settle

    scene = make_scene(*(f"vm{number}" for number in range(30)))
    settle.AT_ONCE, before = 4, settle.AT_ONCE
    try:
        Cluster.objects.update(max_in_flight=30)
        request = scene.ask_all("all")
        for _ in range(60):
            scene.engine.beat()
            scene.world.clock.wait(1)
            scene.engine.messages = [it for it in scene.engine.messages if it.turn != "settle"]
            if Question.objects.filter(answer__isnull=False).count() >= 20:
                break
        scene.pause(scene.engine.tuning.answer_timeout)
        scene.go_on(5)
        request.refresh_from_db()
        assert not Question.objects.filter(answer__isnull=False).exists()
        assert request.outcome == "in_sync"
    finally:
        settle.AT_ONCE = before


@pytest.mark.parametrize("number", [7, 8, 9, 23])
def test_each_row_has_its_turn_however_their_number_changes(scene: Scene, number: int) -> None:
    from proj.inventory.models import Request
    from proj.reconcile import rows

    for _ in range(40):
        scene.engine.cluster.requests.create(
            kind=Request.Kind.PLAN, epoch=0, requested_at=scene.world.clock()
        )
    mine = Request.objects.order_by("pk")
    few = mine.filter(pk__lte=mine[number].pk)
    seen: set[int] = set()
    for turn in range(300):
        them = few if turn % 2 else mine
        seen |= {it.pk for it in rows.portion(them, 6)}
    assert {it.pk for it in few} <= seen
