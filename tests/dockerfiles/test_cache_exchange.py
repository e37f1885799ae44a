"""A build's cache on another engine: the same digest without running anything, and never a wrong one."""

import glob
import json
import os
import shutil

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


@pytest.fixture
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
