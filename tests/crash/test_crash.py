"""kill -9 at random moments: of the daemon, of the spawner, of a keeper. NARU_CRASH_ROUNDS says how often."""

import os
import random
import time

import pytest
from testkit.api import Api
from testkit.engine import children, describe_process, is_alive, kill_quietly, parent
from workload import Workload

ROUNDS = int(os.environ.get("NARU_CRASH_ROUNDS", "30"))
SEED = int(os.environ.get("NARU_CRASH_SEED", str(random.randrange(1 << 30))))


def until(condition, otherwise, found=str, seconds=20):
    """Waits for what must come to be; seconds are for the slowest machine, most need a few milliseconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (otherwise, found())
        time.sleep(0.005)


@pytest.fixture
def workload(fresh_naru):
    print("seed", SEED)
    work = Workload(fresh_naru, SEED)
    work.start_steady()
    work.start()
    yield work
    work.finish()


def test_workload_alone_breaks_nothing(workload):
    """Proves the workload itself: with nothing killed nothing is broken."""
    time.sleep(2)
    finish_and_check(workload)
    assert workload.refused == 0


@pytest.mark.seconds(60 + 10 * ROUNDS)
def test_daemon_killed_at_random_moments(fresh_naru, workload):
    choose = random.Random(SEED)
    for _ in range(ROUNDS):
        time.sleep(choose.uniform(0, 0.25))
        fresh_naru.kill9()
        if choose.random() < 0.1:
            workload.check_port()
        fresh_naru.start()
        workload.check_steady()
        assert workload.broken == []
    finish_and_check(workload)


@pytest.mark.seconds(60 + 10 * ROUNDS)
def test_spawner_killed_at_random_moments(fresh_naru, workload):
    choose = random.Random(SEED + 1)
    for _ in range(ROUNDS):
        time.sleep(choose.uniform(0.01, 0.25))
        old = fresh_naru.spawner()
        assert old, [describe_process(pid) for pid in children(fresh_naru.process.pid)]
        kill_quietly(old)
        until(lambda gone=old: fresh_naru.spawner() not in (None, gone), "no new spawner")
        assert fresh_naru.process.poll() is None, "the daemon ended with its spawner"
        workload.check_steady()
        assert workload.broken == []
    finish_and_check(workload)
    assert workload.finished > 0


@pytest.mark.seconds(60 + 10 * ROUNDS)
def test_keeper_killed_ends_its_container(fresh_naru, workload):
    for number in range(max(3, ROUNDS // 5)):
        api = Api(fresh_naru.socket)
        name = f"victim-{number}"
        api.create(["sh", "-c", "sleep 1000 & sleep 1000"], name=name)
        api.start(name)
        pid = api.inspect(name)["State"]["Pid"]
        keeper = parent(pid)
        assert keeper not in (None, 1, os.getpid()), f"PID 1 of the container has the parent {keeper}"
        kill_quietly(keeper)
        until(lambda: not api.inspect(name)["State"]["Running"], "the container is told to run on")
        state = api.inspect(name)["State"]
        assert state["Error"], f"the cause is not recorded: {state}"
        assert state["ExitCode"] != 0
        until(lambda: not is_alive(pid), "the container's PID 1 lives on")
        api.remove(name)
        api.close()
        workload.check_steady()
        assert workload.broken == []
    finish_and_check(workload)


def test_exit_while_the_daemon_is_down_is_recorded(fresh_naru):
    api = Api(fresh_naru.socket)
    for code in (0, 3, 137):
        api.create(["sh", "-c", f"sleep 0.4; echo last line; exit {code}"], name=f"down-{code}")
        api.start(f"down-{code}")
    fresh_naru.kill9()
    time.sleep(0.8)
    fresh_naru.start()
    api.close()
    for code in (0, 3, 137):
        assert api.wait(f"down-{code}") == code
        assert api.logs(f"down-{code}") == b"last line\n"
    api.close()


def test_restart_policy_holds_over_a_crash(fresh_naru):
    api = Api(fresh_naru.socket)
    api.create(["sleep", "0.3"], name="again", host={"RestartPolicy": {"Name": "always"}})
    api.start("again")
    fresh_naru.kill9()
    time.sleep(0.6)
    fresh_naru.start()
    api.close()
    until(lambda: api.inspect("again")["State"]["Running"], "it is not started again")
    api.close()


def test_exec_and_stop_work_after_a_crash(fresh_naru):
    api = Api(fresh_naru.socket)
    api.create(["sleep", "1000"], name="kept")
    api.start("kept")
    fresh_naru.kill9()
    fresh_naru.start()
    api.close()
    assert api.exec("kept", ["echo", "hi"]) == (b"hi\n", 0)
    api.call("POST", "/containers/kept/pause")
    api.call("POST", "/containers/kept/unpause")
    api.call("POST", "/containers/kept/stop?t=0")
    assert api.wait("kept") == 137
    api.start("kept")
    assert api.inspect("kept")["State"]["Running"]
    api.close()


def test_term_leaves_containers_running_and_nothing_else(fresh_naru):
    api = Api(fresh_naru.socket)
    api.create(["sleep", "1000"], name="kept")
    api.create(["sleep", "1000"], name="only-created")
    api.start("kept")
    pid = api.inspect("kept")["State"]["Pid"]
    keeper = parent(pid)
    assert fresh_naru.stop() == 0
    api.close()
    until(lambda: set(fresh_naru.processes()) == {pid, keeper}, "others are left", lambda: list(map(describe_process, fresh_naru.processes())))
    fresh_naru.start()
    assert api.inspect("kept")["State"]["Pid"] == pid
    api.start("only-created")
    api.close()


def test_two_daemons_on_one_root_are_refused_and_a_stale_socket_replaced(fresh_naru):
    second = fresh_naru.scope.run(*fresh_naru.daemon_command(), timeout=60)
    assert second.returncode != 0
    assert fresh_naru.answers(), "the first daemon lost its socket"
    fresh_naru.kill9()
    assert os.path.exists(fresh_naru.socket), "kill -9 leaves the socket; the next daemon must replace it"
    fresh_naru.start()
    with open(fresh_naru.pidfile) as file:
        assert int(file.read()) == fresh_naru.process.pid


def finish_and_check(workload):
    workload.finish()
    workload.check_steady()
    workload.check_port()
    workload.check_logs()
    workload.check_listing()
    print(f"{workload.finished} lives, {workload.refused} refused")
    assert workload.broken == []
    assert workload.finished > 0, "the workload never got anywhere"
