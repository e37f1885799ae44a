"""Many starts at once, more than are parked ahead: each container has a cgroup, an address and an end of its own."""

import threading

import pytest
from testkit.api import Api, ApiError

# More than the engine keeps parked, so that some start cold.
CREATED_FIRST = 12
CREATED_LATER = 12


def at_once(calls):
    """Runs the calls in threads, each with a connection of its own; returns what they raised."""
    failed = []

    def run(call):
        try:
            call()
        except ApiError as error:
            failed.append(str(error))

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def start(engine, container):
    api = Api(engine.socket, timeout=90)
    api.start(container)
    api.close()


def cgroup(api, container):
    with open(f"/proc/{api.inspect(container)['State']['Pid']}/cgroup") as file:
        return next(line.strip().split(":", 2)[2] for line in file if ":pids:" in line or line.startswith("0::"))


@pytest.fixture
def engine(busybox_naru):
    yield busybox_naru
    busybox_naru.remove_all_containers()


@pytest.mark.parametrize("round", range(2))
def test_no_two_containers_share_a_cgroup(engine, round):
    """What is parked is offered to the first that are created and taken by the first that start: not the same."""
    api = Api(engine.socket)
    first = [api.create(["sleep", "100"]) for _ in range(CREATED_FIRST)]
    later = [api.create(["sleep", "100"]) for _ in range(CREATED_LATER)]
    # Those created later take what was offered to the others, which then find nothing parked.
    failed = at_once([lambda each=each: start(engine, each) for each in later])
    failed += at_once([lambda each=each: start(engine, each) for each in first])
    assert failed == []
    groups = [cgroup(api, each) for each in first + later]
    assert len(set(groups)) == len(groups), "two containers in one cgroup"
    addresses = [api.inspect(each)["NetworkSettings"]["IPAddress"] for each in first + later]
    assert len(set(addresses)) == len(addresses) and all(addresses)
    # The end of one is no other's.
    at_once([lambda each=each: Api(engine.socket).remove(each) for each in later])
    assert all(api.inspect(each)["State"]["Running"] for each in first)
    assert all(api.exec(each, ["true"])[1] == 0 for each in first)
    api.close()


def test_short_lives_beside_each_other_all_succeed(engine):
    def live(number):
        api = Api(engine.socket, timeout=90)
        for turn in range(10):
            made = api.create(["sh", "-c", f"echo {number} {turn}; exit {number}"])
            api.start(made)
            if api.wait(made) != number or api.logs(made) != f"{number} {turn}\n".encode():
                raise ApiError(0, f"{number}: {api.inspect(made)['State']} {api.logs(made)}")
            api.remove(made)
        api.close()

    assert at_once([lambda number=number: live(number) for number in range(16)]) == []
