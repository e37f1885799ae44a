"""Registries and URLs behind a proxy of the network: names that only the proxy can resolve."""

import base64
import json
import os
import subprocess
import sys
import tempfile

import pytest
from testkit.engine import NARU, NEWEST_DOCKER, Naru
from testkit.registry import DebianRegistry, FakeRegistry, Image, wait_for_port

DOCKER = NEWEST_DOCKER
PROXY = "127.0.0.1:3128"
# Whatever host is asked for, it leads to loopback; each request is noted with its credentials.
PROGRAM = """
import http.client, http.server, select, socket, sys
class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def note(self):
        with open(sys.argv[1], "a") as file:
            file.write(f"{self.command} {self.path} {self.headers.get('Proxy-Authorization', '-')}\\n")
    def forward(self):
        self.note()
        host, _, path = self.path.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection("127.0.0.1", int(host.split(":")[1]))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("proxy-authorization", "transfer-encoding")}
        connection.request(self.command, "/" + path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "content-length", "connection"): self.send_header(key, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length or 0)); self.end_headers(); self.wfile.write(data)
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = forward
    def do_CONNECT(self):
        self.note()
        with socket.create_connection(("127.0.0.1", int(self.path.rsplit(":", 1)[1]))) as there:
            self.send_response(200); self.end_headers()
            while True:
                for one in select.select([self.connection, there], [], [])[0]:
                    data = one.recv(65536)
                    if not data: self.close_connection = True; return
                    (there if one is self.connection else self.connection).sendall(data)
http.server.ThreadingHTTPServer(("127.0.0.1", 3128), Proxy).serve_forever()
"""


class World:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="naru-t-proxy-", dir="/tmp")
        self.notes = self.folder + "/notes"
        self.naru = Naru(label="px", options=[
            "--http-proxy", f"http://someone:secret@{PROXY}", "--https-proxy", f"http://someone:secret@{PROXY}",
            "--no-proxy", "straight.test", "--insecure-registry", "plain.test:5000", "--insecure-registry", "tls.test:5443",
            "--insecure-registry", "straight.test:5000"])
        self.closing = [self.naru]
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self):
        self.naru.start()
        scope, base = self.naru.scope, self.naru.base
        scope.run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tls.test",
            "-addext", "subjectAltName=DNS:tls.test", "-keyout", base + "/key.pem", "-out", base + "/cert.pem")
        self.closing.append(DebianRegistry(scope))
        self.closing.append(DebianRegistry(
            scope, "127.0.0.1:5443", f", tls: {{certificate: {base}/cert.pem, key: {base}/key.pem}}"))
        fake = FakeRegistry(scope)
        self.closing.append(fake)
        fake.put_image("app", "1", Image(sizes=(300_000,)))
        for target in ("127.0.0.1:5000", "127.0.0.1:5443"):
            copied = scope.run(
                "skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", f"docker://{fake.host}/app:1",
                f"docker://{target}/app:1")
            assert copied.returncode == 0, copied.stderr
        self.process = subprocess.Popen(scope.command(sys.executable, "-c", PROGRAM, self.notes))
        wait_for_port(scope, PROXY)

    def client(self, *arguments, program=DOCKER):
        return self.naru.client("--config", self.folder + "/client", *arguments, program=program, timeout=120)

    def forget(self):
        open(self.notes, "w").close()

    def noted(self):
        return open(self.notes).read() if os.path.exists(self.notes) else ""

    def close(self):
        if hasattr(self, "process"):
            self.process.kill()
            self.process.wait()
        for one in reversed(self.closing):
            one.close()
        subprocess.run(["rm", "-rf", self.folder], check=True)


@pytest.fixture(scope="module")
def world():
    world = World()
    yield world
    world.close()


SECRET = "Basic " + base64.b64encode(b"someone:secret").decode()


@pytest.mark.parametrize("program", [DOCKER, NARU])
@pytest.mark.parametrize("host, way", [("plain.test:5000", "GET http://plain.test:5000/v2/app/"), ("tls.test:5443", "CONNECT tls.test:5443")])
def test_pull_and_push_go_by_the_proxy(world, program, host, way):
    world.forget()
    pulled = world.client("pull", f"{host}/app:1", program=program)
    assert pulled.returncode == 0, pulled.stderr
    assert way in world.noted() and SECRET in world.noted()
    tagged = f"{host}/pushed-{os.path.basename(program)}:1"
    assert world.client("tag", f"{host}/app:1", tagged).returncode == 0
    pushed = world.client("push", tagged, program=program)
    assert pushed.returncode == 0 and "digest: sha256:" in pushed.stdout, pushed.stdout + pushed.stderr
    world.client("rmi", tagged, f"{host}/app:1")


def test_exceptions_and_loopback_are_reached_straight(world):
    world.forget()
    refused = world.client("pull", "straight.test:5000/app:1")
    assert refused.returncode != 0
    assert world.client("pull", "127.0.0.1:5000/app:1").returncode == 0
    assert world.noted() == ""


def test_info_shows_proxies_without_passwords(world):
    info = json.loads(world.client("info", "--format", "{{json .}}").stdout)
    assert info["HttpProxy"] == info["HttpsProxy"] == f"http://xxxxx:xxxxx@{PROXY}"
    assert info["NoProxy"] == "straight.test"


def test_a_proxy_that_is_not_there_is_named_without_its_password(world):
    engine = Naru(label="py", options=["--http-proxy", "http://someone:secret@127.0.0.1:9", "--insecure-registry", "plain.test"])
    try:
        engine.start()
        result = engine.client("pull", "plain.test/x", program=DOCKER)
        assert result.returncode != 0 and "secret" not in result.stderr, result.stderr
    finally:
        engine.close()
