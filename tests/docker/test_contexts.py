"""Contexts are Docker's own files: what one client writes the other reads; and ssh:// through `system dial-stdio`."""

import json
import os
import re
import subprocess

import pytest
from harness import CLIENTS
from testkit.engine import NARU

DOCKER = CLIENTS["cli28"]
pytestmark = pytest.mark.skipif(not os.path.exists(DOCKER), reason="Docker's client 28 is not here")


class Clients:
    """Both clients with one home directory of their own."""

    def __init__(self, engine, home):
        self.engine = engine
        self.home = home
        (home / "bin").mkdir()
        (home / "bin" / "docker").symlink_to(NARU)
        # At the "other machine" runs what is asked for, with the product under Docker's name.
        (home / "bin" / "ssh").write_text(
            "#!/bin/sh\necho \"$@\" >>$HOME/asked\nwhile [ \"$1\" != -- ] && [ \"$1\" != server ]; do shift; done\n"
            "[ \"$1\" = -- ] && shift\nshift\nunset DOCKER_CONTEXT\nexport DOCKER_HOST=$SERVER_HOST\nexec \"$@\"\n")
        (home / "bin" / "ssh").chmod(0o755)

    def run(self, program, *words, code=0, **environment):
        variables = {"HOME": str(self.home), "PATH": f"{self.home}/bin:{os.environ['PATH']}", "SERVER_HOST": self.engine.host, **environment}
        result = self.engine.scope.run(program, *words, env=variables)
        assert result.returncode == code, result
        return result


@pytest.fixture
def clients(busybox_naru, tmp_path):
    return Clients(busybox_naru, tmp_path)


BOTH = pytest.mark.parametrize("writer,reader", [(DOCKER, NARU), (NARU, DOCKER)], ids=["docker-writes", "naru-writes"])


@BOTH
def test_what_one_client_writes_the_other_reads(clients, writer, reader):
    made = clients.run(writer, "context", "create", "there", "--description", "over there", "--docker", "host=" + clients.engine.host)
    assert made.stdout == "there\n" and made.stderr == 'Successfully created context "there"\n'
    assert clients.run(reader, "--context", "there", "ps", "-q").stdout == ""
    assert "busybox" in clients.run(reader, "images", DOCKER_CONTEXT="there").stdout
    assert clients.run(writer, "context", "use", "there").stdout == "there\n"
    assert clients.run(reader, "context", "show").stdout == "there\n"
    assert "busybox" in clients.run(reader, "images").stdout
    # What is named for one call decides over what was chosen.
    assert clients.run(reader, "context", "show", DOCKER_HOST="unix:///nowhere").stdout == "default\n"
    for words in (["ls"], ["ls", "-q"], ["ls", "--format", "json"], ["ls", "--format", "{{.Name}} {{.Current}} {{.DockerEndpoint}}"], ["inspect"], ["inspect", "there"], ["inspect", "-f", "{{.Name}} {{.Endpoints.docker.Host}}", "there"]):
        mine, theirs = (clients.run(program, "context", *words, DOCKER_HOST=clients.engine.host).stdout for program in (reader, writer))
        assert mine == theirs, words
    assert "in use" in clients.run(reader, "context", "rm", "there", code=1).stderr
    assert clients.run(reader, "context", "use", "default").stdout == "default\n"
    assert clients.run(reader, "context", "rm", "there").stdout == "there\n"
    assert "not found" in clients.run(writer, "--context", "there", "ps", code=1).stderr


@BOTH
def test_archives_go_from_one_client_to_the_other(clients, writer, reader):
    (clients.home / "ca").write_text("authority")
    clients.run(writer, "context", "create", "there", "--description", "d", "--docker", f"host=unix:///x.sock,ca={clients.home}/ca")
    file = str(clients.home / "there.tar")
    clients.run(writer, "context", "export", "there", file)
    clients.run(reader, "context", "import", "again", file)
    shown = [json.loads(clients.run(program, "context", "inspect", "again").stdout)[0] for program in (writer, reader)]
    assert shown[0] == shown[1] and shown[0]["Endpoints"]["docker"]["Host"] == "unix:///x.sock"
    assert shown[0]["TLSMaterial"] == {"docker": ["ca.pem"]}
    assert "already exists" in clients.run(reader, "context", "import", "again", file, code=1).stderr


@BOTH
def test_update_keeps_what_it_does_not_name(clients, writer, reader):
    clients.run(writer, "context", "create", "there", "--description", "d", "--docker", "host=unix:///x.sock")
    clients.run(reader, "context", "update", "there", "--docker", "host=unix:///y.sock")
    for program in (writer, reader):
        assert "there d unix:///y.sock" in clients.run(program, "context", "ls", "--format", "{{.Name}} {{.Description}} {{.DockerEndpoint}}").stdout


@pytest.mark.parametrize("words,message", [
    (["create", "x"], "exactly 1|docker endpoint|invalid|at least"), (["create", "../x", "--docker", "host=unix:///x"], "invalid"), (["create", "default", "--docker", "host=unix:///x"], "reserved"),
    (["create", "good", "--docker", "nonsense=1"], "unrecognized"), (["rm", "default"], "default"), (["rm", "nosuch"], "not found"), (["use", "nosuch"], "not found"), (["import", "good", "/etc/passwd"], "context|archive|tar"),
])
def test_what_is_wrong_is_refused_and_nothing_written(clients, words, message):
    result = clients.run(NARU, "context", *words, code=1)
    assert re.search(message, result.stderr), result
    assert clients.run(NARU, "context", "ls", "-q").stdout == "default\n"


def test_host_and_context_exclude_each_other(clients):
    assert "both --host and --context" in clients.run(NARU, "--context", "x", "-H", clients.engine.host, "ps", code=1).stderr


@pytest.mark.parametrize("program", [DOCKER, NARU], ids=["docker", "naru"])
def test_another_machine_by_ssh(clients, program):
    """The other end's `docker system dial-stdio` is the product's own; streams and half-closes come through it."""
    ssh = ["-H", "ssh://user@server:2222"]
    assert "busybox" in clients.run(program, *ssh, "images").stdout
    result = clients.run("sh", "-c", f"echo hello | {program} {' '.join(ssh)} run -i --rm --network none busybox:test sh -c 'cat; echo end >&2; exit 7'", code=7)
    assert (result.stdout, result.stderr) == ("hello\n", "end\n")
    asked = (clients.home / "asked").read_text()
    assert "2222" in asked and "system dial-stdio" in asked
    clients.run(program, "context", "create", "far", "--docker", "host=ssh://user@server")
    assert "busybox" in clients.run(program, "--context", "far", "images").stdout


def test_a_dead_tunnel_is_an_error(clients):
    (clients.home / "bin" / "ssh").write_text("#!/bin/sh\necho no route >&2; exit 255\n")
    result = clients.run(NARU, "-H", "ssh://server", "ps", code=1)
    assert "no route" in result.stderr and "daemon" in result.stderr
    refused = clients.run(NARU, "-H", "ssh://-oProxyCommand=x", "ps", code=1)
    assert "expected ssh://" in refused.stderr


def test_the_wrong_name_is_no_other_program(clients):
    """Invoked as `docker` it calls itself so."""
    version = subprocess.run([clients.home / "bin" / "docker", "--version"], capture_output=True, text=True).stdout
    assert version.startswith("Docker version")
    assert subprocess.run([clients.home / "bin" / "docker", "frobnicate"], capture_output=True, text=True).stderr.startswith("docker: 'frobnicate'")
