"""The API over TCP with mutual TLS: Docker's client, its SDK for Python and Naru's own get in; nobody else does."""

import os
import re
import subprocess
import sys

import pytest
from testkit.engine import NARU, NEWEST_DOCKER, Naru

DOCKER = NEWEST_DOCKER
PORT = 23760
HOST = f"tcp://127.0.0.1:{PORT}"
BOTH = pytest.mark.parametrize("program", [DOCKER, NARU], ids=["docker", "naru"])

SDK = """
import docker, sys
folder = sys.argv[1]
tls = docker.tls.TLSConfig(client_cert=(folder + "/cert.pem", folder + "/key.pem"), ca_cert=folder + "/ca.pem", verify=True)
client = docker.DockerClient(base_url=sys.argv[2], tls=tls)
print(client.containers.run("busybox:test", "echo from a container", remove=True, network_mode="none").decode())
container = client.containers.run("busybox:test", "sleep 60", detach=True, network_mode="none")
print(container.exec_run("echo from an exec").output.decode())
container.remove(force=True)
"""


def make_certificates(folder):
    """The daemon's own certificate, and those of clients: one of its CA, one of another, one that is over."""
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    (folder / "ca.conf").write_text(
        "[ca]\ndefault_ca=x\n[x]\ndatabase=issued\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n")
    script = r"""
    set -e
    ca() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$1" -keyout $1.key -out $1.pem; }
    leaf() { # folder, CA, extensions
        mkdir $1; cp ca.pem $1/ca.pem
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout $1/key.pem -out $1/request
        openssl x509 -req -in $1/request -CA $2.pem -CAkey $2.key -set_serial $RANDOM -extfile $3 -days 2 -out $1/cert.pem
    }
    ca ca; ca other
    echo extendedKeyUsage=clientAuth >client-use
    leaf server ca names
    leaf client ca client-use
    leaf stranger other client-use
    leaf expired ca client-use
    touch issued
    openssl ca -batch -config ca.conf -cert ca.pem -keyfile ca.key -in expired/request -startdate 20200101000000Z -enddate 20200201000000Z -extfile client-use -notext -out expired/cert.pem
    mkdir nobody; cp ca.pem nobody/
    mkdir deceived; cp client/*.pem deceived/; cp other.pem deceived/ca.pem
    """
    made = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def engine(images, folder):
    server = [f"--tls{name}={folder}/server/{file}.pem" for name, file in (("cacert", "ca"), ("cert", "cert"), ("key", "key"))]
    engine = Naru(label="s", options=["--host", HOST, "--tlsverify", *server])
    engine.start()
    engine.load(images + "/busybox.tar")
    yield engine
    engine.close()


def flags(folder, who):
    given = [f"--tls{flag}={folder}/{who}/{file}.pem" for flag, file in (("cacert", "ca"), ("cert", "cert"), ("key", "key")) if (folder / who / f"{file}.pem").exists()]
    return ["-H", HOST, "--tlsverify", *given]


def run(engine, folder, program, *words, code=0, script=None, **environment):
    variables = {"HOME": str(folder / "home"), "PATH": os.environ["PATH"], **environment}
    command = ["sh", "-c", script, "sh", program, *words] if script else [program, *words]
    result = engine.scope.run(*command, env=variables)
    assert result.returncode == code, result
    return result


@BOTH
def test_who_shows_a_certificate_gets_in(engine, folder, program):
    client = flags(folder, "client")
    assert "busybox" in run(engine, folder, program, *client, "images").stdout
    # Input with an end of its own, output after it, both streams and the exit code.
    result = run(engine, folder, program, *client, script='echo hello | "$@" run -i --rm --network none busybox:test sh -c "cat; echo end >&2; exit 7"', code=7)
    assert (result.stdout, result.stderr) == ("hello\n", "end\n")
    # More than fits into any buffer.
    result = run(engine, folder, program, *client, script='"$@" run --rm --network none busybox:test sh -c "yes $(printf %0999d) | head -c 3000000" | wc -c')
    assert result.stdout == "3000000\n"
    variables = {"DOCKER_HOST": HOST, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(folder / "client")}
    assert "busybox" in run(engine, folder, program, "images", **variables).stdout
    without = {"DOCKER_HOST": HOST, "DOCKER_CERT_PATH": str(folder / "deceived")}
    assert "busybox" in run(engine, folder, program, "--tls", "images", **without).stdout


@pytest.mark.parametrize("writer,reader", [(DOCKER, NARU), (NARU, DOCKER)], ids=["docker-writes", "naru-writes"])
def test_contexts_hold_certificates(engine, folder, writer, reader):
    files = ",".join(f"{name}={folder}/client/{name}.pem" for name in ("ca", "cert", "key"))
    name = "of-" + os.path.basename(writer)
    run(engine, folder, writer, "context", "create", name, "--docker", f"host={HOST},{files}")
    for program in (writer, reader):
        assert "busybox" in run(engine, folder, program, "--context", name, "images").stdout


def test_the_sdk_for_python_gets_in(engine, folder):
    result = run(engine, folder, sys.executable, "-c", SDK, str(folder / "client"), HOST)
    assert result.stdout.split("\n\n") == ["from a container", "from an exec", ""]


REASONS = {
    "nobody": ("certificate required", "wants to see a certificate"),
    # Go shows no certificate where the daemon names no CA that it is of.
    "stranger": ("certificate required", "does not know the CA"),
    "expired": ("expired certificate", "is expired"),
    "deceived": ("signed by unknown authority", "signed by an unknown authority"),
}


@BOTH
@pytest.mark.parametrize("who", REASONS)
def test_others_are_told_why_they_do_not(engine, folder, program, who):
    result = run(engine, folder, program, *flags(folder, who), "ps", code=1)
    assert REASONS[who][program == NARU] in result.stderr, result.stderr


@BOTH
def test_plain_http_is_turned_away(engine, folder, program):
    result = run(engine, folder, program, "-H", HOST, "ps", code=1)
    assert "Client sent an HTTP request to an HTTPS server" in result.stderr


def test_curl_chooses_its_protocol(engine, folder):
    files = [f"{folder}/client/{name}.pem" for name in ("ca", "cert", "key")]
    for option, version in (("--http1.1", "1.1"), ("--http2", "2")):
        words = ["-s", option, "--cacert", files[0], "--cert", files[1], "--key", files[2], "-w", " %{http_version}", f"https://localhost:{PORT}/_ping"]
        assert run(engine, folder, "curl", *words).stdout == f"OK {version}"


HOLD = """
import socket, sys
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(400)]
for one in held[::2]:
    one.sendall(bytes([22, 3, 1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_slow_handshakes_hold_up_nobody(engine, folder):
    def files():
        return len(os.listdir(f"/proc/{engine.process.pid}/fd"))

    before = files()
    holder = subprocess.Popen(engine.scope.command(sys.executable, "-c", HOLD, str(PORT)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert "busybox" in run(engine, folder, DOCKER, *flags(folder, "client"), "images").stdout
        # As many places as there are; who came first has lost his.
        assert files() - before < 200
    finally:
        holder.communicate("")


def test_tcp_without_certificates_is_refused(engine, folder):
    def daemon(*words):
        return engine.scope.run(NARU, "daemon", "--validate", *words, env={"HOME": str(folder / "home"), "PATH": os.environ["PATH"]})

    for words in (["-H", "tcp://127.0.0.1:1"], ["-H", "tcp://127.0.0.1:1", "--tls"]):
        result = daemon(*words)
        assert result.returncode == 1 and "--tlsverify" in result.stderr, result.stderr
    tls = ["-H", HOST, "--tlsverify", "--tlscacert", f"{folder}/server/ca.pem", "--tlscert", f"{folder}/server/cert.pem", "--tlskey"]
    assert daemon(*tls, f"{folder}/server/key.pem").stdout == "configuration OK\n"
    for key, reason in ((f"{folder}/client/key.pem", "(?i)key"), (f"{folder}/nosuch", "(?s)nosuch.*--tlskey")):
        result = daemon(*tls, key)
        assert result.returncode == 1 and re.search(reason, result.stderr), result.stderr
    config = folder / "daemon.json"
    config.write_text('{"hosts": ["%s"], "tlsverify": true, "tlscacert": "%s/ca.pem", "tlscert": "%s/cert.pem", "tlskey": "%s/key.pem"}' % (HOST, *[folder / "server"] * 3))
    assert daemon("--config-file", str(config)).stdout == "configuration OK\n"
