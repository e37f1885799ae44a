"""Logs that go elsewhere: receivers of the test's own take what Debian's Docker sends and what Naru sends, in one run.

A receiver lives in the engine's network and mount namespaces, where `/run` is a tmpfs: nothing of the host's is reached.
"""

import ctypes
import gzip
import json
import os
import re
import socket
import ssl
import struct
import threading
import time
import zlib

import pytest
from test_tls import make_certificates
from testkit.api import Api, ApiError
from testkit.engine import NARU, DebianDocker, Naru, Scope

DOCKER = "/usr/bin/docker"
SAY = "echo out; echo err >&2; printf 'no end'"


def inside(scope, make):
    """Returns what `make` returns, called by a thread that has entered the scope; sockets stay where they were made."""
    found = []

    def work():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x200) != 0:  # CLONE_FS: a mount namespace is entered by threads that share no root
            found.append(OSError(ctypes.get_errno(), "unshare"))
            return
        for kind in ("net", "mnt"):
            with open(f"/proc/{scope.process.pid}/ns/{kind}") as file:
                if libc.setns(file.fileno(), 0) != 0:
                    found.append(OSError(ctypes.get_errno(), "setns"))
                    return
        try:
            found.append(make())
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


class Receiver:
    """A socket bound inside a scope, read by a thread into `bytes` (streams) or `packets`.

    `tls` is what streams are wrapped in; `answer` is called with each stream and what it brought.
    """

    def __init__(self, scope, family, kind, address, tls=None, answer=None):
        self.tls, self.answer = tls, answer
        def make():
            bound = socket.socket(family, kind)
            if family == socket.AF_INET:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                os.makedirs(os.path.dirname(address), exist_ok=True)
                if os.path.exists(address):
                    os.unlink(address)
            bound.bind(address)
            if kind == socket.SOCK_STREAM:
                bound.listen(8)
            return bound

        self.socket = inside(scope, make)
        self.packets, self.bytes, self.is_open = [], b"", True
        self.thread = threading.Thread(target=self.read_packets if kind == socket.SOCK_DGRAM else self.read_streams, daemon=True)

    def start(self):
        self.thread.start()
        return self

    def read_packets(self):
        self.socket.settimeout(0.1)
        while self.is_open:
            try:
                self.packets.append(self.socket.recv(1 << 20))
            except TimeoutError:
                pass

    def read_streams(self):
        self.socket.settimeout(0.1)
        streams = []
        while self.is_open:
            try:
                stream, _ = self.socket.accept()
                if self.tls:
                    stream.settimeout(10)
                    stream = self.tls.wrap_socket(stream, server_side=True)
                stream.settimeout(0.02)
                streams.append(stream)
            except (TimeoutError, ssl.SSLError):
                pass
            for stream in list(streams):
                try:
                    if data := stream.recv(1 << 20):
                        self.bytes += data
                        if self.answer:
                            self.answer(stream, data)
                    else:
                        streams.remove(stream)
                except TimeoutError:
                    pass
                except OSError:
                    streams.remove(stream)

    def close(self):
        self.is_open = False
        if self.thread.is_alive():
            self.thread.join()
        self.socket.close()


def new_engine(kind, images):
    scope = Scope()
    assert scope.shell("mount -t tmpfs tmpfs /run").returncode == 0
    engine = kind(scope=scope)
    engine.own_scope = True
    engine.start()
    engine.load(images + "/busybox.tar")
    return engine


@pytest.fixture(scope="module")
def engines(images):
    """Both, side by side."""
    if not os.path.exists(NARU):
        pytest.skip(f"{NARU} is not built")
    both = {"naru": new_engine(Naru, images), "docker": new_engine(DebianDocker, images)}
    yield both
    for engine in both.values():
        engine.close()


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.02)


def run(engine, name, driver, options, script, *more, code=0):
    words = [word for option in options for word in ("--log-opt", option)]
    labels = ["--label", "com.example.part=web", "--env", "WHERE=here"]
    result = engine.client("run", "--name", name, "--network", "none", "--log-driver", driver, *words, *labels, *more, "busybox:test", "sh", "-c", script, program=DOCKER)
    assert (result.returncode == 0) == (code == 0), result.stderr
    return result


def both_ways(engines, driver, options, family, kind, address, parse, wanted, script=SAY, **more):
    """What both engines' receivers got from one container each, parsed and with what differs by nature made alike."""
    found = {}
    for name, engine in engines.items():
        receiver = Receiver(engine.scope, family, kind, address, **more).start()
        try:
            run(engine, "speaker", driver, options, script)
            container = engine.client("inspect", "-f", "{{.Id}}", "speaker", program=DOCKER).stdout.strip()
            until(lambda receiver=receiver: len(parse(receiver)) >= wanted)
            text = json.dumps(parse(receiver), default=repr, sort_keys=True)
            text = re.sub(r'("(partial_id|CONTAINER_PARTIAL_ID)": )"[0-9a-f]{64}"', r'\1"<part>"', text)
            text = text.replace(container, "<id>").replace(container[:12], "<short>").replace(socket.gethostname(), "<host>")
            found[name] = json.loads(text)
            logged = engine.client("logs", "speaker", program=DOCKER)
            # Debian's Docker reads the journal itself, and there is none.
            if (name, driver) != ("docker", "journald"):
                assert "out\n" in logged.stdout and "err\n" in logged.stderr, "the copy kept here can be read"
        finally:
            engine.remove_all_containers()
            receiver.close()
    return found["docker"], found["naru"]


# journald: fields a line, those with a newline with their length.
def journal_fields(packet):
    fields = {}
    while packet:
        line, _, rest = packet.partition(b"\n")
        name, is_plain, value = line.partition(b"=")
        if not is_plain:
            length = struct.unpack("<Q", rest[:8])[0]
            value, rest = rest[8:8 + length], rest[8 + length + 1:]
        fields[name.decode()] = value.decode()
        packet = rest
    return fields


def test_journald(engines):
    options = ["labels=com.example.part", "env=WHERE", "tag={{.Name}}/{{.ID}}"]
    parse = lambda receiver: sorted((journal_fields(packet) for packet in list(receiver.packets)), key=lambda fields: fields["MESSAGE"])  # noqa: E731
    docker, naru = both_ways(engines, "journald", options, socket.AF_UNIX, socket.SOCK_DGRAM, "/run/systemd/journal/socket", parse, 3)
    assert [fields["MESSAGE"] for fields in naru] == ["err", "no end", "out"]
    assert [fields["PRIORITY"] for fields in naru] == ["3", "6", "6"]
    assert naru[0]["COM_EXAMPLE_PART"] == "web" and naru[0]["WHERE"] == "here"
    assert naru == docker


SYSLOG_WAYS = {
    "udp default": ("udp://127.0.0.1:5140", [], socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 5140)),
    "tcp rfc3164": ("tcp://127.0.0.1:5141", ["syslog-format=rfc3164", "syslog-facility=local3"], socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 5141)),
    "udp rfc5424": ("udp://127.0.0.1:5142", ["syslog-format=rfc5424", "tag=x/{{.ImageName}}"], socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 5142)),
    "tcp rfc5424micro": ("tcp://127.0.0.1:5143", ["syslog-format=rfc5424micro"], socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 5143)),
    "unix": ("unix:///run/own/syslog", [], socket.AF_UNIX, socket.SOCK_STREAM, "/run/own/syslog"),
    "unixgram": ("unixgram:///run/own/syslog.gram", ["syslog-facility=5"], socket.AF_UNIX, socket.SOCK_DGRAM, "/run/own/syslog.gram"),
}


@pytest.mark.parametrize("way", SYSLOG_WAYS)
def test_syslog(engines, way):
    address, options, family, kind, bound = SYSLOG_WAYS[way]

    def parse(receiver):
        lines = (receiver.bytes or b"".join(list(receiver.packets))).decode().splitlines()
        # Times and process ids differ; everything around them is compared.
        lines = [re.sub(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d", "<stamp>", line) for line in lines]
        lines = [re.sub(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z", "<micro>", line) for line in lines]
        lines = [re.sub(r"\d{4}-\d\d-\d\dT[\d:]{8}Z", "<time>", line) for line in lines]
        return sorted(re.sub(r"\[\d+\]", "[<pid>]", re.sub(r"(<time>|<micro>)( \S+ \S+) \d+ ", r"\1\2 <pid> ", line)) for line in lines)

    docker, naru = both_ways(engines, "syslog", [f"syslog-address={address}", *options], family, kind, bound, parse, 3)
    assert len(naru) == 3 and any(line.endswith("no end") for line in naru), naru
    assert naru == docker


@pytest.mark.parametrize("options", [["syslog-format=rfc3164"], ["syslog-format=rfc5424"]], ids=["rfc3164", "rfc5424"])
def test_syslog_over_tls(engines, tmp_path, options):
    """Each side shows the other a certificate; RFC 5425 tells each message's length."""
    make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=f"{tmp_path}/ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(f"{tmp_path}/server/cert.pem", f"{tmp_path}/server/key.pem")
    known = [f"syslog-tls-ca-cert={tmp_path}/ca.pem", f"syslog-tls-cert={tmp_path}/client/cert.pem", f"syslog-tls-key={tmp_path}/client/key.pem"]

    def parse(receiver):
        text = re.sub(r"(<\d+>1 )\S+ (\S+ \S+) \d+ ", r"\1<time> \2 <pid> ", receiver.bytes.decode())
        return sorted(re.sub(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\[\d+\]|^\d+(?= <)", "<own>", text, flags=re.M).splitlines())

    for trust in (known, ["syslog-tls-skip-verify=1", *known[1:]]):
        docker, naru = both_ways(engines, "syslog", ["syslog-address=tcp+tls://127.0.0.1:5145", *options, *trust], socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 5145), parse, 3, tls=context)
        assert len(naru) == 3 and naru == docker
    naru = engines["naru"]
    receiver = Receiver(naru.scope, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 5145), tls=context).start()
    try:
        refused = run(naru, "unknown", "syslog", ["syslog-address=tcp+tls://127.0.0.1:5145", *options], "true", code=1)
        assert "failed to initialize logging driver" in refused.stderr and "certificate" in refused.stderr, refused.stderr
    finally:
        receiver.close()
        naru.remove_all_containers()


def unpack(data):
    """One MessagePack value and what follows."""
    first, rest = data[0], data[1:]
    if first & 0xF0 == 0x90 or first & 0xF0 == 0x80 or first in (0xDE, 0xDC):
        is_map = first & 0xF0 == 0x80 or first == 0xDE
        if first in (0xDE, 0xDC):
            count, rest = struct.unpack(">H", rest[:2])[0], rest[2:]
        else:
            count = first & 0x0F
        values = []
        for _ in range(count * (2 if is_map else 1)):
            value, rest = unpack(rest)
            values.append(value)
        return (dict(zip(values[::2], values[1::2])) if is_map else values), rest
    sizes = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
    if first & 0xE0 == 0xA0 or first in sizes:
        if first in sizes:
            width = struct.calcsize(sizes[first])
            length, rest = struct.unpack(sizes[first], rest[:width])[0], rest[width:]
        else:
            length = first & 0x1F
        if len(rest) < length:
            raise IndexError("only the beginning of a string")
        return rest[:length].decode(), rest[length:]
    numbers = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
    if first in numbers:
        width = struct.calcsize(numbers[first])
        return struct.unpack(numbers[first], rest[:width])[0], rest[width:]
    if first == 0xC7:  # an extension of a told length
        return ("ext", rest[1]), rest[2 + rest[0]:]
    if first == 0xD7:  # of eight bytes
        return ("ext", rest[0]), rest[9:]
    if first == 0xC0:
        return None, rest
    return first, rest


def messages(data):
    found = []
    while data:
        try:
            message, data = unpack(data)
        except (IndexError, struct.error):
            break
        found.append(message)
    return found


@pytest.mark.parametrize("options", [[], ["fluentd-sub-second-precision=true", "tag=t.{{.Name}}", "labels=com.example.part"]], ids=["plain", "more"])
def test_fluentd(engines, options):
    def parse(receiver):
        found = []
        for tag, stamp, record, option in messages(receiver.bytes):
            kind = stamp if isinstance(stamp, tuple) else "seconds" if abs(stamp - time.time()) < 600 else stamp
            found.append([tag, kind, record, option or {}])
        return sorted(found, key=lambda message: message[2]["log"])

    options = ["fluentd-address=127.0.0.1:24225", *options]
    docker, naru = both_ways(engines, "fluentd", options, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 24225), parse, 3)
    assert [message[2]["log"] for message in naru] == ["err", "no end", "out"]
    assert naru == docker


class Acknowledge:
    """Answers for each message, also for one that comes in pieces."""

    def __init__(self):
        self.begun = {}

    def __call__(self, stream, data):
        data = self.begun.pop(stream, b"") + data
        while data:
            try:
                message, data = unpack(data)
            except (IndexError, struct.error):
                self.begun[stream] = data
                return
            chunk = message[3]["chunk"].encode()
            stream.sendall(b"\x81\xa3ack\xd9" + bytes([len(chunk)]) + chunk)


def test_fluentd_answers_for_each_message(engines):
    # The two streams of Debian's Docker take each other's answers where both wait, and lose one that comes with another.
    script = "echo out; sleep 0.3; echo err >&2; sleep 0.3; printf 'no end'"

    def parse(receiver):
        found = {option["chunk"]: [tag, record["log"], list(option)] for tag, _, record, option in messages(receiver.bytes)}
        return sorted(found.values())

    options = ["fluentd-address=127.0.0.1:24227", "fluentd-request-ack=true"]
    docker, naru = both_ways(engines, "fluentd", options, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 24227), parse, 3, script, answer=Acknowledge())
    assert naru == docker and len(naru) == 3


def test_what_fluentd_does_not_answer_is_sent_again(engines):
    engine = engines["naru"]
    seen = []

    def answer(stream, data):
        seen.extend(message[2]["log"] for message in messages(data))
        if len(seen) == 1:
            stream.sendall(b"\x81\xa3ack\xa5other")
        elif len(seen) == 2:
            stream.shutdown(socket.SHUT_RDWR)
        else:
            Acknowledge()(stream, data)

    receiver = Receiver(engine.scope, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 24228), answer=answer).start()
    try:
        run(engine, "asked", "fluentd", ["fluentd-address=127.0.0.1:24228", "fluentd-request-ack=true", "fluentd-retry-wait=50ms"], "echo one; echo two")
        until(lambda: seen == ["one", "one", "one", "two"])
    finally:
        receiver.close()
        engine.remove_all_containers()


def gelf_objects(receiver):
    if receiver.bytes:
        texts = [text for text in receiver.bytes.split(b"\0") if text]
    else:
        chunks, texts = {}, []
        for packet in list(receiver.packets):
            if packet[:2] == b"\x1e\x0f":
                chunks.setdefault(packet[2:10], {})[packet[10]] = packet[12:]
                if len(chunks[packet[2:10]]) < packet[11]:
                    continue
                parts = chunks.pop(packet[2:10])
                packet = b"".join(parts[number] for number in sorted(parts))
            texts.append(packet)
    opened = [gzip.decompress(text) if text[:2] == b"\x1f\x8b" else zlib.decompress(text) if text[:1] == b"\x78" else text for text in texts]
    found = []
    for text in opened:
        value = json.loads(text)
        assert abs(value.pop("timestamp") - time.time()) < 600
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", value.pop("_created"))
        found.append(value)
    return sorted(found, key=lambda value: value["short_message"])


GELF_WAYS = {
    "udp gzip": ("udp", []),
    "udp zlib": ("udp", ["gelf-compression-type=zlib", "gelf-compression-level=9"]),
    "udp none": ("udp", ["gelf-compression-type=none", "env=WHERE", "tag={{.FullID}}"]),
    "tcp": ("tcp", ["labels=com.example.part"]),
}


@pytest.mark.parametrize("way", GELF_WAYS)
def test_gelf(engines, way):
    protocol, options = GELF_WAYS[way]
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    options = [f"gelf-address={protocol}://127.0.0.1:12201", *options]
    # The long line does not compress into one packet.
    script = SAY + "; echo; head -c 9000 /dev/urandom | base64 | tr -d '\\n'; echo"
    docker, naru = both_ways(engines, "gelf", options, socket.AF_INET, kind, ("127.0.0.1", 12201), gelf_objects, 4, script)

    def plain(values):
        assert len(values) == 4 and max(len(value["short_message"]) for value in values) >= 12000
        for value in values:
            value["short_message"] = value["short_message"][:6] if len(value["short_message"]) < 100 else "long"
        return sorted(values, key=lambda value: value["short_message"])

    assert plain(naru) == plain(docker)


REFUSED = [
    ("gelf", []),
    ("gelf", ["gelf-address=http://127.0.0.1:1"]),
    ("gelf", ["gelf-address=udp://127.0.0.1"]),
    ("gelf", ["gelf-address=tcp://127.0.0.1:1", "gelf-compression-type=gzip"]),
    ("gelf", ["gelf-address=udp://127.0.0.1:1", "gelf-compression-level=12"]),
    ("gelf", ["gelf-address=udp://127.0.0.1:1", "nonsense=1"]),
    ("syslog", ["syslog-address=http://127.0.0.1:1"]),
    ("syslog", ["syslog-address=udp://127.0.0.1:1", "syslog-facility=nonsense"]),
    ("syslog", ["syslog-address=udp://127.0.0.1:1", "syslog-format=nonsense"]),
    ("syslog", ["syslog-address=unix:///nothing/here"]),
    ("journald", ["nonsense=1"]),
    ("fluentd", ["fluentd-address=tcp://127.0.0.1/path"]),
    ("fluentd", ["fluentd-retry-wait=1s", "nonsense=1"]),
    ("json-file", ["max-buffer-size=1m"]),
    ("nonsense", []),
]


@pytest.mark.parametrize("driver,options", REFUSED)
def test_what_cannot_be_is_refused_as_docker_does(engines, driver, options):
    """By the same status; Docker's words where the two are one sentence."""
    found = {}
    for name, engine in engines.items():
        host = {"LogConfig": {"Type": driver, "Config": dict(option.split("=", 1) for option in options)}, "NetworkMode": "none"}
        api = Api(engine.socket)
        try:
            container = api.create(["true"], host=host)
            api.start(container)
            found[name] = 204
        except ApiError as error:
            found[name] = error.status
        finally:
            engine.remove_all_containers()
    assert found["naru"] >= 400 and found["docker"] >= 400, found


@pytest.mark.parametrize("driver,options", [
    ("syslog", ["syslog-address=tcp://127.0.0.1:5999"]),
    ("fluentd", ["fluentd-address=127.0.0.1:5999"]),
    ("gelf", ["gelf-address=tcp://127.0.0.1:5999"]),
    ("journald", []),
])
def test_a_receiver_that_is_not_there_fails_the_start(engines, driver, options):
    for engine in engines.values():
        if driver == "journald":
            engine.scope.run("rm", "-f", "/run/systemd/journal/socket")
        result = run(engine, "nobody", driver, options, "true", code=1)
        assert "failed to initialize logging driver" in result.stderr, result.stderr
        engine.remove_all_containers()
    run(engines["naru"], "told", driver, options, "true", code=1)
    assert "its log cannot be opened" in engines["naru"].client("why", "told").stdout
    engines["naru"].remove_all_containers()


def test_fluentd_that_comes_later(engines):
    """`fluentd-async`: the container starts, and what it said arrives once somebody listens."""
    engine = engines["naru"]
    options = ["fluentd-address=127.0.0.1:24226", "fluentd-async=true", "fluentd-retry-wait=100ms"]
    run(engine, "early", "fluentd", options, "echo early; while [ ! -e /go ]; do sleep 0.05; done; echo late", "-d")
    until(lambda: engine.client("logs", "early", program=DOCKER).stdout == "early\n")
    receiver = Receiver(engine.scope, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 24226)).start()
    try:
        engine.client("exec", "early", "touch", "/go")
        until(lambda: [message[2]["log"] for message in messages(receiver.bytes)] == ["early", "late"])
    finally:
        receiver.close()
        engine.remove_all_containers()


SLOW = ("i=0; while [ $i -lt 40000 ]; do i=$((i+1)); echo $i "
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done; touch /done; sleep 60")


def is_done(engine, name):
    return engine.client("exec", name, "test", "-e", "/done").returncode == 0


def read_lines(stream, rest):
    """Returns the lines that have come whole, and the beginning of the next."""
    data = stream.recv(1 << 20)
    assert data, "the sender is gone"
    *lines, rest = (rest + data).split(b"\n")
    return [line.decode() for line in lines], rest


def test_a_slow_receiver_holds_back_or_costs_messages(engines):
    """Blocking: the container waits, and nothing is missing; non-blocking: it goes on, and is told what was lost."""
    engine = engines["naru"]
    address = ("127.0.0.1", 5150)

    def listen():
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        bound.bind(address)
        bound.listen(4)
        return bound

    listener = inside(engine.scope, listen)
    listener.settimeout(20)
    try:
        for mode in ("blocking", "non-blocking"):
            script = SLOW.replace("40000", "60000") if mode == "blocking" else SLOW
            more = ["max-buffer-size=64k"] if mode == "non-blocking" else []
            run(engine, mode, "syslog", ["syslog-address=tcp://127.0.0.1:5150", f"mode={mode}", *more], script, "-d")
            stream, _ = listener.accept()
            stream.settimeout(20)
            stream_text = b""
            if mode == "non-blocking":
                until(lambda: is_done(engine, "non-blocking"))
                assert engine.client("logs", "--tail", "1", "non-blocking", program=DOCKER).stdout.startswith("40000 ")
            else:
                # Ready for an exec, and yet not on: its output waits in the pipe.
                assert not is_done(engine, "blocking")
            lines, lost = [], 0
            count = 60000 if mode == "blocking" else 40000
            while len(lines) + lost < count:
                new, stream_text = read_lines(stream, stream_text)
                told = [int(found.group(1)) for line in new if (found := re.search(r"naru: (\d+) messages were lost", line))]
                lost += sum(told)
                lines += [line for line in new if "messages were lost" not in line]
            assert len(lines) + lost == count
            assert (lost == 0) == (mode == "blocking")
            until(lambda mode=mode: is_done(engine, mode))
            stream.close()
            engine.client("rm", "-f", mode)
    finally:
        listener.close()
        engine.remove_all_containers()


def test_logs_without_a_copy_and_without_a_daemon(engines):
    """`cache-disabled`: nothing is read here. And the keeper sends while the daemon is dead."""
    engine = engines["naru"]
    receiver = Receiver(engine.scope, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 5160)).start()
    try:
        script = "echo one; while [ ! -e /go ]; do sleep 0.05; done; echo two; exit 3"
        run(engine, "uncached", "syslog", ["syslog-address=udp://127.0.0.1:5160", "cache-disabled=true"], script, "-d")
        refused = engine.client("logs", "uncached", program=DOCKER)
        assert refused.returncode == 1 and "does not support reading" in refused.stderr, refused.stderr
        pid = engine.client("inspect", "-f", "{{.State.Pid}}", "uncached").stdout.strip()
        engine.kill9()
        open(f"/proc/{pid}/root/go", "w").close()
        until(lambda: any(packet.endswith(b"two\n") for packet in list(receiver.packets)))
        engine.start()
        assert engine.client("wait", "uncached").stdout == "3\n"
    finally:
        receiver.close()
        engine.remove_all_containers()


