"""What builds promise beyond their result: the same digest everywhere, nothing left half made, and clients' ways in."""

import io
import json
import os
import random
import re
import shutil
import subprocess
import tarfile
import threading
import time

import docker
import pytest
from testkit.engine import NARU, Naru

PLAIN = """FROM busybox:test
WORKDIR /app
COPY . .
RUN echo made >/made && mkdir -p /var/x && touch /var/x/y && date >/dev/null
ENV A=1
RUN ls -l /app | wc -l >/count
"""


def write(folder, files, order=1, mtime=None, mask=0o022):
    before = os.umask(mask)
    try:
        os.makedirs(folder)
        for name, text in list(files.items())[::order]:
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
            os.chmod(path, 0o644)
            os.chmod(os.path.dirname(path), 0o755)
            if mtime:
                os.utime(path, (mtime, mtime))
    finally:
        os.umask(before)
    return folder


def build(engine, folder, *arguments, program=NARU, **options):
    return engine.scope.run(program, "-H", engine.host, "build", *arguments, folder, env={"DOCKER_BUILDKIT": "0", "PATH": os.environ["PATH"], "HOME": "/nonexistent"}, **options)


def built(engine, folder, *arguments, **options):
    result = build(engine, folder, "-q", *arguments, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip()


CLOCK = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += 10L * 366 * 24 * 60 * 60;
    return failed;
}
"""


class Elsewhen(Naru):
    """An engine whose clock is ten years ahead of the kernel's."""

    def __init__(self, label, folder):
        super().__init__(label)
        self.clock = str(folder / "clock.so")
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", self.clock, "-"], input=CLOCK, text=True, check=True)

    def daemon_command(self):
        return ["env", "LD_PRELOAD=" + self.clock, *super().daemon_command()]


def test_the_same_inputs_make_the_same_digest(build_naru, images, tmp_path):
    """Another data root, clock, directory order, path, umask, times of the context."""
    files = {"Dockerfile": PLAIN, "a": "1", "sub/b": "2", "sub/c": "3"}
    first = built(build_naru, write(str(tmp_path / "one"), files, mtime=1_000_000_000))
    again = built(build_naru, write(str(tmp_path / "two"), files, order=-1, mtime=1_700_000_000), "--no-cache")
    assert first == again
    other = Elsewhen("x", tmp_path)
    try:
        other.start()
        year = int(other.client("info", "-f", "{{.SystemTime}}").stdout[:4])
        assert year >= int(time.strftime("%Y")) + 9, "the engine's clock was not moved"
        other.load(images + "/busybox.tar")
        with_umask = write(str(tmp_path / "a much longer path/three"), files, mask=0o077)
        assert built(other, with_umask) == first
        assert built(other, with_umask, "--build-arg", "SOURCE_DATE_EPOCH=1600000000") != first
        made = other.client("run", "--rm", built(other, with_umask, "--build-arg", "SOURCE_DATE_EPOCH=1600000000"), "stat", "-c", "%Y", "/made", "/app/a", "/var/x")
        assert made.stdout.split() == ["1600000000"] * 3, made
        other.remove_all_containers()
    finally:
        other.stop()
        other.close()


def test_a_built_image_is_as_old_as_its_build(build_naru, tmp_path):
    """Its configuration has the time of its base, so that the same inputs give the same image; lists and `until` do not."""
    folder = write(str(tmp_path / "aged"), {"Dockerfile": "FROM busybox:test\nLABEL aged=yes\nCOPY a /\n", "a": str(time.time())})

    def client(*arguments):
        result = build_naru.client(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    image = built(build_naru, folder, "-t", "aged:1")
    base = client("image", "inspect", "-f", "{{.Created}}", "busybox:test")
    assert client("image", "inspect", "-f", "{{.Created}}", "aged:1") == base
    assert re.match("(About|Less|[0-9]+ seconds?)", client("images", "--format", "{{.CreatedSince}}", "aged"))
    assert client("images", "-q", "--filter", "since=busybox:test", "aged")
    assert client("images", "--format", "{{.Repository}}").split()[0] == "aged", "the newest comes first"
    client("image", "prune", "-af", "--filter", "label=aged", "--filter", "until=1h")
    assert client("images", "-q", "--no-trunc", "aged") == image
    client("image", "prune", "-af", "--filter", "label=aged", "--filter", f"until={int(time.time()) + 2}")
    assert client("images", "-q", "aged") == ""


def test_the_cache_answers_only_for_the_same_inputs(build_naru, tmp_path):
    folder = write(str(tmp_path / "c"), {"Dockerfile": "FROM busybox:test\nARG V=1\nCOPY a /\nRUN cat /a; echo $V >/v\nLABEL l=1\n", "a": "1", "unused": "x"})

    def cached():
        result = build(build_naru, folder, *extra)
        assert result.returncode == 0, result.stderr
        return result.stdout.count("Using cache")

    extra = []
    cached()
    assert cached() == 2
    for path, text, steps in (("unused", "y", 2), ("a", "2", 0), ("a", "1", 2)):
        with open(f"{folder}/{path}", "w") as file:
            file.write(text)
        assert cached() == steps, path
    os.utime(folder + "/a", (1, 1))
    assert cached() == 2
    os.chmod(folder + "/a", 0o755)
    assert cached() == 0
    extra = ["--build-arg", "V=2"]
    assert cached() == 1
    extra = ["--no-cache"]
    assert cached() == 0
    pruned = docker.APIClient(base_url=build_naru.host).prune_builds(all=True)
    assert pruned["SpaceReclaimed"] >= 0 and pruned["CachesDeleted"]
    extra = []
    assert cached() == 0
    for program in ("/usr/bin/docker", NARU):
        for words, steps in (["builder", "prune", "-af", "--filter", "until=1h"], 2), (["system", "prune", "-f", "--filter", "until=1h"], 2), (["builder", "prune", "-af"], 0), (["system", "prune", "-f"], 0):
            done = build_naru.client(*words, program=program)
            assert done.returncode == 0 and "Total reclaimed space: " in done.stdout, done.stderr
            assert ("Deleted build cache objects:" in done.stdout) == (steps == 0)
            assert cached() == steps, words
        # What an image has too is no use to prune, unless all is asked for.
        build_naru.client("builder", "prune", "-f", "--keep-storage", "1", program=program)
        assert cached() == 2


def test_an_image_that_loses_its_name_stays_and_the_steps_are_in_no_list(build_naru, tmp_path):
    engine = build_naru
    folder = write(str(tmp_path / "c"), {"Dockerfile": "FROM busybox:test\nCOPY a /\nRUN echo 1 >/b\n", "a": "1"})
    nameless = engine.client("images", "-aq", "--filter", "dangling=true").stdout.count("\n")
    first = built(engine, folder, "-t", "lost:x")
    with open(folder + "/a", "w") as file:
        file.write("2")
    second = built(engine, folder, "-t", "lost:x", "-t", "lost:y")
    listed = [line.split() for line in engine.client("images", "-a", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").stdout.splitlines()]
    assert ["<none>:<none>", first] in listed and ["lost:x", second] in listed and ["lost:y", second] in listed
    assert len([one for one in listed if one[0] == "<none>:<none>"]) == nameless + 1, listed
    assert engine.client("rmi", first).returncode == 0
    # What a build keeps is there again at once.
    assert "Using cache" in build(engine, folder).stdout
    engine.client("rmi", "lost:x", "lost:y")


def test_a_client_that_leaves_ends_its_build(build_naru, tmp_path):
    engine = build_naru
    folder = write(str(tmp_path / "c"), {"Dockerfile": "FROM busybox:test\nRUN echo begun; sleep 1000\n"})
    client = subprocess.Popen(engine.scope.command(NARU, "-H", engine.host, "build", folder), stdout=subprocess.PIPE, text=True)
    assert any("begun" in line for line in client.stdout)
    client.kill()
    client.wait()
    client.stdout.close()
    deadline = time.monotonic() + 20
    while engine.client("ps", "-aq").stdout:
        assert time.monotonic() < deadline, "the step's container is still there"
        time.sleep(0.05)
    assert os.listdir(engine.data_root + "/builds/running") == []


@pytest.mark.seconds(400)
def test_a_daemon_killed_while_building_leaves_nothing_corrupt(fresh_naru, tmp_path):
    """At random moments; the next build is right, and nothing but its cache is left of the other."""
    engine = fresh_naru
    rounds = int(os.environ.get("NARU_BUILD_KILLS", "100" if os.environ.get("CI") else "12"))
    seed = int(os.environ.get("NARU_SEED", random.randrange(1 << 32)))
    print("seed", seed)
    dice = random.Random(seed)
    files = {"Dockerfile": PLAIN, **{f"sub/{number}": str(number) * 500 for number in range(200)}}
    folder = write(str(tmp_path / "c"), files)
    expected = built(engine, folder)
    began = time.monotonic()
    assert built(engine, folder, "--no-cache") == expected
    whole = time.monotonic() - began
    for kill in range(rounds):
        client = subprocess.Popen(engine.scope.command(NARU, "-H", engine.host, "build", "-q", "--no-cache", folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0, whole))
        engine.kill9()
        client.wait()
        engine.start()
        assert engine.client("ps", "-aq").stdout == "", f"round {kill}, seed {seed}"
        assert os.listdir(engine.data_root + "/builds/running") == []
        arguments = ["--no-cache"] if kill % 2 else []
        assert built(engine, folder, *arguments) == expected, f"round {kill}, seed {seed}"
        count = engine.client("run", "--rm", expected, "sh", "-c", "cat /count; cat /app/sub/* | wc -c; cat /made")
        assert count.stdout.split() == ["3", str(sum(len(text) for name, text in files.items() if name.startswith("sub"))), "made"], f"round {kill}, seed {seed}: {count}"


@pytest.mark.parametrize("client", ["/usr/bin/docker", "/usr/local/bin/docker", NARU])
def test_every_client_sends_what_is_not_ignored(build_naru, tmp_path, client):
    if not os.path.exists(client):
        pytest.skip(f"{client} is not here")
    files = {"Dockerfile": "FROM busybox:test\nCOPY . /c\nRUN find /c | sort\n", ".dockerignore": "*.md\n!keep.md\nsub/deep\n**/skip\n!sub/deep/let in\n",
             "a.md": "", "keep.md": "", "sub/x": "", "sub/skip": "", "sub/deep/y": "", "sub/deep/let in": "", "Dockerfile.md": ""}
    folder = write(str(tmp_path / "c"), files)
    result = build(build_naru, folder, "--no-cache", program=client)
    assert result.returncode == 0, result.stderr
    names = set(re.findall(r"^/c/(.*)$", result.stdout, re.M))
    assert names == {".dockerignore", "Dockerfile", "keep.md", "sub", "sub/x", "sub/deep", "sub/deep/let in"}


def test_narus_client_reads_dockerfiles_from_everywhere(build_naru, tmp_path):
    engine = build_naru
    folder = write(str(tmp_path / "c"), {"a": "1", "other/File": "FROM busybox:test\nCOPY a /\nRUN echo other\n"})
    outside = tmp_path / "Outside"
    outside.write_text("FROM busybox:test\nCOPY a /b\nRUN echo outside\n")
    assert "other" in build(engine, folder, "-f", folder + "/other/File").stdout
    assert "outside" in build(engine, folder, "-f", str(outside)).stdout
    command = f"echo 'FROM busybox:test\nRUN echo from stdin' | {NARU} -H {engine.host} build -"
    assert "from stdin" in engine.scope.shell(command).stdout
    command = f"tar -C {folder} -cz . | {NARU} -H {engine.host} build -f other/File -q -"
    assert engine.scope.shell(command).stdout.startswith("sha256:")
    iidfile = str(tmp_path / "iid")
    image = built(engine, folder, "-f", folder + "/other/File", "--iidfile", iidfile)
    with open(iidfile) as file:
        assert file.read() == image
    missing = build(engine, str(tmp_path / "nosuch"))
    assert missing.returncode == 1 and "not found" in missing.stderr
    missing = build(engine, folder)
    assert missing.returncode == 1 and "no such file" in missing.stderr


@pytest.mark.parametrize("client", ["DOCKER_BUILDKIT=1 /usr/bin/docker", NARU])
def test_a_dockerfile_from_elsewhere_brings_its_own_patterns(build_naru, tmp_path, client):
    """What is beside it says what is left out; beside the standard input is nothing."""
    folder = write(str(tmp_path / "c"), {"a": "", "b": "", "Dockerfile.dockerignore": "*\n", ".dockerignore": "b\n*ock*\n"})
    outside = tmp_path / "Outside"
    outside.write_text("FROM busybox:test\nCOPY . /c\nRUN cd /c && echo have $(find . -type f | sort)\n")
    tried = lambda dockerfile: build_naru.scope.shell(f"{client} -H {build_naru.host} build --progress=plain --no-cache -f {dockerfile} {folder} <{outside}")
    had = lambda done: re.search(r"have( ./\S+)+", done.stdout + done.stderr).group()
    assert [had(tried(dockerfile)) for dockerfile in (outside, "-")] == ["have ./a"] * 2
    (tmp_path / "Outside.dockerignore").write_text("*\n!b\n")
    assert [had(tried(dockerfile)) for dockerfile in (outside, "-")] == ["have ./b", "have ./a"]


def test_docker_sdk_builds(build_naru, tmp_path):
    client = docker.DockerClient(base_url=build_naru.host)
    try:
        folder = write(str(tmp_path / "c"), {"Dockerfile": "FROM busybox:test\nARG A\nRUN echo $A >/a\n"})
        image, log = client.images.build(path=folder, tag="sdk:built", buildargs={"A": "from the SDK"}, labels={"k": "v"}, rm=True)
        assert image.tags == ["sdk:built"] and image.labels == {"k": "v"} and any("Step 3/3" in line.get("stream", "") for line in log)
        assert client.containers.run("sdk:built", "cat /a", remove=True) == b"from the SDK\n"
        with pytest.raises(docker.errors.BuildError) as failure:
            client.images.build(fileobj=io.BytesIO(b"FROM busybox:test\nRUN exit 3\n"))
        assert "returned a non-zero code: 3" in str(failure.value)
        with pytest.raises(docker.errors.APIError) as failure:
            client.images.build(fileobj=io.BytesIO(b"FROM busybox:test\nRUM x\n"))
        assert failure.value.status_code == 400 and "did you mean RUN?" in str(failure.value)
        client.images.remove("sdk:built")
    finally:
        client.close()


def archive_of(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, dict):
                for key, value in content.items():
                    setattr(member, key, value)
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("link", ["/etc/passwd", "../../../../../../../../etc/passwd", "/proc/self/root/etc/passwd"])
def test_a_context_never_leads_to_the_host(build_naru, link):
    """Links of a context, in its Dockerfile's name too, are resolved inside it."""
    api = docker.APIClient(base_url=build_naru.host)
    dockerfile = b"FROM busybox:test\nCOPY secret /secret\nRUN cat /secret\n"
    context = archive_of(("Dockerfile", dockerfile), ("secret", {"type": tarfile.SYMTYPE, "linkname": link}))
    said = "".join(line.get("stream", "") + line.get("error", "") for line in api.build(fileobj=io.BytesIO(context), custom_context=True, decode=True))
    assert "root:" not in said and "COPY failed" in said, said
    context = archive_of(("Dockerfile", {"type": tarfile.SYMTYPE, "linkname": link}))
    with pytest.raises(docker.errors.APIError, match="(?i)cannot locate"):
        list(api.build(fileobj=io.BytesIO(context), custom_context=True, decode=True))
    context = archive_of(("Dockerfile", b"FROM busybox:test\nRUN --mount=type=bind,source=secret,target=/m cat /m\n"), ("secret", {"type": tarfile.SYMTYPE, "linkname": link}))
    said = "".join(line.get("stream", "") + line.get("error", "") for line in api.build(fileobj=io.BytesIO(context), custom_context=True, decode=True))
    assert "root:" not in said, said
    api.close()


def test_a_target_never_leads_to_the_host(build_naru, tmp_path):
    """A base whose directory is a link to a path of the host: it means the image's own path."""
    outside = tmp_path / "outside"
    outside.mkdir()
    api = docker.APIClient(base_url=build_naru.host)
    dockerfile = f"FROM busybox:test\nRUN ln -s {outside} /way && ln -s ../../../../../../..{outside} /up\nCOPY a /way/\nCOPY a /up/b\nADD a /way/sub/\nWORKDIR /way/made\nRUN find {outside} | sort\n"
    context = archive_of(("Dockerfile", dockerfile.encode()), ("a", b"1"))
    list(api.build(fileobj=io.BytesIO(context), custom_context=True, decode=True))
    assert os.listdir(outside) == []
    api.close()


def test_bad_contexts_are_refused_and_leave_nothing(build_naru):
    api = docker.APIClient(base_url=build_naru.host)
    whole = archive_of(("Dockerfile", b"FROM busybox:test\n"), ("a", b"1" * 5000))
    for context, reason in ((b"no archive at all" * 100, "context"), (whole[:3000], "context"), (archive_of(("a", b"1")), "Cannot locate"), (b"", "Cannot locate|context")):
        with pytest.raises(docker.errors.APIError, match=f"(?i){reason}") as failure:
            list(api.build(fileobj=io.BytesIO(context), custom_context=True, decode=True))
        assert failure.value.status_code == 400, failure.value
    for parameters in ("buildargs=x", "labels=[1]", "t=UPPER:x", "memory=abc", "ulimits={}", "version=2", "squash=1", "remote=http://x", "networkmode=nosuch"):
        response = api._post(api._url("/build") + "?" + parameters, data=archive_of(("Dockerfile", b"FROM busybox:test\nRUN true\n")))
        text = response.text
        assert response.status_code in (400, 404, 500, 501) or "errorDetail" in text, (parameters, response.status_code, text)
        assert response.status_code != 500, (parameters, text)
    assert os.listdir(build_naru.data_root + "/builds/running") == []
    api.close()


def test_builds_go_on_side_by_side(build_naru, tmp_path):
    """Two that wait for each other through a cache mount could not end one after the other."""
    results = []

    def one(own, other):
        text = f"FROM busybox:test\nRUN --mount=type=cache,target=/c touch /c/{own}; until [ -e /c/{other} ]; do sleep 0.1; done\n"
        folder = write(str(tmp_path / own), {"Dockerfile": text})
        results.append(build(build_naru, folder, "--no-cache", timeout=60).returncode)

    threads = [threading.Thread(target=one, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0]
    shutil.rmtree(tmp_path / "a")


def test_flags_of_other_builders_are_taken_or_answered(build_naru, tmp_path):
    """One stage is made anew and the other is not; what cannot be done says why."""
    engine = build_naru
    text = "FROM busybox:test AS one\nRUN echo 1 >/x\nFROM busybox:test\nRUN echo 2 >/y\nCOPY --from=one /x /\n"
    folder = write(str(tmp_path / "c"), {"Dockerfile": text})
    first = built(engine, folder)
    told = build(engine, folder, "--no-cache-filter", "other,One", "-t", "flags:x", "--metadata-file", str(tmp_path / "metadata"), "--allow", "network.host")
    assert told.returncode == 0 and re.findall("(?:Running|Using cache)", told.stdout) == ["Running", "Using cache", "Using cache"], told
    metadata = json.loads((tmp_path / "metadata").read_text())
    assert metadata == {"containerimage.config.digest": first, "containerimage.digest": first, "image.name": "flags:x"}
    text = "FROM busybox:test\nRUN --network=host ls /sys/class/net\n"
    hosts = write(str(tmp_path / "d"), {"Dockerfile": text})
    assert build(engine, hosts).returncode == 1 and build(engine, hosts, "--allow", "network.host").returncode == 0
    for flags, reason in (["--allow", "security.insecure"], "confined"), (["--builder", "b"], "--context"), (["--debug"], "--enter"), (["--policy", "p"], "digest"), (["--resource", "r=1"], "--memory"):
        refused = build(engine, folder, *flags)
        assert refused.returncode == 1 and f"{flags[0]}" in refused.stderr and "not supported" in refused.stderr and reason in refused.stderr, refused
    engine.client("rmi", "flags:x")
