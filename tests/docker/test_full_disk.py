"""A data root with no space left: clear errors, nothing half-made, and everything works again once there is space."""

import json
import os
import re
import subprocess
import threading
import time

import archive
import pytest
from testkit.api import Api, ApiError
from testkit.engine import NARU
from testkit.small_disk import SmallDisk

NO_SPACE = "(?i)no space left|not enough space"


@pytest.fixture(scope="module")
def disk_engine(images, tmp_path_factory):
    if not os.path.exists(NARU):
        pytest.skip(f"{NARU} is not built")
    disk = SmallDisk(tmp_path_factory.mktemp("disk"))
    try:
        disk.engine.start()
        disk.engine.load(images + "/busybox.tar")
        yield disk
    finally:
        disk.close()


@pytest.fixture
def disk(disk_engine):
    """Each test begins and ends with space, without containers, and leaves the disk as full as it was."""
    before, images = disk_engine.used(), disk_engine.image_ids()
    yield disk_engine
    disk_engine.empty()
    disk_engine.engine.remove_all_containers()
    assert disk_engine.listed() == []
    assert disk_engine.image_ids() == images
    assert disk_engine.used() <= before + 256 * 1024, sorted(disk_engine.tree())


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An image with 20 MB that do not compress, in one file and in many."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "tree").mkdir()
    (folder / "tree" / "one").write_bytes(os.urandom(16 << 20))
    for number in range(400):
        (folder / "tree" / f"many{number}").write_bytes(os.urandom(10_000))
    subprocess.run(["tar", "-C", folder / "tree", "-cf", folder / "layer.tar", "."], check=True)
    layer = archive.Layer(str(folder / "layer.tar"), "large")
    archive.write_docker_archive(str(folder / "image.tar"), "large:test", [layer], {"Cmd": ["x"]})
    return str(folder / "image.tar")


@pytest.mark.parametrize("room", [0, 1 << 20, 18 << 20], ids=["none", "little", "almost-enough"])
def test_an_image_that_does_not_fit_leaves_nothing(disk, large, room):
    disk.fill(leave=room)
    used, images, tree = disk.used(), disk.image_ids(), disk.tree()
    result = disk.engine.client("load", "-i", large)
    assert result.returncode != 0
    assert re.search(NO_SPACE, result.stderr), result
    assert disk.tree() == tree
    assert disk.used() <= used + 64 * 1024
    assert disk.image_ids() == images
    disk.empty()
    again = disk.engine.client("load", "-i", large)
    assert again.returncode == 0, again.stderr
    assert len(disk.image_ids()) == len(images) + 1
    assert disk.engine.client("rmi", "large:test").returncode == 0


def test_create_on_a_full_disk_makes_nothing(disk):
    disk.fill()
    tree = disk.tree()
    for number in range(3):
        with pytest.raises(ApiError) as caught:
            disk.api.create(["true"], name=f"full-{number}")
        assert caught.value.status == 500 and re.search(NO_SPACE, str(caught.value))
    assert disk.listed() == []
    assert disk.tree() == tree
    disk.empty()
    # The name was never taken.
    made = disk.api.create(["true"], name="full-0")
    disk.api.start(made)
    assert disk.api.wait(made) == 0


def test_start_on_a_full_disk_fails_whole_or_works_whole(disk):
    made = disk.api.create(["sleep", "100"])
    disk.fill()
    try:
        disk.api.start(made)
        started = True
    except ApiError as error:
        started = False
        assert error.status == 500 and re.search(NO_SPACE, str(error))
    state = disk.api.inspect(made)["State"]
    assert state["Running"] == started and (state["Pid"] > 0) == started
    disk.empty()
    if not started:
        disk.api.start(made)
    assert disk.api.inspect(made)["State"]["Running"]


@pytest.mark.parametrize("command,code", [(["no-such-command"], 127), (["/etc"], 126), (["true"], 0)], ids=["not-found", "not-executable", "honest"])
def test_who_waits_hears_of_a_start_on_a_full_disk(disk, command, code):
    """A start that fails where its record cannot be written must still wake those who wait for its end."""
    made = disk.api.create(command)
    heard = []

    def wait():
        api = Api(disk.engine.socket, timeout=60)
        try:
            heard.append(api.call("POST", f"/containers/{made}/wait?condition=next-exit"))
        except (ApiError, OSError) as error:
            heard.append(error)
        finally:
            api.close()

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.3)
    disk.fill()
    try:
        disk.api.start(made)
        assert code == 0
    except ApiError as error:
        # Docker's own status for a command that is not there; or the disk was the first obstacle.
        assert error.status in (400, 500), error
        code = code or 128
    waiter.join(60)
    assert not waiter.is_alive() and isinstance(heard[0], dict), heard
    assert heard[0]["StatusCode"] == code or re.search(NO_SPACE, str(heard[0])), heard
    disk.empty()
    wait_for(lambda: not disk.api.inspect(made)["State"]["Running"])


def test_removal_needs_no_space(disk):
    running, created = disk.api.create(["sleep", "100"]), disk.api.create(["true"])
    disk.api.start(running)
    disk.fill()
    disk.api.remove(created)
    disk.api.remove(running)
    assert disk.listed() == []


def test_volume_on_a_full_disk_is_not_made(disk):
    disk.fill()
    # A directory may find room in a block that is there already: as many as it takes.
    with pytest.raises(ApiError) as caught:
        for number in range(2000):
            disk.api.call("POST", "/volumes/create", {"Name": f"full-{number}"})
    assert caught.value.status == 500 and re.search(NO_SPACE, str(caught.value))
    volumes = {one["Name"] for one in disk.api.call("GET", "/volumes")["Volumes"] or []}
    assert volumes == {f"full-{made}" for made in range(number)}
    for name in volumes:
        disk.api.call("DELETE", f"/volumes/{name}")
    disk.empty()
    disk.api.call("POST", "/volumes/create", {"Name": f"full-{number}"})
    disk.api.call("DELETE", f"/volumes/full-{number}")


def test_a_log_loses_lines_only_while_the_disk_is_full(disk):
    # Long lines: the last block's room is soon used up.
    script = 'i=0; while :; do i=$((i+1)); printf "%d %0900d\\n" $i 0; usleep 10000; done'
    made = disk.api.create(["sh", "-c", script])
    disk.api.start(made)
    pid = disk.api.inspect(made)["State"]["Pid"]
    wait_for(lambda: len(numbers(disk, made)) > 10)
    before = numbers(disk, made)
    disk.fill()
    time.sleep(0.5)
    during = numbers(disk, made)
    time.sleep(0.3)
    assert numbers(disk, made) == during, "the disk was not full"
    assert disk.api.inspect(made)["State"]["Pid"] == pid
    disk.empty()
    wait_for(lambda: len(numbers(disk, made)) > len(during) + 20)
    disk.api.call("POST", f"/containers/{made}/kill")
    disk.api.wait(made)
    whole = numbers(disk, made)
    gaps = [(one, other) for one, other in zip(whole, whole[1:]) if other != one + 1]
    # A line or two may find the room that a rewritten record has left.
    assert whole[0] == 1 and gaps[0][0] >= before[-1] and gaps[-1][0] == during[-1], gaps
    told = [int(count) for count in re.findall(rb"naru: (\d+) messages were lost here", disk.api.logs(made))]
    assert sum(told) == sum(other - one - 1 for one, other in gaps), "what is missing is counted in the log"
    # Nothing torn is left in the file either.
    for name in disk.tree():
        if name.endswith("-json.log"):
            with open(disk.root + name) as file:
                assert all(json.loads(line)["log"].endswith("\n") for line in file)


def numbers(disk, container):
    return [int(line.split()[0]) for line in disk.api.logs(container).splitlines() if not line.startswith(b"naru:")]


def wait_for(condition, seconds=40):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.02)


OBEDIENT = ["sh", "-c", "trap 'exit 7' TERM; touch /dev/shm/up; while :; do usleep 20000; done"]


@pytest.mark.parametrize("daemon_dies", [False, True], ids=["daemon-stays", "daemon-killed"])
def test_an_exit_on_a_full_disk_is_recorded_later(disk, daemon_dies):
    made = disk.api.create(OBEDIENT)
    disk.api.start(made)
    pid = disk.api.inspect(made)["State"]["Pid"]
    wait_for(lambda: disk.api.exec(made, ["test", "-e", "/dev/shm/up"])[1] == 0)
    disk.fill()
    disk.api.call("POST", f"/containers/{made}/kill?signal=TERM")
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    if daemon_dies:
        disk.restart()
    time.sleep(0.3)
    disk.empty()
    assert disk.api.wait(made) == 7
    wait_for(lambda: not disk.api.inspect(made)["State"]["Running"])
    disk.restart()
    state = disk.api.inspect(made)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 7)


def test_the_daemon_killed_on_a_full_disk_starts_again(disk):
    running, created = disk.api.create(["sleep", "100"]), disk.api.create(["true"])
    disk.api.start(running)
    pid = disk.api.inspect(running)["State"]["Pid"]
    disk.fill()
    disk.restart()
    assert disk.api.inspect(running)["State"]["Pid"] == pid
    assert {one["Id"] for one in disk.listed()} == {running, created}
    assert disk.api.exec(running, ["echo", "hi"]) == (b"hi\n", 0)
    disk.empty()
    disk.api.start(created)
    assert disk.api.wait(created) == 0
    again = disk.api.create(["true"])
    disk.api.start(again)
    assert disk.api.wait(again) == 0


def test_a_container_that_fills_the_disk_harms_only_itself(disk):
    made = disk.api.create(["sh", "-c", "dd if=/dev/zero of=/big bs=1M; echo $?; exec sleep 100"])
    disk.api.start(made)
    # The log may have no room for the exit code: what is written to it is lost, not the container.
    wait_for(lambda: disk.free() < 1 << 20 and disk.api.exec(made, ["pidof", "dd"])[1] == 1)
    assert disk.api.inspect(made)["State"]["Running"]
    disk.api.remove(made)
    wait_for(lambda: disk.free() > 16 << 20)
    ran = disk.engine.client("run", "--rm", "busybox:test", "echo", "goes on")
    assert ran.stdout == "goes on\n", ran.stderr
