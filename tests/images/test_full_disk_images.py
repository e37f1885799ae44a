"""A disk that gets full in the middle of a pull or a load: the client is told, nothing half-made stays but what a
second pull goes on with, and what runs goes on."""

import json
import os
import re
import subprocess

import archive
import pytest
from testkit.engine import DOCKER_20, NARU, NEWEST_DOCKER
from testkit.registry import FakeRegistry, Image
from testkit.small_disk import SmallDisk

CLIENTS = {"newest": NEWEST_DOCKER, "cli20": DOCKER_20, "naru": NARU}
NO_SPACE = "no space left on device"
MIB = 1 << 20
# 70 MB that do not compress: as much again is needed for the files.
SIZES = (15_000_000, 30_000_000, 25_000_000)


class World:
    """An engine on a small disk with a container that runs, and a registry beside it."""

    def __init__(self, folder, images):
        self.disk = SmallDisk(folder, 256 * MIB, label="f")
        self.naru = self.disk.engine
        self.naru.start()
        self.naru.load(images + "/busybox.tar")
        self.registry = FakeRegistry(self.naru.scope)
        self.image = Image(SIZES, seed=77)
        self.registry.put_image("large", "1", self.image)
        self.name = self.registry.host + "/large:1"
        self.running = self.disk.api.create(["sh", "-c", "while :; do usleep 100000; done"])
        self.disk.api.start(self.running)
        self.pid = self.pid_now()

    def close(self):
        self.registry.close()
        self.disk.close()

    def pid_now(self):
        return self.disk.api.inspect(self.running)["State"]["Pid"]

    def runs_on(self):
        return self.pid_now() == self.pid and self.disk.api.exec(self.running, ["echo", "on"]) == (b"on\n", 0)

    def files(self):
        """What the store holds. The running container's own files are not its."""
        return {path for path in self.disk.tree() if not path.startswith("/containers/")}

    def downloaded(self):
        """Bytes of layers that a pull has left to go on with."""
        folder = self.disk.root + "/downloads"
        return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))

    def steps(self, method, path, *options):
        """The objects of a progress stream, as the API sends them."""
        answer = self.naru.scope.run(
            "curl", "-s", "--unix-socket", self.naru.socket, "-X", method, *options, "http://engine/v1.44" + path)
        return [json.loads(line) for line in answer.stdout.splitlines()]


@pytest.fixture(scope="module")
def world(images, tmp_path_factory):
    if not os.path.exists(NARU):
        pytest.skip(f"{NARU} is not built")
    world = World(tmp_path_factory.mktemp("disk"), images)
    yield world
    world.close()


@pytest.fixture(autouse=True)
def calm(world):
    """Each test leaves the disk as it was."""
    files, used = world.files(), world.disk.used()
    yield
    world.disk.empty()
    world.naru.client("rmi", "-f", world.name, "large:test")
    assert world.files() == files
    assert world.disk.used() <= used + 256 * 1024


# Room for: nothing at all; the first bytes; some layers; every blob but not every file; all but the last files.
ROOM = {"nothing": 0, "little": MIB, "a third": 50 * MIB, "the blobs": 90 * MIB, "nearly all": 135 * MIB}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("room", ROOM)
def test_a_pull_goes_on_where_the_disk_was_full(world, room, client):
    before = world.files()
    world.disk.fill(leave=ROOM[room])
    refused = world.naru.client("pull", world.name, program=CLIENTS[client])
    assert refused.returncode == 1 and NO_SPACE in refused.stderr, refused
    assert {path for path in world.files() if not path.startswith("/downloads/")} == before
    assert world.naru.client("image", "inspect", world.name).returncode == 1
    assert world.runs_on()
    kept = world.downloaded()
    total = sum(map(len, world.image.layers))
    assert ROOM[room] == 0 or kept > 0
    world.disk.empty()
    world.registry.forget_requests()
    pulled = world.naru.client("pull", world.name, program=CLIENTS[client])
    assert pulled.returncode == 0, pulled.stderr
    assert world.registry.bytes_sent("/blobs/") == total - kept + len(world.image.config)
    assert world.downloaded() == 0
    # Every byte is what the registry has: a save makes the archives again and compares their digests.
    saved = world.naru.client("save", "-o", world.naru.base + "/saved.tar", world.name)
    assert saved.returncode == 0, saved.stderr
    assert world.runs_on()


def test_the_progress_of_a_pull_ends_with_the_error(world):
    world.disk.fill(leave=40 * MIB)
    steps = world.steps("POST", f"/images/create?fromImage={world.registry.host}/large&tag=1")
    assert NO_SPACE in steps[-1]["error"] and steps[-1]["errorDetail"]["message"] == steps[-1]["error"]
    complete = [step["id"] for step in steps if step.get("status") == "Download complete"]
    sizes = {layer["digest"][7:19]: layer["size"] for layer in world.image.manifest["layers"]}
    for name in os.listdir(world.disk.root + "/downloads"):
        if name[:12] in complete:
            assert os.path.getsize(f"{world.disk.root}/downloads/{name}") == sizes[name[:12]]
    world.disk.empty()
    assert world.naru.client("pull", "-q", world.name).returncode == 0


def test_a_pull_goes_on_after_a_full_disk_and_a_killed_daemon(world):
    world.disk.fill(leave=60 * MIB)
    assert NO_SPACE in world.naru.client("pull", world.name).stderr
    world.disk.restart()
    kept = world.downloaded()
    world.disk.empty()
    world.registry.forget_requests()
    assert world.naru.client("pull", "-q", world.name).returncode == 0
    fetched = world.registry.bytes_sent("/blobs/")
    assert fetched == sum(map(len, world.image.layers)) - kept + len(world.image.config)
    assert world.runs_on()


@pytest.fixture(scope="module", params=["gzip", "plain"])
def large(request, tmp_path_factory):
    """An archive of 40 MB that do not compress, in two layers; its compressed layers are kept as they are."""
    folder = tmp_path_factory.mktemp("large")
    layers = []
    for number in range(2):
        tree = folder / f"tree{number}"
        tree.mkdir()
        (tree / f"one{number}").write_bytes(os.urandom(12 * MIB))
        for small in range(800):
            (tree / f"small{number}-{small}").write_bytes(os.urandom(10_000))
        subprocess.run(["tar", "-C", tree, "-cf", folder / f"{number}.tar", "."], check=True)
        layers.append(archive.Layer(str(folder / f"{number}.tar"), f"layer {number}"))
    path = str(folder / "image.tar")
    if request.param == "gzip":
        archive.write_oci_layout(path, "large:test", layers, {"Cmd": ["x"]}, "gzip", str(folder))
    else:
        archive.write_docker_archive(path, "large:test", layers, {"Cmd": ["x"]})
    return path


@pytest.mark.parametrize("room", [0, MIB, 22 * MIB, 36 * MIB])
def test_a_load_that_does_not_fit_leaves_nothing(world, large, room):
    before, used = world.files(), world.disk.used()
    world.disk.fill(leave=room)
    steps = world.steps("POST", "/images/load", "-T", large)
    assert NO_SPACE in steps[-1]["error"] and steps[-1]["errorDetail"]["message"] == steps[-1]["error"]
    assert world.files() == before
    assert world.runs_on()
    world.disk.empty()
    assert world.disk.used() <= used + 256 * 1024
    loaded = world.naru.client("load", "-i", large)
    assert re.search("Loaded image: large:test", loaded.stdout), loaded.stderr
    saved = world.naru.client("save", "-o", world.naru.base + "/saved.tar", "large:test")
    assert saved.returncode == 0, saved.stderr
