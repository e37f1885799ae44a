"""Many live containers over a daemon's death, and one that is stuck among them."""

import os
import signal
import subprocess
import threading
import time

import pytest
from testkit.api import Api, ApiError
from testkit.engine import parent

COUNT = 300
CLIENTS = 16


def in_threads(engine, items, work, clients=CLIENTS):
    """Does `work(api, item)` for all items on several connections at once; returns what was raised."""
    queue, failures = list(items), []

    def serve():
        api = Api(engine.socket)
        while queue:
            try:
                item = queue.pop()
            except IndexError:
                break
            try:
                work(api, item)
            except Exception as error:  # Whatever it is, the test shows it.
                failures.append((item, error))
        api.close()

    threads = [threading.Thread(target=serve) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def create_and_start(api, name, **host):
    api.create(["sleep", "100000"], name=name, host={"NetworkMode": "none", **host})
    api.start(name)


@pytest.mark.seconds(240)
def test_hundreds_of_live_containers_survive_a_restart(fresh_naru):
    """moby#32762: restoring them all made the daemon too slow to answer, so it was killed and began again."""
    names = [f"live-{number}" for number in range(COUNT)]
    assert in_threads(fresh_naru, names, create_and_start) == []
    api = Api(fresh_naru.socket)
    pids = {name: api.inspect(name)["State"]["Pid"] for name in names}
    fresh_naru.kill9()
    api.close()
    seconds = fresh_naru.start()
    print(f"answers {seconds * 1000:.0f} ms after its start with {COUNT} live containers")
    assert seconds < 10
    assert {name: api.inspect(name)["State"]["Pid"] for name in names} == pids
    assert api.exec(names[0], ["echo", "hi"]) == (b"hi\n", 0)
    api.close()
    assert in_threads(fresh_naru, names, lambda api, name: api.remove(name)) == []


@pytest.mark.parametrize("kept_by_policy", [False, True], ids=["running", "restart-always"])
def test_prune_after_a_restart_keeps_volumes_in_use(fresh_naru, kept_by_policy):
    """moby#38883: after a restart the daemon did not know who used a volume, and pruned it."""
    api = Api(fresh_naru.socket)
    policy = {"RestartPolicy": {"Name": "always"}} if kept_by_policy else {}
    for name, command in (("used-running", ["sleep", "1000"]), ("used-stopped", ["true"])):
        api.create(["sh", "-c", f"echo kept >/v/file; exec {' '.join(command)}"], name=name, host={"Binds": [f"{name}:/v"], **(policy if "running" in name else {})})
        api.start(name)
    api.create(["true"], name="used-created", host={"Binds": ["used-created:/v"]})
    api.call("POST", "/volumes/create", {"Name": "unused"})
    api.wait("used-stopped")
    fresh_naru.kill9()
    api.close()
    fresh_naru.start()
    gone = api.call("POST", "/volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D")["VolumesDeleted"] or []
    assert gone == ["unused"], "the twin: what nobody uses is pruned"
    for name in ("used-running", "used-stopped"):
        with open(api.call("GET", f"/volumes/{name}")["Mountpoint"] + "/file") as file:
            assert file.read() == "kept\n"
    api.start("used-created")
    assert api.wait("used-created") == 0
    api.close()


def test_prune_beside_create_takes_no_volume_from_it(fresh_naru):
    """A volume that a create has just made is in use already."""
    is_over = threading.Event()
    pruned = []

    def prune():
        api = Api(fresh_naru.socket)
        while not is_over.is_set():
            pruned.extend(api.call("POST", "/volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D")["VolumesDeleted"] or [])
        api.close()

    def live(api, name):
        api.create(["touch", "/v/file"], name=name, host={"Binds": [f"{name}:/v"], "NetworkMode": "none"})
        api.start(name)
        assert api.wait(name) == 0
        assert os.listdir(api.call("GET", f"/volumes/{name}")["Mountpoint"]) == ["file"]
        api.remove(name)

    pruner = threading.Thread(target=prune)
    pruner.start()
    failures = in_threads(fresh_naru, [f"raced-{number}" for number in range(200)], live, clients=4)
    is_over.set()
    pruner.join()
    assert failures == []


def test_a_stuck_keeper_holds_up_no_other(fresh_naru):
    """moby#12606, #30605: one container's lock, held for ever, froze `ps`."""
    api = Api(fresh_naru.socket, timeout=15)
    for name in ("stuck", "fine"):
        create_and_start(api, name)
    keeper = parent(api.inspect("stuck")["State"]["Pid"])
    os.kill(keeper, signal.SIGSTOP)
    try:
        blocked = [threading.Thread(target=ask_quietly, args=(fresh_naru, path)) for path in ("stop?t=0", "exec", "kill", "pause", "resize?h=5&w=5")]
        for thread in blocked:
            thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        assert {one["State"] for one in api.call("GET", "/containers/json")} == {"running"}
        assert api.inspect("stuck")["State"]["Running"]
        assert api.call("GET", "/info")["ContainersRunning"] == 2
        assert api.exec("fine", ["echo", "hi"]) == (b"hi\n", 0)
        create_and_start(api, "new")
        api.remove("new")
        api.remove("fine")
        assert time.monotonic() - began < 15
    finally:
        os.kill(keeper, signal.SIGCONT)
    for thread in blocked:
        thread.join(60)
    assert not any(thread.is_alive() for thread in blocked), "a request about the stuck one never came back"
    assert api.wait("stuck") == 137, "the twin: once it goes on, what was asked of it happens"
    api.close()


def ask_quietly(engine, action):
    api = Api(engine.socket, timeout=60)
    try:
        api.call("POST", f"/containers/stuck/{action}", {"Cmd": ["true"]} if action == "exec" else None)
    except (ApiError, OSError):
        pass
    finally:
        api.close()


def test_mounts_seen_elsewhere_do_not_keep_a_container(fresh_naru):
    """moby#22260, #34652: a copy of the mount table in another namespace made removal fail: device or resource busy."""
    api = Api(fresh_naru.socket)
    create_and_start(api, "held", Binds=["held-volume:/v"])
    script = "echo ready; exec sleep 100"
    holder = subprocess.Popen(
        fresh_naru.scope.command("unshare", "--mount", "--propagation", "private", "sh", "-c", script), stdout=subprocess.PIPE, text=True)
    inside = subprocess.Popen(
        ["nsenter", f"--target={api.inspect('held')['State']['Pid']}", "--mount", "unshare", "--mount", "--propagation", "private", "/bin/sleep", "100"])
    try:
        assert holder.stdout.readline() == "ready\n"
        time.sleep(0.2)
        api.remove("held")
        api.call("DELETE", "/volumes/held-volume")
        assert api.call("GET", "/containers/json?all=1") == []
        assert not [line for line in fresh_naru.scope.mounts() if line not in fresh_naru.mounts_before]
    finally:
        for process in (holder, inside):
            process.kill()
            process.wait()
    api.close()


@pytest.mark.seconds(400)
def test_term_after_many_removals_leaves_nothing(fresh_naru):
    """The daemon is told to end while it still ends 200 containers' keepers and cgroups."""
    for round in range(int(os.environ.get("NARU_TERM_ROUNDS", "3"))):
        names = [f"gone-{round}-{number}" for number in range(200)]
        assert in_threads(fresh_naru, names, create_and_start) == []
        assert in_threads(fresh_naru, names, lambda api, name: api.remove(name)) == []
        assert fresh_naru.stop() == 0
        assert fresh_naru.settled_leftovers() == [], f"round {round}"
        fresh_naru.start()


def test_term_amid_removals_leaves_nothing(fresh_naru):
    """Told to end in the middle of them: what was not removed is there, can be removed, and then nothing is left."""
    names = [f"amid-{number}" for number in range(100)]
    assert in_threads(fresh_naru, names, create_and_start) == []
    remover = threading.Thread(target=in_threads, args=(fresh_naru, names, remove_quietly))
    remover.start()
    time.sleep(0.05)
    assert fresh_naru.stop() == 0
    remover.join()
    fresh_naru.start()
    api = Api(fresh_naru.socket)
    for one in api.call("GET", "/containers/json?all=1"):
        api.remove(one["Id"])
    api.close()
    assert fresh_naru.stop() == 0
    assert fresh_naru.settled_leftovers() == []


def remove_quietly(api, name):
    try:
        api.remove(name)
    except (ApiError, OSError, EOFError):
        api.close()
