"""The real Debian image through a real registry, Debian's: pushed by skopeo, pulled and run by Naru, pushed by Naru,
pulled by Docker, Podman and skopeo. Digests are equal throughout."""

import json
import os
import re
import shutil
import subprocess

import pytest
from testkit.engine import DebianDocker, NEWEST_DOCKER, Naru
from testkit.registry import DebianRegistry

DOCKER = NEWEST_DOCKER
ADDRESS = "10.99.7.1"
SECURE = ADDRESS + ":5443"
USER, PASSWORD = "someone", "a password"


class World:
    """Three registries in the scope of one Naru: two plain ones, and one with TLS and a password."""

    def __init__(self, images):
        self.images = images
        self.naru = Naru(label="g")
        self.registries = []
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self):
        self.naru.start()
        self.scope = self.naru.scope
        self.first = self.add(DebianRegistry(self.scope))
        self.second = self.add(DebianRegistry(self.scope, "127.0.0.1:5001"))
        self.base = self.naru.base
        self.secure = self.add(self.start_secure())
        self.docker_config = self.base + "/client"
        os.makedirs(self.docker_config)

    def start_secure(self):
        # Another address than loopback, where certificates count; and a certs.d of this mount namespace's own.
        self.must("sh", "-c", f"ip addr add {ADDRESS}/24 dev lo")
        self.must("sh", "-c", "mkdir -p /etc/docker && mount -t tmpfs none /etc/docker")
        self.must(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=registry",
            "-addext", f"subjectAltName=IP:{ADDRESS}", "-keyout", self.base + "/key.pem", "-out", self.base + "/cert.pem")
        secret = self.must("htpasswd", "-Bbn", USER, PASSWORD)
        with open(self.base + "/htpasswd", "w") as file:
            file.write(secret)
        return DebianRegistry(
            self.scope, SECURE, f", tls: {{certificate: {self.base}/cert.pem, key: {self.base}/key.pem}}",
            f"auth: {{htpasswd: {{realm: test, path: {self.base}/htpasswd}}}}\n")

    def trust_secure(self):
        self.must("sh", "-c", f"mkdir -p /etc/docker/certs.d/{SECURE} && cp {self.base}/cert.pem /etc/docker/certs.d/{SECURE}/ca.crt")

    def add(self, registry):
        self.registries.append(registry)
        return registry

    def close(self):
        for registry in self.registries:
            registry.close()
        self.naru.close()

    def must(self, *command):
        result = self.scope.run(*command, timeout=300)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def docker(self, *arguments, program=DOCKER):
        """A client against Naru, with credentials of its own."""
        return self.naru.client("--config", self.docker_config, *arguments, program=program, timeout=300)

    def must_docker(self, *arguments, program=DOCKER):
        result = self.docker(*arguments, program=program)
        assert result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}"
        return result.stdout

    def digest(self, name):
        """What a registry has under a name, as skopeo sees it."""
        raw = self.must("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://" + name)
        layers = json.loads(raw)["layers"]
        described = json.loads(self.must("skopeo", "inspect", "--tls-verify=false", "docker://" + name))
        return described["Digest"], [layer["digest"] for layer in layers]


@pytest.fixture(scope="module")
def world(images):
    world = World(images)
    yield world
    world.close()


FORMS = {"gzip": "oci-archive:{}/debian-oci.tar", "zstd": "oci-archive:{}/debian-zstd.tar"}


@pytest.mark.seconds(300)
@pytest.mark.parametrize("form", FORMS)
def test_the_real_image_keeps_its_digests_through_everything(world, form):
    source = f"{world.first.host}/{form}/debian:test"
    target = f"{world.second.host}/{form}/debian:test"
    world.must("skopeo", "copy", "-q", "--dest-tls-verify=false", FORMS[form].format(world.images), "docker://" + source)
    expected = world.digest(source)
    pulled = world.must_docker("pull", source)
    assert f"Digest: {expected[0]}" in pulled
    assert world.must_docker("run", "--rm", "--network", "none", source, "python3", "-c", "print(6 * 7)") == "42\n"
    assert expected[0] in world.must_docker("inspect", "-f", "{{.RepoDigests}}", source)
    # The same registry takes the layers from where they are.
    beside = f"{world.first.host}/{form}/beside:test"
    world.must_docker("tag", source, beside)
    assert f"Mounted from {form}/debian" in world.must_docker("push", beside)
    assert world.digest(beside) == expected
    # Another one gets them sent.
    world.must_docker("tag", source, target)
    pushed = world.must_docker("push", target)
    assert f"test: digest: {expected[0]}" in pushed
    assert world.digest(target) == expected
    pinned = f"{world.second.host}/{form}/debian@{expected[0]}"
    check_skopeo(world, pinned, expected)
    if form == "gzip":
        check_podman(world, pinned)
        check_docker(world, pinned)
    world.must_docker("rmi", source, target, beside)


def check_skopeo(world, name, expected):
    folder = world.base + "/copied"
    shutil.rmtree(folder, ignore_errors=True)
    world.must("skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + name, "dir:" + folder)
    files = os.listdir(folder)
    assert all(layer.removeprefix("sha256:") in files for layer in expected[1])
    shutil.rmtree(folder)


def check_podman(world, name):
    roots = ["--root", world.base + "/podman", "--runroot", world.base + "/podman-run", "--storage-driver", "overlay"]
    world.must("podman", *roots, "pull", "-q", "--tls-verify=false", name)
    version = world.must("podman", *roots, "image", "inspect", "-f", "{{.Digest}}", name)
    assert version.strip() == name.split("@")[1]
    world.must("podman", *roots, "rmi", "-f", name)
    shutil.rmtree(world.base + "/podman", ignore_errors=True)


def check_docker(world, name):
    docker = DebianDocker(label="d", scope=world.scope, options=["--bridge", "none", "--iptables=false"])
    try:
        docker.start()
        pulled = docker.client("pull", name, timeout=300)
        assert pulled.returncode == 0, pulled.stderr
        ran = docker.client("run", "--rm", "--network", "none", name, "cat", "/etc/debian_version")
        assert re.match(r"\d+\.\d+\n", ran.stdout), ran.stderr
    finally:
        docker.close()


@pytest.mark.seconds(300)
def test_a_registry_with_tls_and_a_password(world):
    name = f"{SECURE}/team/busybox:1"
    world.must(
        "skopeo", "copy", "-q", "--dest-tls-verify=false", f"--dest-creds={USER}:{PASSWORD}",
        f"docker-archive:{world.images}/busybox.tar", "docker://" + name)
    untrusted = world.docker("pull", name)
    assert untrusted.returncode == 1 and f"/etc/docker/certs.d/{SECURE}/ca.crt" in untrusted.stderr
    world.trust_secure()
    unknown = world.docker("pull", name)
    assert unknown.returncode == 1 and "no basic auth credentials" in unknown.stderr
    wrong = world.docker("login", "-u", USER, "-p", "wrong", SECURE)
    assert wrong.returncode == 1 and "unauthorized" in wrong.stderr
    assert "Login Succeeded" in world.must_docker("login", "-u", USER, "-p", PASSWORD, SECURE)
    world.must_docker("pull", name)
    assert world.must_docker("run", "--rm", "--network", "none", name, "echo", "secure") == "secure\n"
    world.must_docker("tag", name, f"{SECURE}/team/again:1")
    pushed = world.must_docker("push", f"{SECURE}/team/again:1")
    assert "Mounted from team/busybox" in pushed
    inspected = world.must(
        "skopeo", "inspect", "--tls-verify=false", f"--creds={USER}:{PASSWORD}", f"docker://{SECURE}/team/again:1")
    assert json.loads(inspected)["Digest"] in pushed
    world.must_docker("rmi", name, f"{SECURE}/team/again:1")


def test_run_pulls_an_image_that_is_not_there(world):
    name = f"{world.first.host}/short/busybox:1"
    world.must(
        "skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{world.images}/busybox.tar", "docker://" + name)
    for program in (DOCKER, "/usr/bin/docker"):
        ran = world.docker("run", "--rm", "--network", "none", name, "echo", "pulled", program=program)
        assert ran.stdout == "pulled\n" and "Status: Downloaded newer image" in ran.stderr
        world.must_docker("rmi", name)


@pytest.mark.seconds(300)
def test_a_loaded_image_is_compressed_once_and_the_same_everywhere(world):
    name = f"{world.first.host}/loaded/busybox"
    digests = []
    for tag in ("1", "2"):
        world.must_docker("load", "-qi", world.images + "/busybox.tar")
        world.must_docker("tag", "busybox:test", f"{name}:{tag}")
        digests.append(re.search("sha256:[0-9a-f]{64}", world.must_docker("push", f"{name}:{tag}"))[0])
        assert world.digest(f"{name}:{tag}")[0] == digests[-1]
        world.must_docker("rmi", "busybox:test", f"{name}:{tag}")
    assert digests[0] == digests[1]


@pytest.mark.seconds(300)
def test_saved_images_are_read_by_docker_podman_and_skopeo(world):
    name = f"{world.first.host}/saved/other:test"
    world.must(
        "skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{world.images}/busybox.tar", "docker://" + name)
    expected = world.digest(name)
    world.must_docker("pull", "-q", name)
    world.must_docker("load", "-qi", world.images + "/debian-oci.tar")
    path = world.base + "/saved.tar"
    world.must_docker("save", "-o", path, name, "debian:test")
    described = world.must("skopeo", "inspect", "--raw", f"docker-archive:{path}:{name}")
    assert len(json.loads(described)["layers"]) == 1
    roots = ["--root", world.base + "/podman", "--runroot", world.base + "/podman-run", "--storage-driver", "overlay"]
    assert name in world.must("podman", *roots, "load", "-i", path)
    shutil.rmtree(world.base + "/podman", ignore_errors=True)
    docker = DebianDocker(label="d", scope=world.scope, options=["--bridge", "none", "--iptables=false"])
    try:
        docker.start()
        docker.load(path)
        ran = docker.client("run", "--rm", "--network", "none", "debian:test", "echo", "loaded")
        assert ran.stdout == "loaded\n", ran.stderr
        assert docker.client("image", "inspect", name).returncode == 0
    finally:
        docker.close()
    # And by Naru itself, which still knows under which digest the image goes.
    ids = world.must_docker("images", "--no-trunc", "-q", name)
    world.must_docker("rmi", name, "debian:test")
    world.must_docker("load", "-qi", path)
    assert world.must_docker("images", "--no-trunc", "-q", name) == ids
    assert expected[0] in world.must_docker("push", name)
    world.must_docker("rmi", name, "debian:test")


def test_saving_what_is_not_there_is_an_error_before_anything_is_written(world):
    refused = world.docker("save", "-o", world.base + "/none.tar", "no-such-image")
    assert refused.returncode == 1 and "No such image" in refused.stderr


def test_distribution_tells_what_a_registry_has(world):
    name = f"{world.first.host}/asked/busybox:1"
    world.must(
        "skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{world.images}/busybox.tar", "docker://" + name)
    script = f"curl -s --unix-socket {world.naru.socket} http://engine/v1.44/distribution/{name}/json"
    answer = json.loads(world.must("sh", "-c", script))
    assert answer["Descriptor"]["digest"] == world.digest(name)[0]
    assert answer["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    manifest = subprocess.run(
        world.scope.command(DOCKER, "manifest", "inspect", "--insecure", name), capture_output=True, text=True)
    assert json.loads(manifest.stdout)["schemaVersion"] == 2


def test_narus_own_command_line(world):
    """pull, push, login, logout, save, load, import, search as Docker's client has them."""
    def naru(*arguments, code=0):
        result = world.naru.client("--config", world.base + "/own", *arguments)
        assert result.returncode == code, f"{arguments}: {result.stdout}{result.stderr}"
        return result.stdout + result.stderr

    world.trust_secure()
    plain, secure = f"{world.first.host}/own/busybox:1", f"{SECURE}/own/busybox:1"
    world.must(
        "skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{world.images}/busybox.tar", "docker://" + plain)
    assert naru("pull", "-q", plain) == plain + "\n"
    assert "Image is up to date" in naru("pull", plain)
    naru("rmi", plain)
    assert naru("run", "--rm", "--quiet", "--network", "none", plain, "echo", "own") == "own\n"
    naru("tag", plain, secure)
    assert "no basic auth credentials" in naru("push", secure, code=1)
    assert "unauthorized" in naru("login", "-u", USER, "-p", "wrong", SECURE, code=1)
    assert "Login Succeeded" in naru("login", "-u", USER, "-p", PASSWORD, SECURE)
    mode = os.stat(world.base + "/own/config.json").st_mode & 0o777
    assert mode == 0o600
    assert world.digest(plain)[0] in naru("push", secure)
    # Docker's client reads what Naru's has written.
    world.must(DOCKER, "--config", world.base + "/own", "-H", world.naru.host, "pull", "-q", secure)
    assert naru("logout", SECURE) == f"Removing login credentials for {SECURE}\n"
    assert naru("logout", SECURE) == f"Not logged in to {SECURE}\n"
    naru("save", "-o", world.base + "/own.tar", plain)
    naru("rmi", plain, secure)
    assert naru("load", "-i", world.base + "/own.tar") == f"Loaded image: {plain}\n"
    tree = world.base + "/tree"
    os.makedirs(tree + "/bin")
    shutil.copy("/bin/busybox", tree + "/bin/sh")
    world.must("tar", "-czf", world.base + "/tree.tgz", "-C", tree, ".")
    for program in (naru, lambda *arguments: world.must_docker(*arguments)):
        program("import", "-c", 'CMD ["/bin/sh", "-c", "echo imported"]', "-m", "by hand", world.base + "/tree.tgz", "imported:1")
        assert naru("run", "--rm", "--network", "none", "imported:1") == "imported\n"
        assert world.must_docker("inspect", "-f", "{{.Comment}}", "imported:1") == "by hand\n"
        naru("rmi", "imported:1")
    assert "no such file" in naru("import", world.base + "/missing.tgz", code=1).lower()
    naru("rmi", plain)


def test_a_credential_helper_is_asked(world):
    """`credHelpers` and `docker-credential-NAME`, which keeps what it is given in a file here."""
    folder = world.base + "/helper"
    os.makedirs(folder)
    helper = folder + "/docker-credential-test"
    with open(helper, "w") as file:
        file.write(
            "#!/bin/sh\ncase $1 in\n"
            f"store) cat > {folder}/kept ;;\n"
            f"get) if [ -f {folder}/kept ]; then cat {folder}/kept; else echo credentials not found in native keychain; exit 1; fi ;;\n"
            f"erase) rm {folder}/kept ;;\nesac\n")
    os.chmod(helper, 0o755)
    with open(folder + "/config.json", "w") as file:
        json.dump({"credHelpers": {SECURE: "test"}}, file)
    world.trust_secure()
    name = f"{SECURE}/helped/busybox:1"
    world.must_docker("load", "-qi", world.images + "/busybox.tar")
    world.must_docker("tag", "busybox:test", name)

    def naru(*arguments):
        environment = dict(world.naru.environment(), PATH=folder + ":" + os.environ["PATH"])
        from testkit.engine import NARU
        return world.scope.run(NARU, "--config", folder, "-H", world.naru.host, *arguments, env=environment)

    assert naru("push", name).returncode == 1
    assert naru("login", "-u", USER, "-p", PASSWORD, SECURE).returncode == 0
    with open(folder + "/kept") as file:
        assert json.load(file) == {"ServerURL": SECURE, "Username": USER, "Secret": PASSWORD}
    pushed = naru("push", name)
    assert pushed.returncode == 0, pushed.stderr
    assert naru("logout", SECURE).returncode == 0
    assert not os.path.exists(folder + "/kept")
    world.must_docker("rmi", name, "busybox:test")
