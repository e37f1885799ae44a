"""Power loss: what the disk holds at some moment, without what was still to be written, is what the next daemon finds.

The data root is an ext4 in a file on a loop device. What the filesystem has not sent to its device is not in that
file, so that a copy of the file is what a machine without power would find. The engine that opens the copy is another.
"""

import shutil
import subprocess
import time

import pytest
from testkit.api import Api
from testkit.engine import Naru

SIZE = 256 << 20


def mount(engine, image):
    # Nothing is sent early: without a sync the filesystem would keep it for 300 s.
    if engine.scope.run("mount", "-o", "loop,commit=300", image, engine.data_root).returncode:
        pytest.skip("no loop devices here")
    engine.mounts_before = engine.scope.mounts()


class Machine:
    """An engine on a disk of its own whose power can be cut."""

    def __init__(self, folder):
        self.folder = folder
        self.image = str(folder / "disk.img")
        with open(self.image, "wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", self.image], check=True)
        self.engine = Naru()
        mount(self.engine, self.image)
        self.engine.start()
        self.after = None

    def cut_power(self):
        """Copies what the device has been sent and starts another engine on it."""
        copy = str(self.folder / "after.img")
        subprocess.run(["cp", "--sparse=always", self.image, copy], check=True)
        self.after = Naru()
        # At the same path, in namespaces of its own: records name it.
        self.after.data_root = self.engine.data_root
        mount(self.after, copy)
        self.after.start()
        return self.after

    def close(self):
        for engine in (self.after, self.engine):
            if engine is None:
                continue
            try:
                engine.remove_all_containers()
                engine.stop()
            finally:
                engine.scope.run("umount", engine.data_root)
                engine.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def machine(tmp_path, images):
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def run(engine, *command):
    result = engine.client("run", "--rm", "--network", "none", "busybox:test", *command)
    return result.stdout, result.returncode


def test_a_loaded_image_is_there_after_power_loss(machine, images):
    """moby#30252, #35747: after a power loss all images were gone, or their layers' files empty."""
    machine.engine.load(images + "/busybox.tar")
    assert run(machine.cut_power(), "echo", "there") == ("there\n", 0)


@pytest.mark.parametrize("milliseconds", [5, 20, 60, 150, 400])
def test_power_lost_while_loading_leaves_all_or_nothing(machine, images, milliseconds):
    """moby#44909: a half-written layer made every later load of it fail."""
    command = machine.engine.scope.command(machine.engine.default_client(), "-H", machine.engine.host, "load", "-qi", images + "/busybox.tar")
    loading = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(milliseconds / 1000)
    after = machine.cut_power()
    loading.wait()
    listed = after.client("images", "-q").stdout.split()
    if listed:
        assert run(after, "echo", "there") == ("there\n", 0)
    # Whatever was found, the image can be loaded and runs.
    after.load(images + "/busybox.tar")
    assert run(after, "echo", "again") == ("again\n", 0)


def test_containers_of_more_than_a_second_ago_are_there(machine, images):
    """A record is synced within a second of being written; a volume's name with it."""
    machine.engine.load(images + "/busybox.tar")
    api = Api(machine.engine.socket)
    api.call("POST", "/volumes/create", {"Name": "kept", "Labels": {"a": "b"}})
    made = api.create(["echo", "hi"], name="kept", host={"Binds": ["kept:/v"], "NetworkMode": "none"})
    running = api.create(["sleep", "1000"], name="was-running", host={"NetworkMode": "none"})
    api.start(running)
    time.sleep(3)
    api.create(["true"], name="perhaps")
    after = Api(machine.cut_power().socket)
    assert after.inspect("kept")["Id"] == made
    assert after.call("GET", "/volumes/kept")["Labels"] == {"a": "b"}
    state = after.inspect("was-running")["State"]
    assert state["Status"] in ("exited", "created"), "its process cannot have lived on"
    for name in ("kept", "was-running"):
        after.start(name)
    assert after.wait("kept") == 0
    names = {one["Names"][0] for one in after.call("GET", "/containers/json?all=1")}
    assert names - {"/perhaps"} == {"/kept", "/was-running"}
    api.close()
    after.close()
