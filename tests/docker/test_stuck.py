"""One container that is stuck delays no request about anything else, and few about itself.

Nothing here is timed: what is stuck stays so until everything else has been answered.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from urllib.parse import quote

import pytest
from testkit import stuck_files
from testkit.api import Api, ApiError
from testkit.engine import is_alive

# What answers at all answers in a hundredth of this; what is stuck never does.
PATIENCE = 30
ALONE = {"NetworkMode": "none"}


@pytest.fixture(scope="module")
def engine(busybox_naru):
    yield busybox_naru
    busybox_naru.remove_all_containers()


@pytest.fixture
def api(engine):
    api = Api(engine.socket, timeout=PATIENCE)
    yield api
    api.close()
    engine.remove_all_containers()


class Asked:
    """A request in a thread of its own, which may never be answered while the test looks."""

    def __init__(self, engine, method, path, body=None):
        self.answer = None
        self.thread = threading.Thread(target=self.ask, args=(engine, method, path, body), daemon=True)
        self.thread.start()

    def ask(self, engine, method, path, body):
        api = Api(engine.socket, timeout=110)
        with contextlib.suppress(ApiError):
            self.answer = api.call(method, path, body)
        api.close()

    def finish(self):
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "not answered although nothing is stuck any more"


@contextlib.contextmanager
def paused(engine, api):
    api.create(["sleep", "1000"], name="stuck", host=ALONE)
    api.start("stuck")
    api.call("POST", "/containers/stuck/pause")
    try:
        yield []
    finally:
        api.call("POST", "/containers/stuck/unpause")


@contextlib.contextmanager
def frozen_by_another(engine, api):
    """The engine does not know that it is frozen, and nothing it asks of it happens."""
    api.create(["sleep", "1000"], name="stuck", host=ALONE)
    api.start("stuck")
    with open(f"/proc/{api.inspect('stuck')['State']['Pid']}/cgroup") as file:
        path = next((line.strip().split(":", 2)[2] for line in file if ":freezer:" in line), None)
    if path is None:
        pytest.skip("no freezer of version 1 here")
    state = f"/sys/fs/cgroup/freezer{path}/freezer.state"
    with open(state, "w") as file:
        file.write("FROZEN")
    try:
        yield [Asked(engine, "POST", "/containers/stuck/exec", {"Cmd": ["true"]}), Asked(engine, "POST", "/containers/stuck/stop?t=0")]
    finally:
        # Its end may have come, and with it that of the file.
        with contextlib.suppress(OSError), open(state, "w") as file:
            file.write("THAWED")


@contextlib.contextmanager
def keeper_stopped(engine, api):
    """The process that stands between the engine and the container answers nothing."""
    if engine.name != "naru":
        pytest.skip("Docker has no keepers")
    api.create(["sleep", "1000"], name="stuck", host=ALONE)
    api.start("stuck")
    keeper = engine.keeper("stuck")
    os.kill(keeper, signal.SIGSTOP)
    try:
        yield [Asked(engine, "POST", "/containers/stuck/exec", {"Cmd": ["true"]}), Asked(engine, "POST", "/containers/stuck/resize?h=10&w=10"), Asked(engine, "POST", "/containers/stuck/attach?stdout=1&logs=1&stream=1"),
               Asked(engine, "POST", "/containers/stuck/stop?t=0"), Asked(engine, "POST", "/containers/stuck/kill")]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGCONT)


@contextlib.contextmanager
def uninterruptible(engine, api):
    """Its program sleeps in the kernel, where no signal reaches it."""
    folder = engine.base + "/stuck-files"
    os.makedirs(folder, exist_ok=True)
    server = subprocess.Popen(engine.scope.command(sys.executable, stuck_files.__file__, folder), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "mounted\n"
        api.create(["cat", "/m/file"], name="stuck", host={**ALONE, "Binds": [folder + ":/m"]})
        api.start("stuck")
        assert server.stdout.readline() == "reading\n"
        pid = api.inspect("stuck")["State"]["Pid"]
        asked = [Asked(engine, "POST", "/containers/stuck/stop?t=0"), Asked(engine, "DELETE", "/containers/stuck?force=1")]
        yield asked
        assert is_alive(pid), "it was not stuck"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
        for one in asked:
            one.finish()
        engine.scope.run("umount", "-l", folder)


@contextlib.contextmanager
def full_pipes(engine, api):
    """It writes without end, and its readers do not read."""
    api.create(["sh", "-c", "while :; do head -c 65536 /dev/zero | tr '\\0' x; echo; done"], name="stuck", host={**ALONE, "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}})
    readers = []
    for line in ("POST /containers/stuck/attach?stream=1&stdout=1&stderr=1", "GET /containers/stuck/logs?follow=1&stdout=1", "GET /containers/stuck/stats", "GET /events", "GET /containers/stuck/attach/ws?stream=1&stdout=1"):
        reader = socket.socket(socket.AF_UNIX)
        readers.append(reader)
        reader.connect(engine.socket)
        method, path = line.split()
        upgrade = "websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==" if "/ws" in path else "tcp"
        extra = f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\n" if "attach" in path else ""
        reader.sendall(f"{method} /v1.41{path} HTTP/1.1\r\nHost: e\r\n{extra}\r\n".encode())
    api.start("stuck")
    try:
        yield []
    finally:
        for reader in readers:
            reader.close()


@pytest.mark.parametrize("stuck", [paused, frozen_by_another, keeper_stopped, uninterruptible, full_pipes], ids=lambda stuck: stuck.__name__)
def test_one_stuck_container_delays_no_other_request(engine, api, stuck):
    other = api.create(["sh", "-c", "echo here; exec sleep 1000"], name="other")
    api.start(other)
    with stuck(engine, api) as asked:
        # Connections of their own: what hangs on one would not be seen on another.
        for look in (general_requests, requests_about_another, requests_that_name_the_stuck_one):
            fresh = Api(engine.socket, timeout=PATIENCE)
            look(fresh)
            fresh.close()
        several_at_once(engine)
    for one in asked:
        one.finish()


def general_requests(api):
    assert {"/stuck", "/other"} <= {one["Names"][0] for one in api.call("GET", "/containers/json?all=1")}
    for path in ("/containers/json?all=1&size=1", "/info", "/version", "/_ping", "/system/df", "/images/json", "/networks", "/volumes", "/events?since=1&until=2"):
        api.call("GET", path)
    assert {one["Names"][0] for one in api.call("GET", "/containers/json?filters=" + quote('{"status":["running"]}'))} >= {"/other"}
    api.call("POST", "/volumes/create", {"Name": "beside"})
    api.call("DELETE", "/volumes/beside")
    made = api.call("POST", "/networks/create", {"Name": "beside"})["Id"]
    api.call("DELETE", f"/networks/{made}")
    api.call("POST", "/containers/prune")
    api.call("POST", "/volumes/prune")


def requests_about_another(api):
    """A whole life beside it, and all that can be asked of one that runs."""
    made = api.create(["sh", "-c", "echo out; exit 3"], name="third")
    api.start(made)
    assert api.wait(made) == 3
    assert api.logs(made) == b"out\n"
    api.remove(made)
    assert api.exec("other", ["echo", "hi"]) == (b"hi\n", 0)
    for path in ("/containers/other/top", "/containers/other/stats?stream=0&one-shot=1", "/containers/other/json?size=1", "/containers/other/changes", "/containers/other/archive?path=/etc/passwd"):
        api.call("GET", path)
    for path in ("/containers/other/pause", "/containers/other/unpause", "/containers/other/rename?name=another", "/containers/another/rename?name=other", "/containers/other/restart?t=0"):
        api.call("POST", path)
    api.call("POST", "/containers/other/update", {"CpuShares": 100})


def requests_that_name_the_stuck_one(api):
    """What is known without asking it is told."""
    assert api.inspect("stuck")["Name"] == "/stuck"
    assert api.call("GET", "/containers/stuck/stats?stream=0&one-shot=1")["name"] == "/stuck"
    api.call("GET", "/containers/stuck/logs?stdout=1&tail=1")


def several_at_once(engine):
    """More lives at the same time than the machine has processors, or the engine threads."""
    failed = []

    def life(number):
        try:
            own = Api(engine.socket, timeout=PATIENCE)
            made = own.create(["true"], name=f"life-{number}", host=ALONE)
            own.start(made)
            assert own.wait(made) == 0
            own.remove(made)
            own.close()
        except Exception as error:  # noqa: BLE001
            failed.append(repr(error))

    threads = [threading.Thread(target=life, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
