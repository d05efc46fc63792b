"""What can happen in the queue: operations, locks, ends, ids."""

import pytest

from tests.simulator.inside import Inside

A, B, C = "a.example", "b.example", "c.example"
"""The first and the third are on the first node."""


@pytest.fixture
def sim() -> Inside:
    """Three instances on two nodes."""
    return Inside(A, B, C)


def test_a_job_of_several_operations_carries_them_out_one_after_the_other(sim: Inside) -> None:
    ops = [{"OP_ID": f"OP_INSTANCE_{kind}", "instance_name": A} for kind in ("SHUTDOWN", "STARTUP")]
    number = sim.queue.submit(ops)
    sim.wait(10)
    job = sim.job(number)
    assert (job["status"], job["opstatus"]) == ("running", ["success", "running"])
    assert job["summary"] == [f"INSTANCE_SHUTDOWN({A})", f"INSTANCE_STARTUP({A})"]
    assert sim.listed("status")[A] == "ERROR_down"
    sim.wait(10)
    assert (sim.status(number), sim.listed("status")[A]) == (["success"], "running")


def test_an_operation_that_fails_ends_the_job_and_all_that_would_follow(sim: Inside) -> None:
    names = (A, "nobody", B)
    number = sim.queue.submit(
        [{"OP_ID": "OP_INSTANCE_SHUTDOWN", "instance_name": name} for name in names]
    )
    sim.wait(30)
    job = sim.job(number)
    assert (job["status"], job["opstatus"]) == ("error", ["success", "error", "error"])
    assert job["opresult"][1][0] == "OpPrereqError"
    assert job["opresult"][2] == ["OpExecError", ["Preceding opcode failed"]]
    assert (sim.listed("status")[A], sim.listed("status")[B]) == ("ADMIN_down", "running")


def test_a_jobs_reason_is_kept_and_ganetis_own_is_added(sim: Inside) -> None:
    number = int(sim.get(f"/2/instances/{A}/info?reason=why"))
    (op,) = sim.job(number)["ops"]
    assert [source for source, _, _ in op["reason"]] == [
        "gnt:user",
        "gnt:library:rlib2:instances_name_info",
        "gnt:opcode:instance_query_data",
    ]
    assert op["reason"][0][1] == "why"


def test_a_locked_node_holds_up_queries_and_moves_of_its_instances_alone(sim: Inside) -> None:
    lock = sim.queue.lock(sim.nodes[0], 60)
    assert sim.job(lock)["summary"] == ["TEST_DELAY(60)"]
    assert "instance_name" not in sim.job(lock)["ops"][0]
    jobs = [sim.ask(A), sim.ask(B), sim.operate("SHUTDOWN", C)]
    static = int(sim.get(f"/2/instances/{A}/info?static=1"))
    failover = sim.operate("FAILOVER", B)
    sim.wait(20)
    assert sim.status(*jobs, static) == ["waiting", "success", "success", "success"]
    assert sim.status(failover) == ["waiting"]
    sim.wait(60)
    assert sim.status(jobs[0]) == ["success"]


def test_who_waits_for_a_node_holds_his_instance(sim: Inside) -> None:
    sim.queue.lock(sim.nodes[0], 60)
    query = sim.ask(A)
    assert sim.status(query, sim.operate("REBOOT", A)) == ["waiting", "waiting"]


def test_a_locked_instance_holds_up_all_that_is_about_it(sim: Inside) -> None:
    lock = sim.queue.lock(A, 60)
    assert A not in str(sim.job(lock))
    waiting = [sim.ask(A), sim.operate("REBOOT", A)]
    assert sim.status(*waiting, sim.ask(C)) == ["waiting", "waiting", "running"]
    sim.wait(90)
    assert sim.status(*waiting) == ["success", "success"]


def test_the_limit_of_the_reason_counts_jobs_that_wait(sim: Inside) -> None:
    sim.queue.lock(A, 60)
    limited = [int(sim.get(f"/2/instances/{name}/info?reason=rate-limit:1:us")) for name in (A, B)]
    sim.wait(30)
    assert sim.status(*limited) == ["waiting", "queued"]
    assert sim.status(sim.ask(B)) == ["running"]


def test_several_jobs_on_one_instance_end_in_their_order_between_two_looks(sim: Inside) -> None:
    jobs = [sim.operate("FAILOVER", A), sim.operate("SHUTDOWN", A), sim.operate("REMOVE", A)]
    sim.wait(3600)
    ends = [sim.job(number)["end_ts"][0] for number in jobs]
    assert ends == [1_000_010, 1_000_020, 1_000_030]
    assert A not in sim.listed()


def test_a_migration_is_on_the_wrong_node_while_it_lasts(sim: Inside) -> None:
    sim.operate("MIGRATE", A)
    assert sim.listed("status")[A] == "ERROR_wrongnode"
    sim.wait(10)
    assert sim.listed("status")[A] == "running"
    assert sim.listed("pnode")[A] == sim.nodes[1]


def test_a_job_may_take_any_time_and_one_may_stay_queued(sim: Inside) -> None:
    none, hours = sim.operate("REBOOT", A, seconds=0), sim.operate("REBOOT", B, seconds=7200)
    held = sim.operate("REBOOT", C, held=True)
    assert sim.status(none) == ["success"]
    sim.wait(7000)
    assert sim.status(hours, held) == ["running", "queued"]
    sim.queue.held.clear()
    sim.wait(0)
    sim.wait(200)
    assert sim.status(hours, held) == ["success", "success"]


def test_a_job_stays_queued_until_what_it_depends_on_has_ended(sim: Inside) -> None:
    first = sim.operate("REBOOT", A)
    good, bad = (sim.operate("REBOOT", B, depends=[[first, [end]]]) for end in ("success", "error"))
    assert sim.status(good, bad) == ["queued", "queued"]
    sim.wait(10)
    assert sim.status(good, bad) == ["running", "canceled"]


@pytest.mark.parametrize(
    ("end", "status", "result"),
    [
        ("error", "error", ["OpExecError", ["no luck"]]),
        ("canceled", "canceled", "Job canceled by request"),
        ("dead", "error", "detected death of job 1"),
    ],
)
def test_a_job_can_be_ended_by_hand(sim: Inside, end: str, status: str, result: object) -> None:
    number = sim.operate("SHUTDOWN", A)
    sim.queue.end(number, end, None if end == "dead" else result)
    job = sim.job(number)
    assert (job["status"], job["opresult"]) == (status, [result])
    assert sim.listed("status")[A] == "ERROR_up"


def test_a_job_that_is_ended_well_has_done_its_work(sim: Inside) -> None:
    number = sim.operate("SHUTDOWN", A, held=True)
    sim.queue.end(number)
    assert (sim.status(number), sim.listed("status")[A]) == (["success"], "ADMIN_down")


def test_a_kind_of_operation_can_be_made_to_fail(sim: Inside) -> None:
    sim.queue.fails["OP_INSTANCE_REBOOT"] = ["OpExecError", ["no luck"]]
    number, other = sim.operate("REBOOT", A), sim.operate("SHUTDOWN", B)
    sim.wait(10)
    assert sim.status(number, other) == ["error", "success"]
    assert sim.job(number)["opresult"] == [["OpExecError", ["no luck"]]]


def test_a_canceled_job_may_say_so_for_a_while_and_run_all_the_same(sim: Inside) -> None:
    sim.queue.canceling = 60
    sim.queue.lock(A, 30)
    number = sim.ask(A)
    assert sim.queue.cancel(number)
    sim.wait(50)
    assert sim.status(number) == ["canceling"]
    sim.wait(20)
    assert sim.status(number) == ["running"]
    sim.wait(10)
    assert sim.status(number) == ["success"]


def test_a_job_may_be_archived_or_purged_while_it_is_open(sim: Inside) -> None:
    archived, purged = sim.operate("SHUTDOWN", A), sim.operate("SHUTDOWN", B)
    sim.queue.archive(archived)
    sim.queue.lose(purged)
    assert sim.get("/2/jobs") == []
    assert sim.query("job", ["id"]) == []
    assert sim.status(archived, purged) == ["running", None]
    sim.wait(10)
    assert sim.status(archived) == ["success"]


def test_a_higher_id_may_be_seen_before_a_lower_one(sim: Inside) -> None:
    lower, higher = sim.operate("REBOOT", A, unseen=True), sim.operate("REBOOT", B)
    assert [int(job["id"]) for job in sim.get("/2/jobs")] == [higher]
    assert sim.query("job", ["id"], [">", "id", 0]) == [[[0, higher]]]
    assert sim.status(lower) == [None]
    sim.wait(60)
    sim.queue.unseen.clear()
    assert sim.status(lower, higher) == ["running", "success"]


def test_ids_may_begin_anew(sim: Inside) -> None:
    first = sim.operate("REBOOT", A)
    sim.ask(B)
    sim.queue.begin_anew()
    assert sim.get("/2/jobs") == []
    assert sim.ask(A) == first
    assert sim.status(first) == ["running"]


def test_the_bulk_of_jobs_tells_no_results(sim: Inside) -> None:
    number = sim.ask(A)
    sim.wait(10)
    (job,) = sim.get("/2/jobs?bulk=1")
    assert (job["id"], job["status"], "opresult" in job) == (number, "success", False)


def test_what_is_changed_is_told_by_the_list(sim: Inside) -> None:
    sim.operate("SET_PARAMS", A, beparams={"maxmem": 7, "vcpus": 3})
    sim.operate("SHUTDOWN", B)
    sim.wait(10)
    sim.operate("SET_PARAMS", B, offline=True)
    sim.wait(10)
    assert (sim.listed("be/maxmem")[A], sim.listed("be/vcpus")[A]) == (7, 3)
    assert sim.listed("status")[B] == "ADMIN_offline"
