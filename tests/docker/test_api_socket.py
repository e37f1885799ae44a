"""The API's socket: who may open it, and what is spoken on it."""

import fcntl
import os
import socket
import stat
import time

import pytest
from testkit.api import Api


def test_only_root_and_the_socket_s_group_may_open_it(naru):
    facts = os.stat(naru.socket)
    assert facts.st_uid == 0 and stat.S_IMODE(facts.st_mode) & 0o007 == 0
    result = naru.scope.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-s", "--unix-socket", naru.socket, "http://engine/_ping")
    assert result.returncode != 0 and result.stdout == ""
    assert naru.scope.run("curl", "-s", "--unix-socket", naru.socket, "http://engine/_ping").stdout == "OK"


def test_http2_is_spoken_by_those_who_begin_with_it(naru):
    curl = ("curl", "-s", "-m", "5", "-w", "%{http_version}", "--unix-socket", naru.socket, "http://engine/_ping")
    assert naru.scope.run(*curl, "--http2-prior-knowledge").stdout == "OK2"
    # A client that offers HTTP/2 and can do without is served in HTTP/1.1.
    assert naru.scope.run(*curl, "--http2").stdout == "OK1.1"


def receive(connection):
    try:
        return connection.recv(65536)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("head", [
    b"GET /_ping HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)),
    b"GET /_ping HTTP/1.1\r\nX: " + b"y" * (2 << 20),
    b"GET /" + b"y" * (2 << 20) + b" HTTP/1.1\r\n",
], ids=["many-headers", "long-header", "long-path"])
def test_a_head_without_end_is_cut_off(naru, head):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(naru.socket)
        try:
            connection.sendall(head + b"\r\n")
        except ConnectionError:
            pass
        answer = receive(connection)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:100]
    assert naru.answers()


def test_ports_are_published_while_another_holds_the_firewall_s_lock(naru):
    """moby#50692: publishing waited for iptables' lock file, which anyone may hold for long."""
    api = Api(naru.socket)
    with open("/run/xtables.lock", "a"):
        pass
    with open("/run/xtables.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        made = api.create(["sleep", "100"], ExposedPorts={"80/tcp": {}}, host={"PortBindings": {"80/tcp": [{"HostPort": "18190"}]}})
        api.start(made)
        api.remove(made)
        assert time.monotonic() - began < 10
    api.close()
