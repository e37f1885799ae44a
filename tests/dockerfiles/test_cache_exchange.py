"""A build's cache on another engine: the same digest without running anything, and never a wrong one."""

import glob
import json
import os
import shutil
import tarfile

import pytest
from test_build import CLIENT, write_context
from testkit.engine import NARU, Naru
from testkit.registry import DebianRegistry

# What is random is the same only where it was not made anew.
DOCKERFILE = """FROM busybox:test AS made
RUN head -c 3000 /dev/urandom >/r
FROM busybox:test
WORKDIR /w/deep
COPY a /a
RUN head -c 100 /dev/urandom >/w/r && chown 5:6 /a
COPY --from=made /r /r
ENV A=1
"""
STEPS = 4
# All of it is in the result.
INLINE = """FROM busybox:test
WORKDIR /w/deep
COPY a /a
RUN head -c 100 /dev/urandom >/w/r
ENV A=1
"""


@pytest.fixture
def folder(tmp_path):
    write_context(str(tmp_path / "c"), {"Dockerfile": DOCKERFILE, "a": "1"})
    return str(tmp_path / "c")


def build(engine, folder, *arguments):
    """The image's id, how many steps were not made, and everything that was said."""
    iidfile = folder + ".iid"
    done = engine.scope.run(NARU, "-H", engine.host, "build", "--iidfile", iidfile, *arguments, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(iidfile) as file:
        return file.read(), done.stdout.count("Using cache"), done.stdout


def forget(engine, image):
    engine.client("rmi", "-f", image)
    engine.client("builder", "prune", "-af")


@pytest.fixture(scope="module")
def other(images):
    engine = Naru("y")
    engine.start()
    engine.load(images + "/busybox.tar")
    yield engine
    engine.stop()
    engine.close()


def test_a_directory_brings_the_cache_to_another_engine(build_naru, other, folder, tmp_path):
    image, _, _ = build(build_naru, folder, "--cache-to", f"type=local,dest={tmp_path}/all,mode=max", "--cache-to", f"type=local,dest={tmp_path}/min")
    found, steps, said = build(other, folder, "--cache-from", f"type=local,src={tmp_path}/all")
    assert (found, steps) == (image, STEPS), said
    # Of the least there is no stage that the result does not stand on.
    forget(other, image)
    found, steps, said = build(other, folder, "--cache-from", f"type=local,src={tmp_path}/min")
    assert found != image and steps == STEPS - 2, said
    # What is torn is made anew, and said so.
    forget(other, found)
    manifest = json.loads(open(blob(tmp_path / "all", json.load(open(tmp_path / "all/index.json"))["manifests"][0])).read())
    with open(blob(tmp_path / "all", manifest["layers"][-1]), "r+b") as file:
        file.seek(40)
        file.write(b"xxxx")
    found, steps, said = build(other, folder, "--cache-from", f"type=local,src={tmp_path}/all")
    assert steps < STEPS and "is not used" in said, said
    for path in glob.glob(f"{tmp_path}/all/blobs/sha256/*"):
        os.truncate(path, 10)
    forget(other, found)
    found, steps, said = build(other, folder, "--cache-from", f"type=local,src={tmp_path}/all")
    assert steps == 0 and "no cache is used" in said, said
    assert other.client("run", "--rm", found, "cat", "/a").stdout == "1"
    forget(build_naru, image)


def test_an_image_carries_its_cache(build_naru, other, tmp_path):
    folder, argument = str(tmp_path / "c"), "--build-arg BUILDKIT_INLINE_CACHE=1"
    write_context(folder, {"Dockerfile": INLINE, "a": "1"})
    image, _, _ = build(build_naru, folder, "--cache-to", "type=inline", "-t", "inline:x")
    build_naru.client("save", "-o", folder + ".tar", "inline:x")
    forget(build_naru, image)
    other.load(folder + ".tar")
    # Named, it is all that is needed, whoever asks and however.
    docker = f"{CLIENT} -H {other.host} build --cache-from inline:x {argument} {folder}"
    for command in (f"{NARU} -H {other.host} build --cache-from inline:x --cache-to type=inline {folder}", f"DOCKER_BUILDKIT=0 {docker}", f"DOCKER_BUILDKIT=1 {docker} --progress=plain"):
        other.client("builder", "prune", "-af")
        done = other.scope.shell(command)
        said = done.stdout + done.stderr
        assert image.removeprefix("sha256:")[:12] in said and said.count("Using cache") + said.count("CACHED") == 2, said
    # Without its cache the image is another one, and what is not named does not count.
    other.client("builder", "prune", "-af")
    plain, steps, _ = build(other, folder)
    assert plain != image and steps == 0
    # An image's history says what was copied by its name alone: it is no cache.
    other.client("tag", plain, "inline:plain")
    other.client("builder", "prune", "-af")
    done = other.scope.shell(f"DOCKER_BUILDKIT=0 {CLIENT} -H {other.host} build --cache-from inline:plain --cache-from inline:none {folder}")
    assert "no cache is used of inline:plain: it is an image that carries no cache" in done.stdout and "no cache is used of inline:none" in done.stdout, done
    assert done.stdout.count("Using cache") == 0, done
    # Another file of the same name is another step, and so are those on it.
    write_context(folder, {"a": "2"})
    assert build(other, folder, "--cache-from", "inline:x")[1] == 0
    # What is made of the image does not have its cache.
    write_context(folder, {"Dockerfile": "FROM inline:x\nENV B=1\n"})
    build(other, folder, "-t", "inline:child")
    other.client("save", "-o", folder + ".tar", "inline:child")
    with tarfile.open(folder + ".tar") as archive:
        texts = [archive.extractfile(member).read() for member in archive if member.isfile() and member.size < 10000]
    assert any(b"B=1" in text for text in texts) and not any(b"moby.buildkit.cache" in text for text in texts)
    other.client("rmi", "-f", "inline:x", "inline:plain", "inline:child")


def test_cache_mounts_travel_where_they_are_asked_for(build_naru, other, tmp_path):
    folder, cache, bare = (str(tmp_path / name) for name in ("c", "cache", "bare"))
    run = "FROM busybox:test\nARG A\nRUN --mount=type=cache,target=/c,id=travels "
    write_context(folder, {"Dockerfile": run + "mkdir -m 710 /c/d; echo one >/c/d/x; chown 5:6 /c/d/x; chmod 640 /c/d/x; ln -s /etc/passwd /c/link\n"})
    build(build_naru, folder, "--cache-to", f"type=local,dest={cache},cache-mounts=true", "--cache-to", f"type=local,dest={bare},mode=max")
    see = "(stat -c '%a %u:%g' /c/d /c/d/x; readlink /c/link; cat /c/d/x) >/seen 2>&1; mkdir -p /c/d; echo two >/c/d/x\n"
    write_context(folder, {"Dockerfile": run + see})

    def seen(source, argument):
        image, steps, said = build(other, folder, "--cache-from", f"type=local,src={source}", "--build-arg", f"A={argument}")
        assert steps == 0 and "Warning" not in said, said
        return other.client("run", "--rm", image, "cat", "/seen").stdout

    assert "No such file" in seen(bare, 1)
    other.client("builder", "prune", "-af")
    assert seen(cache, 2) == "710 0:0\n640 5:6\n/etc/passwd\none\n"
    # What is here is never replaced.
    assert seen(cache, 3).endswith("two\n")
    build_naru.client("builder", "prune", "-af")


def blob(directory, descriptor):
    return f"{directory}/blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"


def test_a_registry_keeps_the_cache(build_naru, folder, tmp_path):
    registry = DebianRegistry(build_naru.scope)
    name = "127.0.0.1:5000/cache:x"
    try:
        image, _, _ = build(build_naru, folder, "--cache-to", f"type=registry,ref={name},mode=max")
        seen = build_naru.scope.shell("curl -sf -H 'Accept: application/vnd.oci.image.manifest.v1+json' http://127.0.0.1:5000/v2/cache/manifests/x")
        assert json.loads(seen.stdout)["config"]["mediaType"] == "application/vnd.buildkit.cacheconfig.v0", seen
        forget(build_naru, image)
        found, steps, said = build(build_naru, folder, "--cache-from", name)
        assert (found, steps) == (image, STEPS), said
        forget(build_naru, image)
        done = build_naru.scope.shell(f"DOCKER_BUILDKIT=1 {CLIENT} -H {build_naru.host} build -q --cache-from {name} {folder}")
        assert done.stdout.strip() == image, done
        # An image there may carry its cache as well.
        forget(build_naru, image)
        write_context(folder + "2", {"Dockerfile": INLINE, "a": "1"})
        # With what is attested of it the name means a list of manifests.
        inline, _, _ = build(build_naru, folder + "2", "--cache-to", "type=inline", "-t", "127.0.0.1:5000/inline:x", "--push", "--sbom=true")
        forget(build_naru, inline)
        found, steps, said = build(build_naru, folder + "2", "--cache-to", "type=inline", "--cache-from", "127.0.0.1:5000/inline:x")
        assert (found, steps) == (inline, 2), said
        forget(build_naru, inline)
        # So may cache mounts be there.
        mount, there = "FROM busybox:test\nRUN --mount=type=cache,target=/c,id=sent,sharing=private ", f"type=registry,ref={name}"
        write_context(folder + "3", {"Dockerfile": mount + "echo one >/c/x\n"})
        forget(build_naru, build(build_naru, folder + "3", "--cache-to", there + ",cache-mounts=true")[0])
        write_context(folder + "3", {"Dockerfile": mount + "cp /c/x /seen\n"})
        found, _, said = build(build_naru, folder + "3", "--cache-from", there)
        assert build_naru.client("run", "--rm", found, "cat", "/seen").stdout == "one\n", said
        forget(build_naru, found)
        # A cache that is not there is told, and nothing else.
        forget(build_naru, image)
        found, _, said = build(build_naru, folder, "--cache-from", "127.0.0.1:5000/none:x")
        assert found != image and "no cache is used of 127.0.0.1:5000/none:x" in said, said
        forget(build_naru, found)
    finally:
        registry.close()
    failed = build_naru.scope.run(NARU, "-H", build_naru.host, "build", "--cache-to", "127.0.0.1:1/x", folder)
    assert failed.returncode == 1 and "the cache cannot be sent to 127.0.0.1:1/x" in failed.stdout + failed.stderr, failed
    shutil.rmtree(folder)
    write_context(folder, {"Dockerfile": "FROM busybox:test\n"})
    assert build(build_naru, folder, "--cache-to", "type=registry,ref=127.0.0.1:1/x,ignore-error=true")[0]
