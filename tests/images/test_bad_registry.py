"""Pulls and pushes against a registry that answers wrongly: each is a clear error, leaves nothing, and a second try
gets the image."""

import base64
import hashlib
import json
import os
import random
import re
import subprocess
import time

import pytest
from testkit.engine import NEWEST_DOCKER, Naru
from testkit.registry import FakeRegistry, Image

DOCKER = NEWEST_DOCKER
TIMEOUT = 2


class World:
    """An engine and a fake registry in one scope."""

    def __init__(self):
        self.naru = Naru(label="r", options=[
            "--registry-timeout", str(TIMEOUT), "--max-download-attempts", "3", "--registry-mirror", "http://127.0.0.1:5102/hub"])
        self.naru.start()
        scope = self.naru.scope
        self.registry = FakeRegistry(scope)
        self.guarded = FakeRegistry(scope, "127.0.0.1:5101", "http://127.0.0.1:5101/token")
        self.mirror = FakeRegistry(scope, "127.0.0.1:5102")
        self.serial = 0

    def close(self):
        for registry in (self.registry, self.guarded, self.mirror):
            registry.close()
        self.naru.close()

    def docker(self, *arguments, **options):
        return self.naru.client(*arguments, program=DOCKER, **options)

    def new_name(self):
        self.serial += 1
        return f"image{self.serial}"

    def pull(self, name, registry=None):
        return self.docker("pull", f"{(registry or self.registry).host}/{name}:1")

    def new_image(self, sizes=(300_000, 200_000), registry=None, **options):
        """Puts an image of its own bytes into the registry and returns its name and itself."""
        name = self.new_name()
        image = Image(sizes, seed=self.serial, **options)
        (registry or self.registry).put_image(name, "1", image)
        (registry or self.registry).forget_requests()
        return name, image

    def downloads(self):
        return os.listdir(self.naru.data_root + "/downloads")


@pytest.fixture(scope="module")
def world():
    world = World()
    yield world
    world.close()


@pytest.fixture(autouse=True)
def calm(world):
    yield
    for registry in (world.registry, world.guarded, world.mirror):
        registry.set_rules([])


# What the registry does, on which path, and what the user is told.
BAD_ANSWERS = {
    "401 on the manifest": ({"match": "/manifests/", "do": "status", "status": 401}, "unauthorized"),
    "403 on the manifest": ({"match": "/manifests/", "do": "status", "status": 403}, "denied access"),
    "404 on the manifest": ({"match": "/manifests/", "do": "status", "status": 404}, "not found"),
    "429 for long": (
        {"match": "/manifests/", "do": "status", "status": 429, "headers": {"Retry-After": "900"}}, "slow down, for 300 s"),
    "500 always": ({"match": "/manifests/", "do": "status", "status": 500}, "status 500: internal server error"),
    "503 with words": (
        {"match": "/manifests/", "do": "status", "status": 503, "body": '{"errors":[{"code":"UNAVAILABLE","message":"back soon"}]}'},
        "status 503: unavailable: back soon"),
    "hangs": ({"match": "/manifests/", "do": "hang", "seconds": 8}, f"within {TIMEOUT} s"),
    "hangs up": ({"match": "/manifests/", "do": "hang up"}, "broke during manifest"),
    "no manifest but words": ({"match": "/manifests/", "do": "status", "status": 200, "body": "hello"}, "not a manifest"),
    "a manifest called an index": (
        {"match": "/manifests/", "media_type": "application/vnd.oci.image.index.v1+json"}, "manifest says it is"),
    "a manifest of an unknown type": (
        {"match": "/manifests/", "media_type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}, "manifest says it is|media type"),
    "404 on the configuration": ({"match": "CONFIG", "do": "status", "status": 404}, "configuration not found"),
    "a wrong configuration": ({"match": "CONFIG", "flip": 40}, "has digest"),
    "a short configuration": ({"match": "CONFIG", "shorten": 100}, "100 bytes long, expected"),
    "403 on a layer": ({"match": "LAYER", "do": "status", "status": 403}, "denied access to layer"),
    "404 on a layer": ({"match": "LAYER", "do": "status", "status": 404}, "layer [0-9a-f]{12} not found"),
    "502 on a layer": ({"match": "LAYER", "do": "status", "status": 502}, "status 502: bad gateway"),
    "a wrong layer": ({"match": "LAYER", "flip": 5000}, "layer [0-9a-f]{12} has digest sha256:[0-9a-f]{64}, expected"),
    "a layer with a broken head": ({"match": "LAYER", "flip": 0}, "has digest sha256:[0-9a-f]{64}, expected"),
    "a layer shorter than it says": ({"match": "LAYER", "shorten": 1000}, "1000 bytes long, expected"),
    "a layer longer than it says": ({"match": "LAYER", "lengthen": 10}, "bytes long, expected"),
    "a longer layer of no length": ({"match": "LAYER", "lengthen": 10, "no_length": True}, "bytes long, expected"),
    "a layer that stops": ({"match": "LAYER", "cut_after": 0}, "broke during layer|ended after"),
    "a layer that hangs": ({"match": "LAYER", "cut_after": 0, "then": "hang"}, f"did not go on with layer [0-9a-f]* within {TIMEOUT} s"),
    "a redirect in a circle": ({"match": "LAYER", "do": "redirect", "to": "http://127.0.0.1:5100"}, "redirects"),
    "a redirect without TLS elsewhere": ({"match": "LAYER", "do": "redirect", "to": "http://192.0.2.1"}, "not to be trusted"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_a_bad_answer_is_a_clear_error_and_a_second_try_succeeds(world, case):
    rule, message = BAD_ANSWERS[case]
    name, image = world.new_image()
    rule = dict(rule)
    rule["match"] = rule["match"].replace("CONFIG", image.manifest["config"]["digest"]).replace("LAYER", image.digest(1))
    world.registry.set_rules([rule])
    began = time.monotonic()
    refused = world.pull(name)
    assert refused.returncode != 0 and re.search(message, refused.stderr), refused.stdout + refused.stderr
    assert time.monotonic() - began < 60
    assert name not in world.docker("images").stdout
    world.registry.set_rules([])
    pulled = world.pull(name)
    assert pulled.returncode == 0, pulled.stderr
    assert world.docker("run", "--rm", "--network", "none", f"{world.registry.host}/{name}:1", "/bin/sh", "-c", "echo works").stdout == "works\n"
    assert world.downloads() == []


# What goes away by itself within one pull.
PASSING_TROUBLE = {
    "a 429 that says when": {"match": "/manifests/", "do": "status", "status": 429, "headers": {"Retry-After": "1"}, "times": 1},
    "two 503": {"match": "/manifests/", "do": "status", "status": 503, "times": 2},
    "hanging up once": {"match": "LAYER", "do": "hang up", "times": 1},
    "a layer in four parts": {"match": "LAYER", "cut_after": 80_000, "times": 3},
    "a layer in parts, without ranges": {"match": "LAYER", "cut_after": 130_000, "no_ranges": True, "times": 1},
    "a hang in the middle": {"match": "LAYER", "cut_after": 70_000, "then": "hang", "times": 1},
}


@pytest.mark.parametrize("case", PASSING_TROUBLE)
def test_passing_trouble_is_waited_out(world, case):
    name, image = world.new_image()
    rule = dict(PASSING_TROUBLE[case])
    rule["match"] = rule["match"].replace("LAYER", image.digest(1))
    world.registry.set_rules([rule])
    pulled = world.pull(name)
    assert pulled.returncode == 0, pulled.stderr
    if case == "a layer in four parts":
        asked = [request["range"] for request in world.registry.requests() if image.digest(1) in request["path"]]
        assert asked[0] is None and len(asked) == 4 and all(asked[1:])
        assert world.registry.bytes_sent(image.digest(1)) == len(image.layers[1])


def start_slow_pull(world, name, image, layer, share):
    """Starts a pull that is throttled once `share` of a layer is there; returns its process when it is about there."""
    size = len(image.layers[layer])
    world.registry.set_rules([{"match": image.digest(layer), "cut_after": int(size * share), "then": "hang"}])
    process = subprocess.Popen(
        world.naru.scope.command(DOCKER, "-H", world.naru.host, "pull", f"{world.registry.host}/{name}:1"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=world.naru.environment())
    path = world.naru.data_root + "/downloads/" + image.digest(layer).removeprefix("sha256:")
    deadline = time.monotonic() + 60
    while not (os.path.exists(path) and os.path.getsize(path) >= int(size * share)):
        assert time.monotonic() < deadline, "the download did not come so far"
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("how", ["the daemon is killed", "the client is killed"])
def test_a_pull_killed_at_90_percent_fetches_less_than_10_percent_again(world, how):
    name, image = world.new_image(sizes=(400_000, 20_000_000))
    total = sum(map(len, image.layers))
    process = start_slow_pull(world, name, image, 2, 0.9)
    # The other layers are there; the big one stands at nine tenths.
    time.sleep(1)
    if how == "the daemon is killed":
        world.naru.kill9()
        process.wait()
        world.naru.start()
    else:
        process.kill()
        process.wait()
        time.sleep(0.3)
    world.registry.set_rules([])
    world.registry.forget_requests()
    pulled = world.pull(name)
    assert pulled.returncode == 0, pulled.stderr
    fetched = world.registry.bytes_sent("/blobs/")
    assert fetched < total * 0.1 + len(image.config), f"{fetched} of {total} bytes were fetched again"
    assert world.downloads() == []
    # Nothing of the first try is left behind either.
    assert os.listdir(world.naru.data_root + "/temporary") == []


def test_what_an_earlier_pull_left_is_not_believed(world):
    name, image = world.new_image(sizes=(4_000_000,))
    process = start_slow_pull(world, name, image, 1, 0.5)
    process.kill()
    process.wait()
    time.sleep(0.3)
    path = world.naru.data_root + "/downloads/" + image.digest(1).removeprefix("sha256:")
    with open(path, "r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    world.registry.set_rules([])
    pulled = world.pull(name)
    assert pulled.returncode == 0, pulled.stderr


def test_two_pulls_of_one_image_fetch_it_once(world):
    name, image = world.new_image(sizes=(5_000_000,))
    world.registry.set_rules([{"match": image.digest(1), "bytes_per_second": 5_000_000}])
    command = world.naru.scope.command(DOCKER, "-H", world.naru.host, "pull", "-q", f"{world.registry.host}/{name}:1")
    pulls = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    assert [pull.wait(30) for pull in pulls] == [0, 0, 0]
    assert world.registry.bytes_sent(image.digest(1)) == len(image.layers[1])


@pytest.mark.parametrize("compression", ["gzip", "zstd", "plain"])
def test_every_compression_is_pulled_and_pushed_under_the_same_digest(world, compression):
    name, image = world.new_image(compression=compression)
    assert world.pull(name).returncode == 0
    source, target = f"{world.registry.host}/{name}:1", f"{world.registry.host}/copy-{name}:1"
    world.docker("tag", source, target)
    pushed = world.docker("push", target)
    assert pushed.returncode == 0, pushed.stderr
    digests = [re.search("sha256:[0-9a-f]{64}", text)[0] for text in (
        pushed.stdout, world.docker("inspect", "-f", "{{index .RepoDigests 0}}", source).stdout)]
    assert digests[0] == digests[1]


def test_the_platform_is_chosen_from_an_index(world):
    name = world.new_name()
    images = {
        "amd64": Image((1000,), seed=501), "arm64": Image((1000,), seed=502, architecture="arm64", binary=False)}
    entries = []
    for architecture, image in images.items():
        digest = world.registry.put_image(name, "only-" + architecture, image)
        entries.append({
            "mediaType": image.manifest["mediaType"], "digest": digest,
            "size": len(json.dumps(image.manifest)),
            "platform": {"os": "linux", "architecture": architecture}})
    index = world.registry.put_manifest(name, "1", {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries})
    full = f"{world.registry.host}/{name}:1"
    inspect = lambda form: world.docker("inspect", "-f", form, full).stdout.strip()
    assert world.pull(name).returncode == 0
    assert inspect("{{.Architecture}}") == "amd64"
    assert inspect("{{index .RepoDigests 0}}").endswith(index)
    assert world.docker("pull", "--platform", "linux/arm64/v8", full).returncode == 0
    assert inspect("{{.Architecture}}") == "arm64"
    missing = world.docker("pull", "--platform", "linux/s390x", full)
    assert "no matching manifest for linux/s390x" in missing.stderr
    wrong = world.docker("pull", "--platform", "linux/arm64", f"{world.registry.host}/{name}:only-amd64")
    assert "does not match the specified platform" in wrong.stderr
    assert world.docker("pull", "--platform", "a/b/c/d", full).returncode == 1
    by_digest = f"{world.registry.host}/{name}@{index}"
    assert world.docker("pull", by_digest).returncode == 0


def test_the_same_bytes_are_never_manifest_and_index(world):
    """CVE-2021-41190."""
    name, image = world.new_image()
    both = dict(image.manifest, manifests=[])
    world.registry.put_manifest(name, "1", both)
    refused = world.pull(name)
    assert "ambiguous manifest" in refused.stderr


def test_an_artifact_is_no_image(world):
    name, image = world.new_image()
    manifest = dict(image.manifest, config=dict(image.manifest["config"], mediaType="application/vnd.example.config.v1+json"))
    world.registry.put_manifest(name, "1", manifest)
    assert "is no image" in world.pull(name).stderr


def test_every_tag_of_a_repository_is_pulled(world):
    name, _ = world.new_image(sizes=(1000,))
    world.registry.put_image(name, "2", Image((1001,), seed=777))
    pulled = world.docker("pull", "-a", f"{world.registry.host}/{name}")
    assert pulled.returncode == 0, pulled.stderr
    tags = world.docker("images", "--format", "{{.Tag}}", f"{world.registry.host}/{name}").stdout.split()
    assert sorted(tags) == ["1", "2"]


def test_a_token_is_fetched_with_and_without_a_password(world, tmp_path):
    name, public = world.new_name(), "public/" + world.new_name()
    for repository in (name, public):
        world.guarded.put_image(repository, "1", Image((2000,), seed=600))
    assert world.pull(public, world.guarded).returncode == 0
    refused = world.pull(name, world.guarded)
    assert refused.returncode == 1 and "unauthorized" in refused.stderr
    config = ["--config", str(tmp_path)]
    wrong = world.docker(*config, "login", "-u", "user", "-p", "wrong", world.guarded.host)
    assert wrong.returncode == 1 and "incorrect username or password" in wrong.stderr
    right = world.docker(*config, "login", "-u", "user", "-p", "secret", world.guarded.host)
    assert right.returncode == 0 and "Login Succeeded" in right.stdout
    full = f"{world.guarded.host}/{name}:1"
    assert world.docker(*config, "pull", full).returncode == 0
    pushed = world.docker(*config, "push", full)
    assert pushed.returncode == 0, pushed.stderr


def test_credentials_stay_with_their_registry(world, tmp_path):
    """CVE-2024-3727 and redirects: whoever a redirect leads to sees no credentials, nor does a mirror."""
    name, image = world.new_name(), Image((2000,), seed=601)
    world.guarded.put_image(name, "1", image)
    for blob in image.blobs:
        world.registry.put_blob(blob)
    config = ["--config", str(tmp_path)]
    world.docker(*config, "login", "-u", "user", "-p", "secret", world.guarded.host)
    world.guarded.set_rules([{"match": "/blobs/", "do": "redirect", "to": "http://127.0.0.1:5100"}])
    world.registry.forget_requests()
    pulled = world.docker(*config, "pull", f"{world.guarded.host}/{name}:1")
    assert pulled.returncode == 0, pulled.stderr
    asked = world.registry.requests()
    assert asked and all(request["authorization"] is None for request in asked)


def test_short_names_are_asked_of_the_mirror_first(world, tmp_path):
    name = world.new_name()
    world.mirror.put_image(f"library/{name}", "latest", Image((2000,), seed=602))
    # The mirror has a path of its own, which is before /v2/.
    world.mirror.set_rules([])
    auths = {"https://index.docker.io/v1/": {"auth": base64.b64encode(b"user:secret").decode()}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    world.mirror.forget_requests()
    pulled = world.docker("--config", str(tmp_path), "pull", name)
    asked = world.mirror.requests()
    assert asked and all(request["authorization"] is None for request in asked)
    assert asked[0]["path"] == f"/hub/v2/library/{name}/manifests/latest"
    assert pulled.returncode == 0, pulled.stderr
    assert f"docker.io/library/{name}:latest" in pulled.stdout
    missing = world.docker("pull", world.new_name())
    assert missing.returncode == 1 and "registry-1.docker.io" in missing.stderr


def test_a_broken_push_goes_on_where_it_was(world):
    name, image = world.new_image(sizes=(3_000_000,))
    assert world.pull(name).returncode == 0
    source, target = f"{world.registry.host}/{name}:1", f"{world.mirror.host}/pushed-{name}:1"
    world.docker("tag", source, target)
    world.mirror.set_rules([{"match": "/blobs/uploads/", "method": "PATCH", "cut_after": 1_000_000, "times": 2}])
    world.mirror.forget_requests()
    pushed = world.docker("push", target)
    assert pushed.returncode == 0, pushed.stderr
    received = sum(request.get("received", 0) for request in world.mirror.requests() if request["method"] == "PATCH")
    assert received < sum(map(len, image.blobs)) * 1.2
    again = world.docker("push", target)
    assert "Layer already exists" in again.stdout and "Pushed" not in again.stdout


def test_a_push_of_what_is_not_there_is_refused(world):
    refused = world.docker("push", f"{world.registry.host}/{world.new_name()}:1")
    assert refused.returncode == 1 and "An image does not exist locally with the tag" in refused.stderr


def test_search_shows_what_a_registry_finds(world):
    found = world.docker("search", "--format", "{{.Name}} {{.StarCount}}", f"{world.registry.host}/web")
    assert found.stdout == "found/web 3\n", found.stderr


def test_any_corrupted_byte_is_detected(world):
    """A hundred random corruptions, of what a registry serves and of what the store keeps."""
    choose = random.Random(20260101)
    undetected = []
    for number in range(50):
        name, image = world.new_image(sizes=(20_000,))
        part = choose.choice(["manifest", "config", "layer"])
        match, size = {
            "manifest": ("/manifests/", len(json.dumps(image.manifest))),
            "config": (image.manifest["config"]["digest"], len(image.config)),
            "layer": (image.digest(1), len(image.layers[1])),
        }[part]
        digest = world.registry.put_manifest(name, "1", image.manifest)
        at, bits = choose.randrange(size), choose.randrange(254)
        world.registry.set_rules([{"match": match, "flip": at, "bits": bits}])
        if world.docker("pull", f"{world.registry.host}/{name}@{digest}").returncode == 0:
            undetected.append(f"served {part} at {at}")
        world.registry.set_rules([])
    undetected += corrupt_store(world, choose)
    assert undetected == []


def corrupt_store(world, choose):
    """Flips single bytes of stored files, each put back afterwards; a save or a push must refuse every one."""
    undetected = []
    for compression in ("gzip", "plain"):
        name, image = world.new_image(sizes=(20_000,), compression=compression)
        full = f"{world.registry.host}/{name}:1"
        assert world.pull(name).returncode == 0
        for _ in range(25):
            path = choose.choice(stored_blobs(world, image))
            at = choose.randrange(os.path.getsize(path))
            flip(path, at)
            saved = world.docker("save", "-o", world.naru.base + "/saved.tar", full)
            if saved.returncode == 0:
                undetected.append(f"stored {os.path.relpath(path, world.naru.data_root)} at {at} ({compression})")
            flip(path, at)
        assert world.docker("save", "-o", world.naru.base + "/saved.tar", full).returncode == 0
    return undetected


def stored_blobs(world, image):
    """Files of the store that a blob of this image is, or is made of."""
    root = world.naru.data_root
    wanted = [image.digest(1), image.digest(0)]
    paths = []
    for layer in os.listdir(root + "/layers"):
        with open(f"{root}/layers/{layer}/layer.json") as file:
            if not any(digest in file.read() for digest in wanted):
                continue
        kept = f"{root}/layers/{layer}/blob"
        if os.path.exists(kept):
            paths.append(kept)
        else:
            paths.append(f"{root}/layers/{layer}/frame.zst")
            paths += [os.path.join(folder, name) for folder, _, names in os.walk(f"{root}/layers/{layer}/diff") for name in names]
    manifest = json.dumps(image.manifest).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    paths.append(f"{root}/blobs/sha256/{digest}")
    return paths


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x55]))
