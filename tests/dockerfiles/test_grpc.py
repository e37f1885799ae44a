"""BuildKit's own interface (`/grpc` and `/session`), by a client on the published Rust bindings, as buildx's driver for Docker uses it."""

import base64
import json
import os
import re
import subprocess
import tarfile
import time

import pytest
from test_build import CLIENT, write_context
from testkit.engine import NARU, ROOT
from testkit.registry import DebianRegistry

B = "FROM busybox:test\n"


@pytest.fixture(scope="session")
def program():
    """Built once; it is no part of the product's workspace."""
    target = os.path.join(ROOT, "target", "buildkit-client")
    built = subprocess.run(["cargo", "build", "--quiet", "--locked", "--manifest-path", f"{ROOT}/tests/buildkit-client/Cargo.toml", "--target-dir", target], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return target + "/debug/buildkit-client"


def grpc_build(engine, program, tmp_path, files, name, *options, verb=None, **more):
    folder = str(tmp_path / "context")
    if not os.path.exists(folder):
        write_context(folder, files)
    subprocess.run(["tar", "-C", folder, "-cf", folder + ".tar", "."], check=True)
    words = [verb, folder + ".tar"] if verb else [folder + ".tar", name]
    return engine.scope.run(program, engine.host.removeprefix("unix://"), *words, *options, **more)


def inspect(engine, name):
    return json.loads(engine.scope.shell(f"{CLIENT} -H {engine.host} image inspect {name}").stdout)[0]


@pytest.mark.seconds(600)
def test_the_published_client_builds_what_the_classic_one_builds(build_naru, program, tmp_path):
    files = {"Dockerfile": B + "ARG A\nCOPY . /c\nRUN --mount=type=secret,id=s md5sum /run/secrets/s >/sum; echo $A >/a\nFROM busybox:test\nRUN touch /never\n", "a": "1", "d/b": "2"}
    (tmp_path / "secret").write_text("secret")
    result = grpc_build(build_naru, program, tmp_path, files, "grpc:x", "arg:A=argument", "label:k=v", "target=0", "nocache=1", f"secret:s={tmp_path}/secret")
    assert result.returncode == 0, result.stderr
    image = inspect(build_naru, "grpc:x")
    assert image["RepoTags"] == ["grpc:x"] and image["Config"]["Labels"] == {"k": "v"}
    shown = build_naru.client("run", "--rm", "grpc:x", "sh", "-c", "cat /a /c/a /c/d/b; cut -c-32 /sum")
    assert shown.stdout == "argument\n125ebe2294ecd0e0f08eab7690d2a6ee69\n", shown
    # The same image as by any other way.
    command = f"DOCKER_BUILDKIT=1 {CLIENT} -H {build_naru.host} build -q --target 0 --build-arg A=argument --label k=v --secret id=s,src={tmp_path}/secret {tmp_path}/context"
    other = build_naru.scope.shell(command)
    assert other.stdout.strip() == image["Id"], other
    build_naru.client("rmi", "grpc:x")


def test_what_is_kept_and_was_built_is_told(build_naru, program, tmp_path):
    socket = build_naru.host.removeprefix("unix://")
    build_naru.scope.run(program, socket, "control", "id==none")
    files = {"Dockerfile": B + "RUN --mount=type=cache,target=/c,id=over-grpc dd if=/dev/zero of=/c/x bs=1k count=10 2>/dev/null\n"}
    assert grpc_build(build_naru, program, tmp_path, files, "grpc:kept").returncode == 0
    told = build_naru.scope.run(program, socket, "control", "type==exec.cachemount,description~=over-grpc")
    mount = "cached mount /c with id \"over-grpc\""
    assert told.stdout.splitlines() == [f"kept exec.cachemount 10240 1 {mount}", f"pruned {mount}", "built 1 "], told
    build_naru.client("rmi", "grpc:kept")
    assert build_naru.scope.run(program, socket, "control", "type==exec.cachemount,description~=over-grpc").stdout == "", "all of it is gone"


LINTED = "# kinds of it\nARG kinds=2\nFROM busybox:test AS first\nARG V=1\nRUN --mount=type=secret,id=s :\nFROM first as second\nRUN \\\n :\nMAINTAINER me\n"


def call(engine, program, tmp_path, *options):
    """Steers a build: what its answer says, by name, and the lines before."""
    folder = str(tmp_path / "context")
    if not os.path.exists(folder):
        write_context(folder, {"Dockerfile": LINTED})
        subprocess.run(["tar", "-C", folder, "-cf", folder + ".tar", "."], check=True)
    result = engine.scope.run(program, engine.host.removeprefix("unix://"), "call", folder + ".tar", *options)
    assert result.returncode == 0, result
    lines, *answers = re.split(r"^== ", result.stdout, flags=re.M)
    return dict(answer.split("\n", 1) for answer in answers), lines


def test_warnings_are_warnings(build_naru, program, tmp_path):
    _, lines = call(build_naru, program, tmp_path)
    definition = '"[internal] load build definition from Dockerfile"'
    page = "https://docs.docker.com/go/dockerfile/rule/"
    assert re.sub(r": .* \(line", ": (line", lines).splitlines() == [
        f"warning 1 {definition} FromAsCasing: (line 6) {page}from-as-casing/", f"about Dockerfile (6, 6) Dockerfile {len(LINTED)} AS should be written in the same case as FROM",
        f"warning 1 {definition} MaintainerDeprecated: (line 9) {page}maintainer-deprecated/", f"about Dockerfile (9, 9) Dockerfile {len(LINTED)} MAINTAINER is deprecated: a label names the author",
    ], lines


def test_what_is_to_be_attested_is_an_attribute(build_naru, program, tmp_path):
    _, lines = call(build_naru, program, tmp_path, "attest:sbom=generator=x/scan")
    assert "refused" in lines and "x/scan" in lines
    call(build_naru, program, tmp_path, "label:over=grpc", "attest:sbom=", "attest:provenance=mode=max,inline-only=true")
    image = build_naru.client("images", "-q", "--no-trunc", "--filter", "label=over=grpc").stdout.strip()
    assert inspect(build_naru, image)["Attestations"] == ["https://spdx.dev/Document", "https://slsa.dev/provenance/v0.2"]
    how = json.loads(build_naru.client("image", "provenance", image, program=NARU).stdout)
    assert how["invocation"]["parameters"]["args"] == {"label:over": "grpc"} and how["invocation"]["parameters"]["secrets"] == [{"id": "s", "optional": True}]
    build_naru.client("rmi", image)


def test_questions_are_answered_without_a_build(build_naru, program, tmp_path):
    """What buildx asks for `--check` and `--call`."""
    told, _ = call(build_naru, program, tmp_path, "requestid=frontend.lint")
    result = json.loads(told["result.json"])
    rules = [(one["ruleName"], one["location"]["ranges"][0]["start"]["line"]) for one in result["warnings"]]
    assert (rules, told["result.statuscode"].strip(), told["version"].strip()) == ([("FromAsCasing", 6), ("MaintainerDeprecated", 9)], "1", "1.0.0")
    source = result["sources"][0]
    assert (source["filename"], base64.b64decode(source["data"]).decode()) == ("Dockerfile", LINTED) and "WARNING: FromAsCasing - https://" in told["result.txt"]
    told, _ = call(build_naru, program, tmp_path, "requestid=frontend.outline", "target=second", "build-arg:V=3")
    result = json.loads(told["result.json"])
    assert [(one["name"], one["value"]) for one in result["args"]] == [("V", "3")] and [one["name"] for one in result["secrets"]] == ["s"] and result["name"] == "second", result
    assert re.search(r"^BUILD ARG +VALUE +DESCRIPTION\nV +3 *$", told["result.txt"], re.M), told

    def own(*flags):
        return build_naru.client("build", *flags, str(tmp_path / "context"), program=NARU)

    assert own("--call=outline", "--target=second", "--build-arg=V=3").stdout.strip() == told["result.txt"].strip()
    assert "did you mean second?" in own("--call=outline", "--target=secnod").stderr and "outline or targets" in own("--call=nosuch").stderr
    told, _ = call(build_naru, program, tmp_path, "requestid=frontend.targets")
    assert [(one["name"], one["base"], one["default"]) for one in json.loads(told["result.json"])["targets"]] == [("first", "busybox:test", False), ("second", "first", True)]
    assert "second (default)" in told["result.txt"] and own("--call=targets").stdout.strip() == told["result.txt"].strip()
    told, _ = call(build_naru, program, tmp_path, "requestid=frontend.subrequests.describe")
    assert {one["name"] for one in json.loads(told["result.json"])} == {"frontend.lint", "frontend.outline", "frontend.targets", "frontend.subrequests.describe"}
    _, lines = call(build_naru, program, tmp_path, "requestid=frontend.nosuch")
    assert lines.startswith("refused Unimplemented") and "frontend.nosuch" in lines, lines


def test_what_goes_wrong_is_told(build_naru, program, tmp_path):
    files = {"Dockerfile": B + "RUN exit 9\n"}
    failed = grpc_build(build_naru, program, tmp_path, files, "grpc:failed")
    assert failed.returncode == 1 and "code: 9" in failed.stderr, failed.stderr
    missing = grpc_build(build_naru, program, tmp_path, files, "grpc:failed", "target=nosuch")
    assert missing.returncode == 1 and "nosuch" in missing.stderr, missing.stderr


def test_a_client_that_leaves_ends_its_build(build_naru, program, tmp_path):
    folder = str(tmp_path / "context")
    write_context(folder, {"Dockerfile": B + "RUN touch /begun; sleep 1000\n"})
    subprocess.run(["tar", "-C", folder, "-cf", folder + ".tar", "."], check=True)
    client = subprocess.Popen(build_naru.scope.command(program, build_naru.host.removeprefix("unix://"), folder + ".tar", "grpc:left"))
    deadline = time.monotonic() + 60
    while not build_naru.client("ps", "-q").stdout:
        assert time.monotonic() < deadline and client.poll() is None, "the step does not begin"
        time.sleep(0.05)
    client.kill()
    client.wait()
    while build_naru.client("ps", "-aq").stdout or os.listdir(build_naru.data_root + "/builds/running"):
        assert time.monotonic() < deadline, "the step's container is still there"
        time.sleep(0.05)


TREE = B + "COPY a /a\nRUN head -c 100 /dev/urandom >/r\n"


def solve(engine, program, tmp_path, files, *words):
    """What the client says of a solve with these outputs and caches."""
    return grpc_build(engine, program, tmp_path, files, "", *words, verb="solve")


def answers(done):
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_outputs_are_given(build_naru, program, tmp_path):
    files = {"Dockerfile": TREE, "a": "one"}
    tar, oci, docker = (tmp_path / name for name in ("files.tar", "oci.tar", "docker.tar"))
    for kind, dest in (("tar", tar), ("oci", oci), ("docker", docker)):
        name = "" if kind == "tar" else ",name=grpc:given"
        answers(solve(build_naru, program, tmp_path, files, f"output:{kind},dest={dest}{name}"))
    with tarfile.open(tar) as archive:
        assert archive.extractfile("a").read() == b"one"
    for path in (oci, docker):
        assert "grpc:given" in build_naru.client("load", "-i", str(path)).stdout
        assert build_naru.client("rmi", "grpc:given").returncode == 0
    given = solve(build_naru, program, tmp_path, files, "output:local").stdout.splitlines()
    assert "file a 644 0:0 \"\" \"one\" {}" in given, given
    # An image in the engine is the same one, told by its digest.
    told = answers(solve(build_naru, program, tmp_path, files, "output:image,name=grpc:listed"))
    assert told["containerimage.config.digest"] == inspect(build_naru, "grpc:listed")["Id"] and "grpc:listed" in told["image.name"]
    build_naru.client("rmi", "grpc:listed")
    refused = solve(build_naru, program, tmp_path, files, "output:tar")
    assert refused.returncode == 1 and "the client takes no files" in refused.stderr, refused


def test_what_is_attested_goes_with_every_output(build_naru, program, tmp_path):
    files = {"Dockerfile": TREE, "a": "one"}
    wanted = ("option:attest:sbom=", "option:attest:provenance=mode=min")
    given = solve(build_naru, program, tmp_path, files, "output:local", *wanted).stdout
    assert {"file provenance.json 644 0:0", "file sbom.spdx.json 644 0:0", "file a 644 0:0"} <= {line.split(' "')[0] for line in given.splitlines()}, given
    for kind, further in ("oci", ",annotation.example.key=v,annotation-index.example.other=w"), ("tar", ""):
        answers(solve(build_naru, program, tmp_path, files, f"output:{kind},dest={tmp_path}/{kind}.tar{further}", *wanted))
    with tarfile.open(tmp_path / "tar.tar") as archive:
        how = json.load(archive.extractfile("provenance.json"))
    assert "a" in {one["name"] for one in how["subject"]}
    with tarfile.open(tmp_path / "oci.tar") as archive:
        (index,) = json.load(archive.extractfile("index.json"))["manifests"]
        blob = lambda descriptor: json.load(archive.extractfile("blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")))
        image, attesting = blob(index)["manifests"]
        assert attesting["annotations"]["vnd.docker.reference.digest"] == image["digest"]
        assert blob(index)["annotations"] == {"example.other": "w"} and blob(image)["annotations"] == {"example.key": "v"}


@pytest.fixture
def content(build_naru, tmp_path):
    """containerd's own store of blobs, as buildx serves it of directories."""
    (tmp_path / "config.toml").write_text(f"""version = 2
root = "{tmp_path}/store"
state = "{tmp_path}/state"
imports = []
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
address = "{tmp_path}/containerd.sock"
""")
    process = subprocess.Popen(build_naru.scope.command("containerd", "--config", str(tmp_path / "config.toml")), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not os.path.exists(tmp_path / "containerd.sock"):
        assert time.monotonic() < deadline and process.poll() is None, "containerd does not begin"
        time.sleep(0.02)
    yield f"{tmp_path}/containerd.sock"
    process.terminate()
    process.wait()


def test_caches_are_kept_with_the_client_and_taken_from_there(build_naru, program, tmp_path, content):
    files = {"Dockerfile": TREE.replace("RUN ", "RUN --mount=type=cache,target=/c,id=grpc-cache date +%N >/c/x; "), "a": "one"}
    output, served = "output:image,name=grpc:cached", f"containerd:{content}"

    def run(*words):
        build_naru.client("rmi", "-f", "grpc:cached")
        build_naru.client("builder", "prune", "-af")
        return answers(solve(build_naru, program, tmp_path, files, output, *words))

    made = run(served, "cache-to:local,dest=store,mode=max,cache-mounts=true", "cache-to:inline")
    image, manifest = made["containerimage.config.digest"], json.loads(made["cache.manifest"])
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    source = f"local,src=store,digest={manifest['digest']}"
    found = run(served, f"cache-from:{source}", "cache-to:inline")
    assert found["containerimage.config.digest"] == image, found
    # As buildx says it: among the frontend's options. And blobs that are there are not sent again.
    imports = json.dumps([{"Type": "local", "Attrs": {"src": "store", "digest": manifest["digest"]}}])
    found = run(served, f"option:cache-imports={imports}", "cache-to:inline", "cache-to:local,dest=store,mode=max")
    assert found["containerimage.config.digest"] == image, found
    # The image alone is enough.
    build_naru.client("tag", "grpc:cached", "grpc:carries")
    found = run("cache-from:registry,ref=grpc:carries", "option:build-arg:BUILDKIT_INLINE_CACHE=1")
    assert found["containerimage.config.digest"] == image, found
    # Without a store, or of a cache that is not there, the build goes on; only what is to be kept must be.
    assert run(f"cache-from:{source}")["containerimage.config.digest"] != image
    absent = source.replace(manifest["digest"], "sha256:" + "0" * 64)
    assert run(served, f"cache-from:{absent}")["containerimage.config.digest"] != image
    for words, reason in ((("cache-to:local,dest=store",), "serves no store local:store"), ((served, "cache-to:local,dest=other"), "there is no store"), (("cache-to:gha",), "type=gha is not supported")):
        refused = solve(build_naru, program, tmp_path, files, output, *words)
        assert refused.returncode == 1 and reason in refused.stderr, refused
    build_naru.client("rmi", "-f", "grpc:cached", "grpc:carries")


def test_a_registry_keeps_images_and_caches(build_naru, program, tmp_path):
    files, registry = {"Dockerfile": TREE, "a": "one"}, DebianRegistry(build_naru.scope)
    try:
        made = answers(solve(build_naru, program, tmp_path, files, "output:image,name=127.0.0.1:5000/grpc:x,push=true", "cache-to:registry,ref=127.0.0.1:5000/grpc:cache,mode=max"))
        build_naru.client("rmi", "-f", "127.0.0.1:5000/grpc:x")
        build_naru.client("builder", "prune", "-af")
        found = answers(solve(build_naru, program, tmp_path, files, "output:registry,name=127.0.0.1:5000/grpc:x", "cache-from:registry,ref=127.0.0.1:5000/grpc:cache"))
        assert found["containerimage.config.digest"] == made["containerimage.config.digest"], found
        build_naru.client("rmi", "-f", "127.0.0.1:5000/grpc:x")
    finally:
        registry.close()
