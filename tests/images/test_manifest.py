"""Manifest lists: put together by Naru's command line and Docker's, in turns, and read by both and skopeo."""

import json
import os

import pytest
from testkit.engine import DOCKER_20, NARU, NEWEST_DOCKER, Naru
from testkit.registry import DebianRegistry, FakeRegistry, Image

DOCKER = NEWEST_DOCKER
ADDRESS = "10.99.8.1"
SECURE = ADDRESS + ":5443"
PLAIN = "127.0.0.1:5000"


class World:
    """A registry on loopback and one with a certificate that nobody knows, each with one image for two platforms."""

    def __init__(self):
        self.naru = Naru(label="m")
        self.closing = [self.naru]
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self):
        self.naru.start()
        self.scope, self.base = self.naru.scope, self.naru.base
        self.must("ip", "addr", "add", ADDRESS + "/24", "dev", "lo")
        self.must(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=registry",
            "-addext", f"subjectAltName=IP:{ADDRESS}", "-keyout", self.base + "/key.pem", "-out", self.base + "/cert.pem")
        self.closing.append(DebianRegistry(self.scope, PLAIN))
        tls = f", tls: {{certificate: {self.base}/cert.pem, key: {self.base}/key.pem}}"
        self.closing.append(DebianRegistry(self.scope, SECURE, tls))
        fake = FakeRegistry(self.scope)
        self.closing.append(fake)
        for architecture in ("amd64", "arm64"):
            fake.put_image("app", architecture, Image(sizes=(1000,), architecture=architecture, binary=architecture == "amd64"))
            for registry in (PLAIN, SECURE):
                for name in ("app", "other"):
                    self.copy(f"{fake.host}/app:{architecture}", f"{registry}/{name}:{architecture}")
        self.copy(f"{fake.host}/app:arm64", PLAIN + "/app:v2", "-f", "v2s2")

    def copy(self, source, target, *options):
        self.must(
            "skopeo", "copy", "-q", *options, "--src-tls-verify=false", "--dest-tls-verify=false", "docker://" + source,
            "docker://" + target)

    def close(self):
        for one in reversed(self.closing):
            one.close()

    def must(self, *command):
        result = self.scope.run(*command, timeout=120)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def manifest(self, program, folder, *arguments, code=0):
        """A `manifest` command of one of the clients, with this folder for its configuration."""
        result = self.scope.run(program, "--config", self.base + "/" + folder, "manifest", *arguments, timeout=120)
        assert result.returncode == code, f"{program} {arguments}: {result.stdout}{result.stderr}"
        return result.stdout + result.stderr


@pytest.fixture(scope="module")
def world():
    world = World()
    yield world
    world.close()


def read_tree(folder):
    paths = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
    return {os.path.relpath(path, folder): open(path).read() for path in paths}


ANNOTATIONS = ["--os", "linux", "--arch", "arm", "--variant", "v7", "--os-version", "1", "--os-features", "a,b"]


@pytest.mark.skipif(NEWEST_DOCKER == DOCKER_20, reason="Docker's client 28 is not here")
def test_both_clients_make_the_same_list(world):
    """The same files, the same JSON on the screen, the same digest in the registry."""
    images = [PLAIN + "/app:amd64", PLAIN + "/app:arm64"]
    seen = {}
    for program in (DOCKER, NARU):
        folder = os.path.basename(program)

        def run(*arguments, **options):
            return world.manifest(program, folder, *arguments, **options)

        name = f"{PLAIN}/app:multi"
        told = [run("create", "--insecure", name, *images)]
        told.append(run("annotate", *ANNOTATIONS, name, images[1]))
        told.append(run("inspect", name))
        told.append(run("inspect", "-v", name))
        told.append(run("inspect", name, images[1]))
        told.append(run("inspect", "-v", name, images[1]))
        files = read_tree(f"{world.base}/{folder}/manifests")
        told.append(run("push", "--insecure", "-p", name))
        assert os.listdir(f"{world.base}/{folder}/manifests") == []
        for suffix in ("amd64", "multi", "v2"):
            told.append(run("inspect", "--insecure", f"{PLAIN}/app:{suffix}"))
            told.append(run("inspect", "--insecure", "-v", f"{PLAIN}/app:{suffix}"))
        seen[program] = told, files
    assert seen[NARU] == seen[DOCKER]
    assert len(seen[NARU][1]) == 2


@pytest.mark.skipif(NEWEST_DOCKER == DOCKER_20, reason="Docker's client 28 is not here")
def test_a_list_begun_by_one_client_is_ended_by_the_other(world):
    """Images of another repository are taken over; skopeo reads the list, and Naru runs its part by tag and digest."""
    name = PLAIN + "/joined:1"
    world.manifest(DOCKER, "joint", "create", "--insecure", name, PLAIN + "/app:amd64")
    refused = world.manifest(NARU, "joint", "create", name, PLAIN + "/app:v2", code=1)
    assert "refusing to amend an existing manifest list with no --amend flag" in refused
    world.manifest(NARU, "joint", "create", "--amend", name, PLAIN + "/app:v2")
    world.manifest(DOCKER, "joint", "annotate", "--arch", "riscv64", name, PLAIN + "/app:v2")
    world.manifest(NARU, "joint", "annotate", "--variant", "rva22", name, PLAIN + "/app:v2")
    pushed = world.manifest(NARU, "joint", "push", name).splitlines()
    assert [line.split("@")[0] for line in pushed[:2]] == [f"Pushed ref {PLAIN}/joined"] * 2
    raw = json.loads(world.must("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://" + name))
    assert [one["platform"] for one in raw["manifests"]] == [
        {"architecture": "amd64", "os": "linux"}, {"architecture": "riscv64", "os": "linux", "variant": "rva22"}]
    again = json.loads(world.manifest(DOCKER, "joint", "inspect", "--insecure", name))
    assert again["manifests"] == raw["manifests"]
    by_digest = f"{PLAIN}/joined@{pushed[-1]}"
    for reference in (name, by_digest):
        result = world.naru.client("run", "--rm", "--network", "none", reference, "sh", "-c", "echo ran", program=DOCKER, timeout=120)
        assert result.stdout == "ran\n", result.stderr
    assert world.manifest(NARU, "joint", "rm", name) == ""
    assert f"No such manifest: {name}" in world.manifest(NARU, "joint", "rm", name, code=1)


def test_a_registry_without_a_trusted_certificate_needs_insecure(world):
    name = SECURE + "/app:multi"
    for arguments in (["create", name, SECURE + "/app:amd64"], ["inspect", SECURE + "/app:amd64"]):
        assert "cannot trust registry" in world.manifest(NARU, "tls", *arguments, code=1)
    world.manifest(NARU, "tls", "create", "--insecure", name, SECURE + "/app:amd64")
    assert "cannot trust registry" in world.manifest(NARU, "tls", "push", name, code=1)
    world.manifest(NARU, "tls", "push", "--insecure", name)
    assert json.loads(world.manifest(NARU, "tls", "inspect", "--insecure", SECURE + "/app:multi"))["schemaVersion"] == 2


def test_what_cannot_be_is_said_and_nothing_is_half_made(world):
    def refused(*arguments):
        return world.manifest(NARU, "bad", *arguments, code=1)

    name = PLAIN + "/app:bad"
    assert "no such manifest: " + PLAIN in refused("create", name, PLAIN + "/app:amd64", PLAIN + "/app:missing")
    assert f"No such manifest: {name}" in refused("push", name)
    world.manifest(NARU, "bad", "create", name, PLAIN + "/app:amd64")
    pushed = PLAIN + "/app:twice"
    world.manifest(NARU, "bad", "create", pushed, PLAIN + "/app:amd64")
    world.manifest(NARU, "bad", "push", pushed)
    assert f"{pushed} is a manifest list" in refused("create", "--amend", name, pushed)
    assert "unsupported os/arch combination: linux/bogus" in refused("annotate", "--arch", "bogus", name, PLAIN + "/app:amd64")
    assert "does not exist in" in refused("annotate", "--arch", "arm", name, PLAIN + "/app:arm64")
    assert "invalid reference format" in refused("create", "UP/Per", PLAIN + "/app:amd64")
    world.manifest(NARU, "bad", "create", "--insecure", "127.0.0.1:5001/x:y", PLAIN + "/app:amd64")
    assert "different registry" in refused("push", "127.0.0.1:5001/x:y")
    assert "cannot connect to registry" in refused("inspect", "127.0.0.1:5999/x:y")
