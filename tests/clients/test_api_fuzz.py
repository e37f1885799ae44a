"""The API driven by requests made from its own description, over HTTP/1.1 and HTTP/2, for a bounded time.

`NARU_FUZZ_SECONDS` says for how long; with 0 only what is not left to chance is tested. `NARU_FUZZ_SEED` does the same
requests again, and `NARU_FUZZ_NUMBER` one of them.
"""

import contextlib
import json
import os
import random
import re
import socket
import time

import pytest
from description import Description
from hostile import ENDED, IMAGE, NETWORK, RUNNING, VOLUME, Maker
from http2 import Http2, sayable
from testkit.api import Api, ApiError
from testkit.engine import NARU, Naru

SECONDS = float(os.environ.get("NARU_FUZZ_SECONDS", 10))
SEED = int(os.environ.get("NARU_FUZZ_SEED", time.time()))
# The longest an answer's head may take. What waits by its nature (a stop with a grace period, a sample of a second) stays far below.
PATIENCE = 60
# What grows while it learns its paths, caches included; a leak of a KiB a request would be several times as much.
MEMORY_MAX = 48 << 20
OPEN_FILES_MAX = 16

# Server errors that a request is rightly answered with, as Docker answers them: there is no such thing here, or the
# container could not be started, or an outside could not be reached.
PLANNED = [
    (501, "."), (503, "This node is not|only valid for cluster volumes"), (500, "cannot connect to registry"),
]


def protected(images):
    """An engine for which the host's files can only be read, but for its own folders."""
    engine = Naru()
    script = f"""
        set -e
        for path in {engine.base} {engine.exec_root}; do mount --bind $path $path; done
        mount -t tmpfs tmpfs /run
        for path in / /dev/shm; do mount -o remount,bind,ro $path; done
        """
    result = engine.scope.shell(script)
    assert result.returncode == 0, result.stderr
    engine.mounts_before = engine.scope.mounts()
    engine.load_again = lambda: engine.load(images + "/busybox.tar")
    engine.start()
    engine.load_again()
    return engine


@pytest.fixture(scope="module")
def engine(images):
    if not os.path.exists(NARU):
        pytest.skip(f"{NARU} is not built")
    engine = protected(images)
    try:
        yield engine
        engine.remove_all_containers()
        engine.stop()
        assert engine.settled_leftovers() == []
    finally:
        engine.close()


def restore(engine):
    """Makes what the requests name, where they have removed it."""
    api = Api(engine.socket, timeout=60)
    if not any(IMAGE in (one["RepoTags"] or []) for one in api.call("GET", "/images/json")):
        engine.load_again()
    with contextlib.suppress(ApiError):
        api.call("POST", f"/containers/{RUNNING}/unpause")
    for one in api.call("GET", "/containers/json?all=1"):
        names = one["Names"]
        if names != ["/" + RUNNING] and names != ["/" + ENDED]:
            with contextlib.suppress(ApiError):
                api.remove(one["Id"])
    for name, host, command in ((RUNNING, {"NetworkMode": "none"}, ["sleep", "100000"]), (ENDED, {"NetworkMode": "none"}, ["true"])):
        with contextlib.suppress(ApiError):
            # Neither hears SIGTERM: what waits for the end of its grace must not use up the time.
            api.create(command, name=name, host=host, StopTimeout=1)
        with contextlib.suppress(ApiError):
            api.start(name)
    for network in api.call("GET", "/networks"):
        if network["Name"] not in ("bridge", "host", "none", NETWORK):
            with contextlib.suppress(ApiError):
                api.call("DELETE", f"/networks/{network['Id']}")
    with contextlib.suppress(ApiError):
        api.call("POST", "/networks/create", {"Name": NETWORK, "CheckDuplicate": True})
    for volume in api.call("GET", "/volumes")["Volumes"] or []:
        if volume["Name"] != VOLUME:
            with contextlib.suppress(ApiError):
                api.call("DELETE", f"/volumes/{volume['Name']}?force=1")
    with contextlib.suppress(ApiError):
        api.call("DELETE", "/naru/volumes/trash")
    api.call("POST", "/volumes/create", {"Name": VOLUME})
    api.close()


def memory(engine):
    with open(f"/proc/{engine.process.pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) << 10


def open_files(engine):
    return len(os.listdir(f"/proc/{engine.process.pid}/fd"))


def settled(measure, enough, seconds=10):
    deadline = time.monotonic() + seconds
    while (value := measure()) > enough and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


def answer_of(engine, request):
    """Sends the request byte by byte. Returns the head and the beginning of the body, or None if the engine hung up."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(engine.socket)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request.bytes())
            connection.shutdown(socket.SHUT_WR)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while b"\r\n\r\n" not in data and len(data) < 1 << 16:
                chunk = connection.recv(1 << 16)
                if not chunk:
                    break
                data += chunk
            # Of an error the whole of it, which is short.
            while data[9:10] in (b"4", b"5") and (chunk := connection.recv(1 << 16)):
                data += chunk
        return data or None


def complaint(operation, status, body):
    """Says what is wrong with an answer, or nothing."""
    if not 100 <= status < 600:
        return f"status {status}"
    if status < 400 or status in (413, 431):
        return None
    if operation.method == "HEAD":
        return None if status < 500 else f"{status}"
    text = body.decode(errors="replace")
    if status >= 500 and not any(status == planned and re.search(reason, text) for planned, reason in PLANNED):
        return f"{status}: {text[:500]}"
    return None


def looked_at(engine, maker, number):
    request = maker.request(number)
    try:
        data = answer_of(engine, request)
    except TimeoutError:
        return f"number {number} got no answer in {PATIENCE} s: {request}"
    if data is None:
        return None
    if not data.startswith(b"HTTP/1."):
        return f"number {number} got no HTTP: {data[:100]!r}: {request}"
    head, _, body = data.partition(b"\r\n\r\n")
    wrong = complaint(request.operation, int(head[9:12]), body)
    return wrong and f"number {number}: {wrong}\n    of {request}"


def log_of(engine):
    with open(engine.log_path, "rb") as file:
        return file.read().decode(errors="replace")


def check_alive(engine, process):
    assert engine.process.poll() is None and engine.process.pid == process and engine.answers()
    log = log_of(engine)
    for word in ("panicked", "a handler did not finish", "stack overflow"):
        assert word not in log, log[max(0, log.index(word) - 2000):][:6000]


def drive(engine, seconds, ask_one, enough):
    """Asks one request after another for so long, and somewhat longer until there were enough. Returns how many, and what was wrong."""
    wrong, number, process = [], 0, engine.process.pid
    end = time.monotonic() + seconds
    measured = None
    while (time.monotonic() < end or number < enough and time.monotonic() < end + 60) and len(wrong) < 20:
        if number % 200 == 0:
            restore(engine)
            check_alive(engine, process)
        if measured is None and time.monotonic() > end - seconds * 0.7:
            # Behind it the first times, whose caches stay.
            measured = memory(engine)
        number, said = ask_one(number)
        wrong += said
    check_alive(engine, process)
    restore(engine)
    return number, wrong, measured


def check_nothing_grew(engine, files_before, measured):
    files = settled(lambda: open_files(engine), files_before + OPEN_FILES_MAX)
    assert files <= files_before + OPEN_FILES_MAX, f"{files_before} open files before, {files} after"
    grown = settled(lambda: memory(engine), (measured or 0) + MEMORY_MAX) - (measured or 0)
    assert grown <= MEMORY_MAX, f"{grown >> 20} MiB more"


by_chance = pytest.mark.skipif(not SECONDS, reason="NARU_FUZZ_SECONDS is 0")


@by_chance
@pytest.mark.seconds(int(SECONDS * 2 + 240))
def test_requests_from_the_description(engine):
    maker = Maker(Description(), SEED)
    print(f"seed {SEED}")
    restore(engine)
    if one := os.environ.get("NARU_FUZZ_NUMBER"):
        print(maker.request(int(one)), answer_of(engine, maker.request(int(one))))
        return
    files = open_files(engine)

    def ask_one(number):
        said = looked_at(engine, maker, number)
        return number + 1, [said] if said else []

    enough = 3 * len(maker.description.operations)
    number, wrong, measured = drive(engine, SECONDS, ask_one, enough)
    print(f"{number} requests")
    assert not wrong, f"seed {SEED}:\n" + "\n".join(wrong)
    assert number >= enough, f"{number} requests are too few to say anything"
    check_nothing_grew(engine, files, measured)


@by_chance
@pytest.mark.seconds(int(SECONDS * 2 + 240))
def test_the_same_over_http2(engine):
    maker = Maker(Description(), SEED + 1)
    restore(engine)
    files = open_files(engine)
    chance = random.Random(SEED)

    def ask_some(number):
        wrong = []
        with Http2(engine.socket) as client:
            streams = {}
            for _ in range(chance.randrange(1, 12)):
                request = maker.request(number)
                number += 1
                if not client.is_over:
                    streams[client.send(request.operation.method, request.target, sayable(request.headers), request.body)] = request
            late = client.until_answered(streams, PATIENCE)
            wrong += [f"number {number}: no answer in {PATIENCE} s to {streams[stream]}" for stream in late]
            client.receive(0)
            for stream, status in client.answers.items():
                if said := complaint(streams[stream].operation, status, client.bodies.get(stream, b"")):
                    if status >= 500 and stream not in client.ended:
                        client.until_ended(stream)
                        said = complaint(streams[stream].operation, status, client.bodies.get(stream, b""))
                    # Another stream's fault ended the connection before the reason came.
                    is_cut_off = client.is_over and not client.bodies.get(stream)
                    if said and not is_cut_off:
                        wrong.append(f"{said}\n    of {streams[stream]}")
        return number, wrong

    enough = len(maker.description.operations)
    number, wrong, measured = drive(engine, SECONDS, ask_some, enough)
    print(f"{number} requests")
    assert not wrong, f"seed {SEED}:\n" + "\n".join(wrong)
    assert number >= enough, f"{number} requests are too few to say anything"
    check_nothing_grew(engine, files, measured)


def test_http2_is_served_like_http1(engine):
    """What a client of either asks, it is told alike."""
    api = Api(engine.socket)
    restore(engine)
    with Http2(engine.socket) as client:
        for path in ("/v1.41/containers/json?all=1", f"/v1.41/images/{IMAGE}/json", "/v1.41/networks", "/_ping", "/v1.41/nosuch", "/v1.41/containers/nosuch/json"):
            status, body = client.ask("GET", path)
            assert (status, body) == api.request("GET", path), path
        made = json.dumps({"Image": IMAGE, "Cmd": ["sh", "-c", "echo out"], "HostConfig": {"NetworkMode": "none"}}).encode()
        kind = [(b"content-type", b"application/json")]
        status, body = client.ask("POST", "/v1.41/containers/create?name=by-http2", made, kind)
        assert status == 201, body
        # Many at once on one connection: a wait, its start, and what it says.
        waiting = client.send("POST", b"/v1.41/containers/by-http2/wait?condition=next-exit")
        assert client.until_answered([waiting], 10) == []
        assert client.ask("POST", "/v1.41/containers/by-http2/start") == (204, b"")
        assert json.loads(client.until_ended(waiting)[1])["StatusCode"] == 0
        status, body = client.ask("GET", "/v1.41/containers/by-http2/logs?stdout=1")
        assert status == 200 and body.endswith(b"out\n")
        # Nobody can leave HTTP on a connection that others share; what was said is sent all the same.
        attached = client.send("POST", b"/v1.41/containers/by-http2/attach?stdout=1&logs=1")
        assert client.until_ended(attached)[0] == 200
        big = b'{"Image":"' + b"x" * (9 << 20) + b'"}'
        asked = client.send("POST", b"/v1.41/containers/create", kind, big)
        assert client.until_ended(asked)[0] in (400, 413)
        assert client.ask("DELETE", "/v1.41/containers/by-http2") == (204, b"")
    api.close()


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = frame(4, 0, 0, b"")


def get(path):
    """`:method GET`, `:scheme http`, `:path`, `:authority a`, in HPACK."""
    return b"\x82\x86\x04" + bytes([len(path)]) + path + b"\x01\x01a"


PING_HEADERS = get(b"/_ping")
FLOODS = {
    "settings": [frame(4, 0, 0, b"\0\4\0\0\0\1")] * 20_000,
    "pings": [frame(6, 0, 0, b"12345678")] * 20_000,
    "headers without an end": [frame(1, 0, 1, PING_HEADERS)] + [frame(9, 0, 1, b"\x40\x01a\x7f\x80\x01" + b"b" * 255)] * 5_000,
    "rapid reset": [frame(1, 5, 2 * number + 1, PING_HEADERS) + frame(3, 0, 2 * number + 1, b"\0\0\0\x08") for number in range(20_000)],
    "resets of what waits": [frame(1, 5, 2 * number + 1, get(b"/v1.41/containers/fuzz-running/stats?stream=0")) + frame(3, 0, 2 * number + 1, b"\0\0\0\x08") for number in range(5_000)],
    "empty data": [frame(1, 4, 1, PING_HEADERS)] + [frame(0, 0, 1, b"")] * 20_000,
    "windows": [frame(8, 0, 0, b"\x7f\xff\xff\xff")] * 3, "window of nothing": [frame(8, 0, 0, b"\0\0\0\0")], "priorities": [frame(2, 0, 2 * number + 1, b"\0\0\0\0\x10") for number in range(20_000)],
    "unknown frames": [frame(200, 255, 7, b"x" * 1000)] * 5_000, "stream of nobody": [frame(0, 1, 99, b"x")], "even stream": [frame(1, 5, 2, PING_HEADERS)], "a frame too long": [frame(0, 0, 1, b"x" * 70_000)],
    "bad compression": [frame(1, 5, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff")], "a bomb of headers": [frame(1, 4, 1, PING_HEADERS + b"\x40\x01a\x7f\x81\x1e" + b"b" * 4_000)] + [frame(1, 5, 2 * number + 3, PING_HEADERS + b"\xbe" * 8_000) for number in range(200)],
    "no path": [frame(1, 5, 1, b"\x82\x86\x01\x01a")], "two paths": [frame(1, 5, 1, PING_HEADERS + b"\x84")], "connection header": [frame(1, 5, 1, PING_HEADERS + b"\x00\x0aconnection\x05close")], "half a frame": [frame(1, 5, 1, PING_HEADERS)[:12]],
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_of_http2(engine, name):
    """The engine ends such a connection or bears it, and others do not notice."""
    restore(engine)
    files, before, process = open_files(engine), memory(engine), engine.process.pid
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(engine.socket)
            data = PREFACE + SETTINGS + b"".join(FLOODS[name])
            # Half of the sender's floods never read what comes back.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError, BlockingIOError):
                connection.setblocking(False)
                deadline = time.monotonic() + 3
                while data and time.monotonic() < deadline:
                    try:
                        data = data[connection.send(data[:1 << 16]):]
                    except BlockingIOError:
                        with contextlib.suppress(BlockingIOError):
                            while connection.recv(1 << 16):
                                pass
                        time.sleep(0.001)
            assert engine.answers()
    check_alive(engine, process)
    assert settled(lambda: open_files(engine), files + OPEN_FILES_MAX) <= files + OPEN_FILES_MAX
    assert settled(lambda: memory(engine) - before, MEMORY_MAX) <= MEMORY_MAX


def test_a_reader_that_does_not_read_costs_little(engine):
    """A hundred streams, each wanting an image of a megabyte, and no window for any of it."""
    restore(engine)
    before = memory(engine)
    with Http2(engine.socket) as client:
        streams = [client.send("GET", f"/v1.41/images/{IMAGE}/get".encode()) for _ in range(90)]
        client.until_answered(streams, PATIENCE)
        assert memory(engine) - before < 90 * (1 << 20), "it holds what nobody reads"
        assert Api(engine.socket).call("GET", "/containers/json") is not None
