"""Requests that no honest client sends: each is answered by its name, harms nothing and leaves nothing."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from urllib.parse import quote

import pytest
from testkit.api import Api, ApiError
from testkit.engine import describe_process

# Parked sets that may be there or not at any moment: the pool's ten, each a keeper and its stem.
PARKED_MAX = 20
FOLDERS = ("containers", "snapshots", "volumes")
HUGE = 9223372036854775807


class Raw:
    """One connection on which any bytes can be sent."""

    def __init__(self, engine):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(15)
        self.socket.connect(engine.socket)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Sends what the engine takes: it may answer and close before it has seen all."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)
        return self

    def answer(self):
        """Returns the status and body of the answer, or None where the engine hung up without one."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := self.socket.recv(65536):
                data += chunk
        if not data:
            return None
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), data[:200]
        return int(head[9:12]), body

    def head(self):
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.socket.recv(1)
        return int(data[9:12])


def request(method, path, body=None, *headers):
    lines = [f"{method} /v1.41{path} HTTP/1.1", "Host: engine", "Connection: close", *headers]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


def ask(engine, method, path, body=None, *headers):
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    with Raw(engine) as raw:
        return raw.send(request(method, path, body, *headers)).answer()


def create_body(host=None, **fields):
    return {"Image": "busybox:test", "Cmd": ["true"], "HostConfig": host or {}, **fields}


def folders(engine):
    """What is in the data root; what a removed container leaves empty is given a moment to go."""
    deadline = time.monotonic() + 20
    while any(name.endswith(".removed") for name in os.listdir(engine.data_root + "/containers")):
        assert time.monotonic() < deadline, "a removed container's directory stays"
        time.sleep(0.01)
    return {folder: sorted(os.listdir(f"{engine.data_root}/{folder}")) for folder in FOLDERS
            if os.path.isdir(f"{engine.data_root}/{folder}")}


def open_files(engine):
    return len(os.listdir(f"/proc/{engine.process.pid}/fd"))


def memory(engine):
    with open(f"/proc/{engine.process.pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) << 10


@pytest.fixture(scope="module")
def engine(busybox_naru):
    return busybox_naru


@pytest.fixture(autouse=True)
def nothing_left(engine):
    """Whatever a test sent, the engine answers as before and holds no more than before."""
    before, images = folders(engine), ask(engine, "GET", "/images/json")
    # The pool may be filling: its end is the measure.
    process, processes = engine.process.pid, set(engine.processes())
    yield
    engine.remove_all_containers()
    assert engine.answers() and engine.process.pid == process and engine.process.poll() is None
    assert folders(engine) == before
    assert ask(engine, "GET", "/images/json") == images
    new = [pid for pid in engine.processes() if pid not in processes]
    assert len(new) <= PARKED_MAX, [describe_process(pid) for pid in new]


def wrong_answers(engine, rows, wanted=range(400, 500)):
    """Sends every row; returns those not answered by an error object with a sentence in it."""
    wrong = []
    before = folders(engine)
    for name, method, path, *body in rows:
        answered = ask(engine, method, path, *body)
        if answered is None:
            wrong.append(f"{name}: hung up")
        elif answered[0] not in wanted or not message(answered[1]):
            wrong.append(f"{name}: {answered[0]} {answered[1][:200]}")
        if not engine.answers():
            raise AssertionError(f"{name}: the engine does not answer any more")
        if folders(engine) != before:
            wrong.append(f"{name}: left something behind")
            engine.remove_all_containers()
            before = folders(engine)
    return wrong


def refuse_all(engine, rows):
    wrong = wrong_answers(engine, rows)
    assert not wrong, "\n".join(wrong)


def message(body):
    try:
        return json.loads(body)["message"].strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def create(name, body):
    return name, "POST", "/containers/create", body


def test_an_honest_request_is_taken(engine):
    """Proves the rows' way of asking: what they get wrong is what they are refused for."""
    status, body = ask(engine, "POST", "/containers/create", create_body())
    assert status == 201, body
    assert len(folders(engine)["containers"]) >= 1
    assert wrong_answers(engine, [create("honest", create_body())]) != []


def test_malformed_bodies(engine):
    deep = b'{"Image":' + b"[" * 200_000
    rows = [create(name, body) for name, body in {
        "no JSON": b"hello", "half": b'{"Image":"busybox:test"', "nothing": b"", "two values": b'{"Image":"busybox:test"}{}',
        "array": b"[]", "number": b"7", "null": b"null", "text": b'"busybox:test"', "deep": deep, "deep and closed": deep + b"]" * 200_000 + b"}",
        "trailing comma": b'{"Image":"busybox:test",}', "NUL": b'{"Image":"busybox:test"}\0', "single quotes": b"{'Image':'busybox:test'}",
        "invalid UTF-8": b'{"Image":"busybox:test","Cmd":["\xff\xfe"]}', "lone surrogate": b'{"Image":"busybox:test","Cmd":["\\ud800"]}',
        "not a number": b'{"Image":"busybox:test","StopTimeout":NaN}', "no image": b"{}", "image null": b'{"Image":null}',
    }.items()]
    for path in ("/volumes/create", "/containers/x/exec"):
        rows.append((path, "POST", path, b"{"))
    refuse_all(engine, rows)


def test_wrong_types(engine):
    wrong = {
        "Image": [5, ["busybox:test"], {}, True], "Cmd": [5, {"a": 1}, [5], [None, 1], [["sh"]]], "Env": ["A=1", {"A": "1"}, [1]],
        "Tty": ["yes", 1, []], "Labels": [[], "a", {"a": 1}], "ExposedPorts": [[], "80", 80], "Volumes": [["/m"], "/m"],
        "HostConfig": ["x", 5], "User": [1000, []], "StopTimeout": ["10", 1.5, []], "Hostname": [5, []],
    }
    rows = [create(f"{key}={value!r}", create_body(**{key: value})) for key, values in wrong.items() for value in values]
    wrong = {
        "Binds": ["/a:/b", [5], {}], "Memory": ["64m", 1.5, [], True], "Mounts": [{}, ["x"], [{"Type": 5}]], "PortBindings": [[], {"80/tcp": "80"}, {"80/tcp": [{"HostPort": 80}]}],
        "Privileged": ["no", 0], "CapAdd": [5, [1]], "Ulimits": [{}, [{"Name": 1}], [{"Name": "nofile", "Soft": "1", "Hard": 1}]],
        "RestartPolicy": ["always", 5], "Devices": [["/dev/null"]], "Tmpfs": [["/t"]], "Sysctls": [[], {"a": 1}], "PidsLimit": ["1", 0.5],
    }
    rows += [create(f"HostConfig.{key}={value!r}", create_body({key: value})) for key, values in wrong.items() for value in values]
    refuse_all(engine, rows)


def test_an_array_is_no_object(engine):
    rows = [create(repr(host), create_body(host)) for host in ([], {"RestartPolicy": ["always", 0]}, {"LogConfig": ["none", {}]})]
    refuse_all(engine, [row for row in rows if row[0] != "[]"] + [create("[]", {**create_body(), "HostConfig": []})])


def test_unknown_words(engine):
    host = {
        "RestartPolicy": [{"Name": "sometimes"}, {"Name": "always", "MaximumRetryCount": 3}, {"Name": "on-failure", "MaximumRetryCount": -1}],
        "IpcMode": ["weird"], "PidMode": ["weird"], "UTSMode": ["weird"], "CgroupnsMode": ["weird"], "UsernsMode": ["weird"],
        "LogConfig": [{"Type": "nosuch"}, {"Type": "json-file", "Config": {"nosuch": "1"}}, {"Type": "json-file", "Config": {"max-file": "-1"}}],
        "Mounts": [[{"Type": "floppy", "Target": "/m"}], [{"Type": "bind", "Source": "/tmp", "Target": "/m", "BindOptions": {"Propagation": "sideways"}}],
                   [{"Type": "bind", "Source": "relative", "Target": "/m"}], [{"Type": "volume", "Source": "v", "Target": "relative"}], [{"Type": "volume", "Source": "v", "Target": "/"}], [{"Target": "/m"}]],
        "Binds": [["/tmp:/m:weird"], ["/tmp:relative"], ["/tmp:/m:ro:rw:z"], [":"], [""], ["/tmp:"]], "CapAdd": [["CAP_NOSUCH"]], "CapDrop": [["nosuch"]],
        "SecurityOpt": [["nosuch"], ["seccomp={"]], "Ulimits": [[{"Name": "nosuch", "Soft": 1, "Hard": 1}], [{"Name": "nofile", "Soft": 9, "Hard": 1}]],
        "PortBindings": [{"80/nosuch": [{"HostPort": "1"}]}, {"x/tcp": [{"HostPort": "1"}]}, {"80/tcp": [{"HostPort": "70000"}]}, {"80/tcp": [{"HostPort": "-1"}]},
                         {"80/tcp": [{"HostPort": "90-80"}]}, {"80/tcp": [{"HostPort": "1", "HostIp": "300.1.1.1"}]}, {"70000/tcp": []}],
        "ExtraHosts": [["nocolon"], ["a:300.1.1.1"]], "Dns": [["not an address"]], "Runtime": ["nosuch"], "CpusetCpus": ["a-b", "99999", "1-0", "0-18446744073709551616"],
        "DeviceCgroupRules": [["nonsense"]], "Devices": [[{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "q"}]],
    }
    rows = [create(f"HostConfig.{key}={value!r}", create_body({key: value})) for key, values in host.items() for value in values]
    rows += [create(f"{key}={value!r}", create_body(**{key: value})) for key, value in (
        ("StopSignal", "SIGNOPE"), ("ExposedPorts", {"80/nosuch": {}}), ("ExposedPorts", {"99999/tcp": {}}), ("WorkingDir", "relative"), ("Hostname", "a" * 300),
        ("Env", ["=x"]), ("Volumes", {"relative": {}}), ("MacAddress", "zz"), ("Image", "UPPER/Case"), ("Image", "a b"), ("Image", "x" * 5000))]
    api = Api(engine.socket)
    api.create(["sleep", "100"], name="words", host={"NetworkMode": "none"})
    api.start("words")
    rows += [(path, method, path) for method, path in (
        ("POST", "/containers/words/kill?signal=NOPE"), ("POST", "/containers/words/kill?signal=999"), ("POST", "/containers/words/kill?signal=-1"),
        ("POST", "/containers/words/wait?condition=nosuch"), ("GET", "/containers/words/logs"), ("GET", "/containers/words/logs?stdout=1&since=nosuch"),
        ("GET", "/containers/json?filters=nosuch"), ("GET", "/containers/json?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D"), ("GET", "/containers/json?filters=%7B%22status%22%3A%5B%22nosuch%22%5D%7D"),
        ("GET", "/containers/json?limit=x"), ("GET", "/containers/json?limit=99999999999999999999"), ("POST", "/containers/words/stop?t=x"), ("POST", "/containers/words/stop?t=99999999999999999999"),
        ("POST", "/containers/words/resize?h=x&w=1"), ("POST", "/containers/words/resize?h=-1&w=1"), ("POST", "/containers/words/resize?h=99999999999&w=1"),
        ("GET", "/events?since=nosuch&until=1"), ("POST", "/containers/words/rename"), ("POST", "/containers/words/rename?name="), ("POST", "/images/busybox:test/tag?repo=UPPER"),
        ("POST", "/images/busybox:test/tag"), ("GET", "/nosuch"), ("PATCH", "/info"), ("POST", "/containers/prune?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D"))]
    api.close()
    refuse_all(engine, rows)
    assert ask(engine, "GET", "/containers/words/json")[0] == 200


def test_numbers_out_of_range(engine):
    over = HUGE + 1
    host = {
        "Memory": [over, -over - 1, 1e30, 5, -5], "MemorySwap": [over, -2, 5], "MemoryReservation": [over, 5, -1], "NanoCpus": [over, HUGE, -1, 1], "CpuShares": [over, -5], "CpuPeriod": [over, 10, -1],
        "CpuQuota": [over, 10], "PidsLimit": [over], "ShmSize": [over, -1], "OomScoreAdj": [over, 5000, -5000], "MemorySwappiness": [over, 500, -9], "BlkioWeight": [-1, 5, 70000, 1 << 64],
        "Ulimits": [[{"Name": "nofile", "Soft": over, "Hard": over}]], "RestartPolicy": [{"Name": "on-failure", "MaximumRetryCount": over}],
    }
    rows = [create(f"HostConfig.{key}={value!r}", create_body({key: value})) for key, values in host.items() for value in values]
    rows.append(create("StopTimeout over", create_body(StopTimeout=over)))
    refuse_all(engine, rows)


def test_numbers_at_their_ends_start_or_are_refused(engine):
    """What create takes the kernel may not: then start says so, and the container is as it was."""
    wrong = []
    ends = [("Memory", HUGE), ("MemorySwap", -1), ("CpuShares", HUGE), ("CpuQuota", HUGE), ("CpuQuota", -1), ("PidsLimit", HUGE), ("PidsLimit", -1), ("ShmSize", HUGE), ("ShmSize", 1),
            ("PidsLimit", 1), ("Tmpfs", {"/t": "size=99999999999999999999"}), ("Tmpfs", {"/t": "nosuch=1"}), ("Sysctls", {"net.core.somaxconn": "x"}), ("Sysctls", {"kernel.hostname": "x"}),
            ("Ulimits", [{"Name": "nofile", "Soft": HUGE, "Hard": HUGE}]), ("Ulimits", [{"Name": "nofile", "Soft": -1, "Hard": -1}]), ("Ulimits", [{"Name": "nofile", "Soft": 0, "Hard": 0}]),
            ("OomScoreAdj", -1000), ("CpusetMems", "99999"), ("BlkioDeviceReadBps", [{"Path": "/dev/nosuch", "Rate": 1}]), ("BlkioDeviceReadBps", [{"Path": "/dev/../etc/passwd", "Rate": 1}])]
    api = Api(engine.socket, timeout=60)
    for key, value in ends:
        made = None
        try:
            made = api.create(["true"], host={key: value, "NetworkMode": "none"})
            api.start(made)
            api.wait(made)
        except ApiError as error:
            if made is None and error.status >= 500:
                wrong.append(f"{key}={value}: create {error}")
            if not message_of(error):
                wrong.append(f"{key}={value}: no words")
        if made:
            state = api.inspect(made)["State"]
            if state["Running"] or state["Status"] not in ("created", "exited"):
                wrong.append(f"{key}={value}: {state}")
            api.remove(made)
    api.close()
    assert wrong == []


def test_what_only_start_can_judge(engine):
    """Refused by create or by start, and never carried out in part or somewhere else."""
    escape = "/../" * 9 + "tmp/naru-cgroup-escape"
    profile = '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"NOSUCH"}]}'
    api, wrong = Api(engine.socket, timeout=60), []
    for key, value in (
        ("CgroupParent", escape), ("CgroupParent", escape[1:]), ("CgroupParent", ".."), ("CgroupParent", "/a/../../b"), ("LogConfig", {"Type": "json-file", "Config": {"max-size": "much"}}),
        ("SecurityOpt", ["seccomp={\"defaultAction\":\"NOSUCH\"}"]), ("SecurityOpt", ["seccomp=" + profile]), ("Sysctls", {"net.../../kernel.x": "1"}), ("Sysctls", {"kernel.hostname": "x"}),
        ("Sysctls", {"net.core.somaxconn": "x"}), ("Tmpfs", {"/t": "nosuch=1"}), ("CpusetMems", "99999"), ("BlkioDeviceReadBps", [{"Path": "/dev/../etc/passwd", "Rate": 1}]),
        ("NetworkMode", "container:nosuch"), ("NetworkMode", "nosuch"), ("IpcMode", "container:nosuch"), ("PidMode", "container:nosuch"), ("VolumesFrom", ["nosuch"]),
        ("Devices", [{"PathOnHost": "/dev/nosuch", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}]),
    ):
        made = None
        try:
            made = api.create(["true"], host={"NetworkMode": "none", key: value})
            api.start(made)
            wrong.append(f"{key}={value}: ran")
        except ApiError as error:
            if not message_of(error):
                wrong.append(f"{key}={value}: no words")
        if made:
            state = api.inspect(made)["State"]
            if state["Running"] or state["Pid"]:
                wrong.append(f"{key}={value}: {state}")
            api.remove(made)
    api.close()
    assert not wrong, "\n".join(wrong)
    assert not os.path.exists("/tmp/naru-cgroup-escape")


def message_of(error):
    return str(error).partition(": ")[2].strip()


def test_paths_in_names_lead_nowhere(engine):
    api = Api(engine.socket)
    api.create(["true"], name="victim")
    before = folders(engine)
    up, rows = "%2e%2e%2f", []
    names = [up * depth + "etc/passwd".replace("/", "%2f") for depth in (1, 3, 9)] + [
        "%2e%2e", "%2e", "%2f", up + "containers", "..%2fsnapshots", "%00", "victim%00", "victim%2f..%2fvictim", "%ff%fe", "%25%32%65", "%0a", "a" * 5000, "%e2%80%ae", "%"]
    for name in names:
        rows += [(f"{method} {path}", method, path) for method, path in (
            ("GET", f"/containers/{name}/json"), ("POST", f"/containers/{name}/start"), ("DELETE", f"/containers/{name}?force=1&v=1"), ("GET", f"/containers/{name}/logs?stdout=1"),
            ("POST", f"/containers/create?name={name}"), ("POST", f"/containers/victim/rename?name={name}"), ("GET", f"/volumes/{name}"), ("DELETE", f"/volumes/{name}?force=0"),
            ("GET", f"/exec/{name}/json"), ("GET", f"/networks/{name}"), ("DELETE", f"/networks/{name}"), ("GET", f"/images/{name}/json"), ("DELETE", f"/images/{name}"),
            ("POST", f"/images/busybox:test/tag?repo={name}"), ("POST", f"/images/{name}/tag?repo=x"))]
    # A container's name may be as long as one likes: no file is named after it.
    rows = [(*row, create_body()) if "/containers/create" in row[2] else row for row in rows if not re.search("name=a{5000}", row[2])]
    for name in ("../x", "../../etc", "/etc", "..", ".", "a/b", "a\0b", "", "x" * 300):
        if name not in ("", "/etc"):
            rows.append(("volume " + name, "POST", "/volumes/create", {"Name": name}))
            rows.append(("bind " + name, "POST", "/containers/create", create_body({"Binds": [name + ":/m"]})))
            rows.append(("mount " + name, "POST", "/containers/create", create_body({"Mounts": [{"Type": "volume", "Source": name, "Target": "/m"}]})))
    refuse_all(engine, rows)
    assert folders(engine) == before
    assert api.inspect("victim")["Name"] == "/victim"
    api.close()


def test_a_volume_with_the_longest_name_can_be_removed(engine):
    """The directory's name is the volume's: what is put around it must not make it too long."""
    api = Api(engine.socket)
    for length in (200, 240, 255):
        name = "v" * length
        try:
            api.call("POST", "/volumes/create", {"Name": name})
        except ApiError as error:
            assert error.status == 400, error
            continue
        api.call("DELETE", f"/volumes/{name}")
    api.close()


def test_a_body_over_the_limit_is_refused_without_being_kept(engine):
    before = memory(engine)
    filler = b'{"Image":"' + b"x" * (64 << 20) + b'"}'
    for _ in range(2):
        answered = ask(engine, "POST", "/containers/create", filler)
        assert answered is None or answered[0] in (400, 413), answered
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    head = b"POST /v1.41/containers/create HTTP/1.1\r\nHost: e\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Raw(engine) as raw:
        raw.send(head)
        for _ in range(64):
            raw.send(chunk)
        answered = raw.send(b"0\r\n\r\n").socket.recv(65536)
    assert answered[9:12] in (b"400", b"413"), answered
    # A body that only claims to be long costs nothing.
    with Raw(engine) as raw:
        raw.send(b"POST /v1.41/containers/create HTTP/1.1\r\nHost: e\r\nContent-Length: 99999999999\r\n\r\n{")
        time.sleep(0.05)
        assert memory(engine) < before + (32 << 20)
    deadline = time.monotonic() + 20
    while memory(engine) > before + (24 << 20) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert memory(engine) <= before + (24 << 20), f"{before >> 20} MiB before, {memory(engine) >> 20} after"


BODY = json.dumps(create_body()).encode()


def test_a_body_that_ends_early_makes_nothing(engine):
    before = folders(engine)
    for head, body in (
        (f"Content-Length: {len(BODY) + 50}", BODY),
        (f"Content-Length: {len(BODY)}", BODY[:-5]),
        ("Transfer-Encoding: chunked", b"%x\r\n" % len(BODY) + BODY + b"\r\n"),
        ("Transfer-Encoding: chunked", b"%x\r\n" % (len(BODY) + 50) + BODY),
        ("Transfer-Encoding: chunked", b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"ffffffffffffffffff\r\n" + BODY),
    ):
        with Raw(engine) as raw:
            raw.send(f"POST /v1.41/containers/create HTTP/1.1\r\nHost: e\r\nContent-Type: application/json\r\n{head}\r\n\r\n".encode() + body)
            raw.socket.shutdown(socket.SHUT_WR)
            answered = raw.answer()
        assert answered is None or 400 <= answered[0] < 500, (head, answered)
        assert folders(engine) == before, head
    assert engine.answers()


def test_headers_that_contradict_each_other(engine):
    before = folders(engine)
    start = "POST /v1.41/containers/create HTTP/1.1\r\nHost: e\r\nContent-Type: application/json\r\nConnection: close\r\n"
    for name, text in {
        "two lengths": f"{start}Content-Length: {len(BODY)}\r\nContent-Length: {len(BODY) - 1}\r\n\r\n",
        "negative length": f"{start}Content-Length: -1\r\n\r\n",
        "length of words": f"{start}Content-Length: many\r\n\r\n",
        "huge length": f"{start}Content-Length: 99999999999999999999999\r\n\r\n",
        "unknown encoding": f"{start}Transfer-Encoding: nosuch\r\n\r\n",
        "wrong type": f"{start.replace('application/json', 'text/plain')}Content-Length: {len(BODY)}\r\n\r\n",
        "no HTTP": "hello\r\n\r\n",
        "space in header": f"{start}Content-Length : {len(BODY)}\r\n\r\n",
        "NUL in header": f"{start}X-A: a\0b\r\nContent-Length: {len(BODY)}\r\n\r\n",
        "endless header": f"{start}X-A: {'a' * (1 << 20)}\r\n\r\n",
        "many headers": f"{start}{''.join(f'X-{number}: a' + chr(13) + chr(10) for number in range(5000))}\r\n",
        "old version": "GET /v1.41/info HTTP/3.7\r\nHost: e\r\n\r\n",
    }.items():
        with Raw(engine) as raw:
            answered = raw.send(text.encode() + BODY).answer()
        assert answered is None or 400 <= answered[0] < 600, (name, answered)
        assert folders(engine) == before, name
        assert engine.answers(), name
    # Twice the same is no contradiction.
    with Raw(engine) as raw:
        same = f"Content-Length: {len(BODY)}\r\n"
        answered = raw.send(f"{start}{same}{same}\r\n".encode() + BODY).answer()
    assert answered[0] in (201, 400), answered


def test_one_request_is_never_taken_for_two(engine):
    """Length and chunks at once: whichever holds, what follows is not executed as a request of its own."""
    hidden = request("POST", "/containers/create?name=smuggled", BODY)
    body = b"0\r\n\r\n" + hidden
    with Raw(engine) as raw:
        raw.send(
            f"POST /v1.41/containers/create?name=outer HTTP/1.1\r\nHost: e\r\nContent-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            + body)
        raw.answer()
    names = [name for one in json.loads(ask(engine, "GET", "/containers/json?all=1")[1]) for name in one["Names"]]
    assert names == []


def test_a_port_in_use(engine):
    taken = subprocess.Popen(engine.scope.command("busybox", "nc", "-l", "-p", "18085"), stdin=subprocess.PIPE)
    api = Api(engine.socket)

    def publish(name, port):
        return api.create(["sleep", "100"], name=name, host={"PortBindings": {"80/tcp": [{"HostPort": str(port)}]}})

    try:
        deadline = time.monotonic() + 30
        while ":18085 " not in engine.scope.run("ss", "-Hltn").stdout and time.monotonic() < deadline:
            time.sleep(0.02)
        host_user, first, second = publish("port-host", 18085), publish("port-first", 18086), publish("port-second", 18086)
        with pytest.raises(ApiError, match="(?i)18085.*(in use|allocated)|in use.*18085") as caught:
            api.start(host_user)
        assert caught.value.status in (409, 500)
        api.start(first)
        with pytest.raises(ApiError, match="(?i)18086.*(in use|allocated)") as caught:
            api.start(second)
        assert caught.value.status in (409, 500)
        for name in (host_user, second):
            state = api.inspect(name)["State"]
            assert not state["Running"] and state["Pid"] == 0 and state["Status"] in ("created", "exited")
        taken.kill()
        taken.wait()
        api.start(host_user)
        api.remove(first)
        api.start(second)
        assert api.inspect(second)["State"]["Running"]
    finally:
        taken.kill()
        taken.wait()
        taken.stdin.close()
        api.close()


def test_names_and_prefixes_that_mean_two(engine):
    api = Api(engine.socket)
    first = api.create(["true"], name="taken-name")
    for name in ("taken-name", "/taken-name"):
        with pytest.raises(ApiError) as caught:
            api.create(["true"], name=quote(name))
        assert caught.value.status == 409 and first in str(caught.value)
    other = api.create(["true"], name="other-name")
    with pytest.raises(ApiError) as caught:
        api.call("POST", "/containers/other-name/rename?name=taken-name")
    assert caught.value.status == 409
    ids = [first, other]
    # Among seventeen ids two begin alike.
    while len({one[0] for one in ids}) == len(ids):
        ids.append(api.create(["true"]))
    shared = next(one[0] for one in ids if sum(each[0] == one[0] for each in ids) > 1)
    for method, path in (("GET", f"/containers/{shared}/json"), ("POST", f"/containers/{shared}/start"), ("DELETE", f"/containers/{shared}?force=1")):
        with pytest.raises(ApiError) as caught:
            api.call(method, path)
        assert caught.value.status == 400 and "multiple" in str(caught.value).lower(), path
    assert {one["Id"] for one in api.call("GET", "/containers/json?all=1")} == set(ids)
    # A name that is another's id prefix means the name.
    named = api.create(["true"], name=first[:12])
    assert api.inspect(first[:12])["Id"] == named
    assert api.inspect(first)["Id"] == first
    api.close()


def test_clients_that_hang_up(engine, images):
    api = Api(engine.socket)
    api.create(["sh", "-c", "while :; do echo line; usleep 5000; done"], name="talker", host={"NetworkMode": "none"})
    api.start("talker")
    api.create(["cat"], name="listener", host={"NetworkMode": "none"}, OpenStdin=True, AttachStdin=True)
    api.start("listener")
    with open(images + "/busybox.tar", "rb") as file:
        half = file.read(300_000)
    load = b"POST /v1.41/images/load HTTP/1.1\r\nHost: e\r\nContent-Type: application/x-tar\r\nContent-Length: 2000000\r\n\r\n" + half
    upgrade = ("Connection: Upgrade", "Upgrade: tcp")

    def exec_start():
        made = api.call("POST", "/containers/talker/exec", {"Cmd": ["sh", "-c", "echo hi; sleep 0.05"], "AttachStdout": True})["Id"]
        return request("POST", f"/exec/{made}/start", b'{"Detach":false}', *upgrade)

    moments = [
        lambda: request("POST", "/containers/talker/attach?stream=1&stdout=1&stderr=1", None, *upgrade),
        lambda: request("POST", "/containers/listener/attach?stream=1&stdin=1&stdout=1", None, *upgrade) + b"hello\n",
        lambda: request("GET", "/containers/talker/logs?follow=1&stdout=1"), lambda: request("GET", "/events"),
        lambda: request("POST", "/containers/talker/wait"), lambda: request("GET", "/containers/talker/stats"),
        lambda: request("POST", "/containers/create", json.dumps(create_body({"AutoRemove": True})).encode()),
        lambda: request("POST", "/containers/talker/start"), exec_start, lambda: load, lambda: load[:400], lambda: b"GET /v1.41/inf", lambda: b"",
    ]

    def hang_up(moment, after):
        with Raw(engine) as raw:
            raw.send(moment())
            if after:
                time.sleep(after)

    for moment in moments:
        hang_up(moment, 0.02)
    before = settled(lambda: open_files(engine), 0)
    for moment in moments:
        for after in (0, 0.001, 0.02):
            for _ in range(4):
                hang_up(moment, after)
    assert settled(lambda: open_files(engine), before + 4) <= before + 4, "open files are not given back"
    state = api.inspect("talker")["State"]
    assert state["Running"] and api.inspect("listener")["State"]["Running"]
    assert api.exec("talker", ["echo", "hi"]) == (b"hi\n", 0)
    # The log goes on.
    size = len(api.logs("talker"))
    assert settled(lambda: -len(api.logs("talker")), -size - 1) < -size
    api.close()


def settled(measure, enough, seconds=20):
    """Returns the measure once it is low enough, or what it is after that time."""
    deadline = time.monotonic() + (seconds if enough else 0.3)
    while (value := measure()) > enough and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def test_a_start_whose_client_left_is_whole(engine):
    """Started or not: never in between, and the next request finds it so."""
    api = Api(engine.socket)
    for after in (0, 0.0005, 0.002, 0.01):
        made = api.create(["sleep", "100"], host={"NetworkMode": "none"})
        with Raw(engine) as raw:
            raw.send(request("POST", f"/containers/{made}/start"))
            time.sleep(after)
        time.sleep(0.1)
        state = api.inspect(made)["State"]
        assert (state["Status"], state["Pid"] > 0) in (("running", True), ("created", False)), state
        if not state["Running"]:
            api.start(made)
        assert api.exec(made, ["true"])[1] == 0
        api.remove(made)
    api.close()


def test_slow_clients_do_not_hold_up_others(engine):
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(Raw(engine)).send(b"POST /v1.41/containers/create HTTP/1.1\r\nHost: e\r\nContent-Length: 100\r\n\r\n{")
        began = time.monotonic()
        for _ in range(20):
            assert ask(engine, "GET", "/containers/json")[0] == 200
        assert time.monotonic() - began < 10
