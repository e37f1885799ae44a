"""Where a build's files come from besides its context: URLs, repositories, stages, named contexts, secrets."""

import bz2
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import time

import docker
import pytest
from test_build import write_context
from test_promises import build, built, write
from testkit.engine import NARU

# Serves a folder and notes what is asked; `tag` files have an ETag that follows their content.
SERVER = textwrap.dedent("""
    import hashlib, http.server, os, sys
    os.chdir(sys.argv[1])
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass
        def send_head(self):
            path = self.translate_path(self.path)
            tag = None
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    tag = '"' + hashlib.sha256(file.read()).hexdigest() + '"'
            same = tag and self.headers.get("If-None-Match") == tag
            with open("../asked", "a") as file:
                file.write(f"{self.path} {304 if same else 200}\\n")
            if same:
                self.send_response(304)
                self.end_headers()
                return None
            self.tag = tag
            return super().send_head()
        def end_headers(self):
            if getattr(self, "tag", None):
                self.send_header("ETag", self.tag)
                self.tag = None
            super().end_headers()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
""")


class Web:
    """A web server beside the engine."""

    def __init__(self, engine, folder):
        self.folder = folder
        os.makedirs(folder)
        command = engine.scope.command(sys.executable, "-c", SERVER, folder)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def put(self, name, content):
        with open(os.path.join(self.folder, name), "wb") as file:
            file.write(content)

    def asked(self):
        try:
            with open(os.path.join(os.path.dirname(self.folder), "asked")) as file:
                return file.read().splitlines()
        except FileNotFoundError:
            return []

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def web(build_naru, tmp_path):
    server = Web(build_naru, str(tmp_path / "served" / "files"))
    yield server
    server.close()


def said(result):
    return result.stdout + result.stderr


def shown(engine, image, script):
    result = engine.client("run", "--rm", image, "sh", "-c", script)
    assert result.returncode == 0, said(result)
    return result.stdout


def archive(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def test_archives_are_unpacked_however_they_are_compressed(build_naru, tmp_path):
    folder = write(str(tmp_path / "c"), {"Dockerfile": "FROM busybox:test\nADD a.tar.xz /xz/\nADD b.tar.bz2 /bz2/\nADD text.xz /plain/\nADD --unpack=false a.tar.xz /kept/\n"})
    plain = archive({"d/f": "from an archive"})
    for name, content in (("a.tar.xz", lzma.compress(plain)), ("b.tar.bz2", bz2.compress(plain)), ("text.xz", lzma.compress(b"no archive"))):
        with open(f"{folder}/{name}", "wb") as file:
            file.write(content)
    image = built(build_naru, folder)
    assert shown(build_naru, image, "cat /xz/d/f /bz2/d/f; ls /plain /kept") == "from an archivefrom an archive/kept:\na.tar.xz\n\n/plain:\ntext.xz\n"


def test_a_url_is_fetched_checked_and_asked_for_again(build_naru, tmp_path, web):
    web.put("file.txt", b"first")
    web.put("x.tar", archive({"in/it": "1"}))
    digest = "sha256:a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e"
    text = f"FROM busybox:test\nADD --checksum={digest} {web.url}/file.txt /a/\nADD {web.url}/file.txt?q=1 /b\nADD {web.url}/x.tar /c/\nADD --unpack {web.url}/x.tar /d/\nADD --chmod=644 --chown=3:4 {web.url}/file.txt /e/\n"
    folder = write(str(tmp_path / "c"), {"Dockerfile": text})
    image = built(build_naru, folder, "--provenance=mode=min")
    how = json.loads(build_naru.client("image", "provenance", image, program=NARU).stdout)
    assert {"uri": f"{web.url}/file.txt", "digest": {"sha256": digest.removeprefix("sha256:")}} in how["materials"]
    assert shown(build_naru, image, "cat /a/file.txt /b; stat -c %a:%u /a/file.txt /e/file.txt; ls /c; cat /d/in/it") == "firstfirst600:0\n644:3\nx.tar\n1"
    assert "Using cache" in build(build_naru, folder).stdout
    assert web.asked()[-1].endswith(" 304")
    web.put("file.txt", b"second")
    failed = build(build_naru, folder)
    assert failed.returncode == 1 and "digest mismatch" in said(failed) and "line 2" in said(failed)
    web.put("file.txt", b"first")
    assert built(build_naru, folder) == image
    for line, reason in ((f"ADD {web.url}/nosuch /x", "404|not found"), (f"ADD {web.url}/ /x/", "filename"), (f"ADD --checksum=sha256:12 {web.url}/file.txt /x", "checksum"), (f"ADD --checksum={digest} Dockerfile /x", "checksum"), (f"COPY {web.url}/file.txt /x", "not found")):
        failed = build(build_naru, write(str(tmp_path / re.sub(r"\W", "", line)), {"Dockerfile": f"FROM busybox:test\n{line}\n"}))
        assert failed.returncode == 1 and re.search(f"(?i){reason}", said(failed)), said(failed)


def git(folder, *arguments):
    settings = ["-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(web, tmp_path):
    """Served as plain files, which is what the simplest of git's servers do."""
    if not shutil.which("git"):
        pytest.skip("git is not here")
    work = write(str(tmp_path / "work"), {"Dockerfile": "FROM busybox:test\nCOPY sub /s\n", "Whole": "FROM busybox:test\nCOPY . /c\n", "sub/file": "on main", "sub/Dockerfile": "FROM busybox:test\nCOPY file /f\n"})
    git(work, "init", "-q")
    os.symlink("/etc", work + "/way")
    os.symlink("../../../../../../../../etc", work + "/up")
    git(work, "add", ".")
    git(work, "commit", "-qm", "first")
    git(work, "tag", "v1")
    with open(work + "/sub/file", "w") as file:
        file.write("later")
    git(work, "commit", "-qam", "second")
    git(work, "clone", "-q", "--bare", work, web.folder + "/r.git")
    git(web.folder + "/r.git", "update-server-info")
    return f"{web.url}/r.git"


def test_a_repository_is_a_source_and_a_context(build_naru, tmp_path, repository):
    text = f"FROM busybox:test\nADD {repository} /a\nADD {repository}#v1:sub /b\nADD --keep-git-dir {repository}#main /c\nRUN ls -a /a /b; ls -d /c/.git\n"
    image = built(build_naru, write(str(tmp_path / "c"), {"Dockerfile": text}))
    assert shown(build_naru, image, "cat /a/sub/file /b/file; ls -d /a/.git; ls -d /c/.git; ls /b; true") == "lateron main/c/.git\nDockerfile\nfile\n"
    assert shown(build_naru, built(build_naru, f"{repository}#v1"), "cat /s/file") == "on main"
    assert shown(build_naru, built(build_naru, f"{repository}#:sub"), "cat /f") == "later"
    whole = built(build_naru, repository, "-f", "Whole", "--provenance=mode=max")
    commit = subprocess.run(["git", "rev-parse", "main"], cwd=tmp_path / "work", capture_output=True, text=True, check=True).stdout.strip()
    how = json.loads(build_naru.client("image", "provenance", whole, program=NARU).stdout)
    assert how["invocation"]["configSource"] == {"uri": repository, "digest": {"sha1": commit}, "entryPoint": "Whole"}
    assert {"uri": repository, "digest": {"sha1": commit}} in how["materials"]
    assert shown(build_naru, whole, "ls -A /c").split() == ["Dockerfile", "Whole", "sub", "up", "way"]
    assert built(build_naru, repository, "-f", "Whole", "--no-cache") == whole
    assert shown(build_naru, built(build_naru, repository, "-f", "Whole", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"), "ls -d /c/.git") == "/c/.git\n"
    client = docker.APIClient(base_url=build_naru.host)
    told = "".join(line.get("stream", "") for line in client.build(path=repository, decode=True))
    assert "Successfully built" in told, told
    client.close()


@pytest.mark.parametrize("part", ["#main:way", "#main:up", "#main:../..", "#:way/passwd", "#--upload-pack=touch${IFS}/tmp/x"])
def test_a_repository_never_leads_to_the_host(build_naru, tmp_path, repository, part):
    """CVE-2026-33748: a directory of the repository that is a link, or a reference that is an option."""
    folder = write(str(tmp_path / "c"), {"Dockerfile": f"FROM busybox:test\nADD {repository}{part} /got\nRUN ls /got; cat /got/hostname\n"})
    result = build(build_naru, folder)
    assert result.returncode == 1 and "root:" not in result.stdout, said(result)
    result = build(build_naru, repository + part)
    assert result.returncode == 1 and re.search("(?i)no such|leads out|no reference|cannot locate|directory|open", said(result)), said(result)


def test_a_context_is_fetched(build_naru, tmp_path, web):
    web.put("context.tar", archive({"Dockerfile": "FROM busybox:test\nCOPY a /\n", "a": "packed", "Other": "FROM busybox:test\nCOPY a /other\n"}))
    web.put("Lone", b"FROM busybox:test\nRUN echo lone >/a\n")
    assert shown(build_naru, built(build_naru, web.url + "/context.tar"), "cat /a") == "packed"
    assert shown(build_naru, built(build_naru, web.url + "/context.tar", "-f", "Other"), "cat /other") == "packed"
    assert shown(build_naru, built(build_naru, web.url + "/Lone"), "cat /a") == "lone\n"
    failed = build(build_naru, web.url + "/nosuch")
    assert failed.returncode == 1 and "404" in said(failed) or "not found" in said(failed).lower(), said(failed)


def test_parents_and_excludes(build_naru, tmp_path):
    files = {"x/a.txt": "1", "y/a.txt": "2", "y/b.md": "3", "y/deep/c.md": "4", "y/deep/d.txt": "5", "z": "6"}
    text = """FROM busybox:test
COPY --parents x/a.txt y/a.txt /kept/
COPY --parents y/./deep/d.txt /pivot/
COPY --parents **/*.md /all/
COPY --exclude=**/*.md --exclude=deep y /some/
COPY --exclude=*.md y/* /flat/
ADD --exclude=z . /most/
"""
    image = built(build_naru, write(str(tmp_path / "c"), {"Dockerfile": text, **files}))
    listed = shown(build_naru, image, "cd /; find kept pivot all some flat most -type f | sort").split()
    assert listed == sorted(["kept/x/a.txt", "kept/y/a.txt", "pivot/deep/d.txt", "all/y/b.md", "all/y/deep/c.md", "some/a.txt", "flat/a.txt", "flat/d.txt",
                             "most/Dockerfile", "most/x/a.txt", "most/y/a.txt", "most/y/b.md", "most/y/deep/c.md", "most/y/deep/d.txt"])


def test_mounts_of_stages_and_caches(build_naru, tmp_path):
    text = """FROM busybox:test AS made
RUN mkdir -p /o/p && echo inside >/o/p/f && ln -s f /o/p/l
FROM busybox:test
RUN --mount=type=bind,from=made,source=/o,target=/m cat /m/p/l >/one && ! touch /m/x
RUN --mount=type=bind,from=made,source=o/p/f,target=/file cat /file >/two
RUN --mount=type=bind,from=made,target=/m,rw echo changed >/m/o/p/f && cat /m/o/p/f >/three
RUN --mount=type=bind,from=busybox:test,source=/bin,target=/m ls /m/busybox >/four
RUN --mount=type=bind,target=/m,rw echo gone >/m/new && cat /m/c.txt >/five
RUN --mount=type=cache,from=made,source=/o/p,target=/c,mode=0700,uid=5,id=ID cat /c/f >/six; stat -c %a:%u /c >>/six; echo more >>/c/f
RUN --mount=type=cache,target=/c,id=ID,ro wc -l </c/f >/seven
RUN --mount=type=tmpfs,target=/t,size=1m ! dd if=/dev/zero of=/t/x bs=1M count=2 2>/dev/null
COPY --from=made /o/p/f /eight
"""
    files = {"Dockerfile": text.replace("ID", "cache" + str(os.getpid())), "c.txt": "of the context\n"}
    folder = write(str(tmp_path / "c"), files)
    image = built(build_naru, folder)
    assert shown(build_naru, image, "cat /one /two /three /four /five /six /seven /eight").splitlines() == [
        "inside", "inside", "changed", "/m/busybox", "of the context", "inside", "700:5", "2", "inside"]
    assert os.listdir(build_naru.data_root + "/builds/running") == []
    with open(folder + "/c.txt", "w") as file:
        file.write("new\n")
    assert build(build_naru, folder).stdout.count("Using cache") == 5
    for mount, reason in (("type=bind,from=nosuchimage:x,target=/m", "(?i)no such image|connect|lookup|pull"), ("type=bind,source=nosuch,target=/m", "not found"),
                          ("type=bind,source=../../etc,target=/m", "not found"), ("type=secret,id=none,required", "secret none"), ("type=ssh,required", "agent"), ("type=cache,target=/c,sharing=loud", "sharing")):
        failed = build(build_naru, write(str(tmp_path / re.sub(r"\W", "", mount)), {"Dockerfile": f"FROM busybox:test\nRUN --mount={mount} true\n"}))
        assert failed.returncode == 1 and re.search(reason, said(failed)) and "line 2" in said(failed), (mount, said(failed))


def test_a_locked_cache_is_used_by_one_at_a_time(build_naru, tmp_path):
    """Stages run side by side, and those that lock a cache do not; private caches are one each."""
    cache = f"id=l{os.getpid()},target=/c"
    stage = "FROM busybox:test AS s%d\nRUN --mount=type=cache,sharing=SHARING," + cache + " mkdir /c/busy || exit 9; i=0; while [ $i -lt 5 ]; do i=$((i+1)); sleep 0.1; done; rmdir /c/busy; touch /%d\n"
    last = "FROM busybox:test\n" + "".join(f"COPY --from=s{number} /{number} /\n" for number in range(3))
    for sharing in ("locked", "private"):
        text = "".join(stage % (number, number) for number in range(3)).replace("SHARING", sharing) + last
        folder = write(str(tmp_path / sharing), {"Dockerfile": text})
        assert shown(build_naru, built(build_naru, folder), "ls /0 /1 /2").split() == ["/0", "/1", "/2"]


def test_stages_are_built_side_by_side_and_told_in_order(build_naru, tmp_path):
    """Two that wait for each other through a cache could not end one after the other."""
    cache = f"--mount=type=cache,target=/c,id=s{os.getpid()}"
    stage = f"FROM busybox:test AS %s\nRUN {cache} echo begun %s; touch /c/%s; until [ -e /c/%s ]; do sleep 0.05; done; echo ended %s\n"
    text = stage % ("a", "a", "a", "b", "a") + stage % ("b", "b", "b", "a", "b") + "FROM busybox:test AS unused\nRUN exit 1\nFROM a\nCOPY --from=b /etc/passwd /x\n"
    result = build(build_naru, write(str(tmp_path / "c"), {"Dockerfile": text}), timeout=60)
    assert result.returncode == 0, said(result)
    told = re.findall(r"^(begun|ended) (a|b)$", result.stdout, re.M)
    assert told == [("begun", "a"), ("ended", "a"), ("begun", "b"), ("ended", "b")]
    assert [int(number) for number in re.findall(r"^Step (\d+)/6", result.stdout, re.M)] == [1, 2, 3, 4, 5, 6]


def test_two_builds_make_an_equal_step_once(build_naru, tmp_path):
    text = f"FROM busybox:test\nRUN --mount=type=cache,target=/c,id=once{os.getpid()} echo made >>/c/count; sleep 1; cat /c/count | wc -l >/n\n"
    folders = [write(str(tmp_path / str(number)), {"Dockerfile": text}) for number in range(3)]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    clients = [subprocess.Popen(build_naru.scope.command(NARU, "-H", build_naru.host, "build", "-q", folder), stdout=subprocess.PIPE, text=True, env=environment) for folder in folders]
    images = {client.communicate(timeout=60)[0].strip() for client in clients}
    assert len(images) == 1 and shown(build_naru, images.pop(), "cat /n").strip() == "1"


def test_named_contexts(build_naru, tmp_path):
    other = write(str(tmp_path / "other"), {"deep/file": "of the other", "same": "other's"})
    os.symlink("/same", other + "/way")
    os.symlink("../../Dockerfile", other + "/out")
    text = "FROM base AS b\nRUN echo 1 >/made\nFROM busybox:test\nCOPY --from=more deep/file way /got/\nCOPY --from=b /made /\nRUN --mount=type=bind,from=more,target=/m cat /m/same >/mounted\nCOPY . /all\n"
    folder = write(str(tmp_path / "c"), {"Dockerfile": text, "same": "own"})
    contexts = ("--build-context", f"more={other}", "--build-context", "base=docker-image://busybox:test")
    image = built(build_naru, folder, *contexts)
    assert shown(build_naru, image, "cat /got/file /got/way /made /mounted; ls -A /all") == "of the otherother's1\nother'sDockerfile\nsame\n"
    with open(other + "/deep/file", "w") as file:
        file.write("changed")
    assert shown(build_naru, built(build_naru, folder, *contexts), "cat /got/file") == "changed"
    wrong = write(str(tmp_path / "w"), {"Dockerfile": "FROM busybox:test\nCOPY --from=more out /x\n"})
    failed = build(build_naru, wrong, *contexts)
    assert failed.returncode == 1 and "not found" in said(failed)
    failed = build(build_naru, folder, "--build-context", "more=/nosuch")
    assert failed.returncode == 1 and "not a directory" in said(failed)


def test_a_secret_is_seen_by_its_step_alone(build_naru, tmp_path):
    """Not in the image, its history, what is told, the cache's keys, nor anywhere on the disk."""
    secret = f"hidden-{os.getpid()}-{time.time_ns()}"
    (tmp_path / "file").write_text(secret)
    text = """FROM busybox:test
RUN --mount=type=secret,id=one [ "$(cat /run/secrets/one)" = "$(cat /proc/self/environ | tr '\\0' '\\n' | grep ^NONE || cat /run/secrets/one)" ] && stat -c %a:%u:%g /run/secrets/one >/mode && wc -c </run/secrets/one >/length
RUN --mount=type=secret,id=one,target=/deep/er/s,mode=0444,uid=7,gid=8 stat -c %a:%u:%g /deep/er/s >>/mode; grep -c ' /deep/er/s ' /proc/mounts
RUN --mount=type=secret,id=two,env=TOKEN echo ${#TOKEN} >/env
RUN --mount=type=secret,id=absent [ ! -e /run/secrets/absent ]
RUN --mount=type=ssh true
"""
    folder = write(str(tmp_path / "c"), {"Dockerfile": text})
    arguments = ("--secret", f"id=one,src={tmp_path}/file", "--secret", "id=two,env=SECRET_TWO")
    environment = {"SECRET_TWO": secret + "-two", "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    result = build_naru.scope.run(NARU, "-H", build_naru.host, "build", "-t", "secret:x", *arguments, folder, env=environment)
    assert result.returncode == 0, said(result)
    assert secret not in said(result)
    assert shown(build_naru, "secret:x", "cat /mode /length /env; ls /run/secrets").split()[:5] == ["400:0:0", "444:7:8", str(len(secret)), str(len(secret) + 4), "one"]
    assert shown(build_naru, "secret:x", "cat /run/secrets/one /deep/er/s | wc -c").strip() == "0"
    client = docker.APIClient(base_url=build_naru.host)
    assert secret not in json.dumps([client.inspect_image("secret:x"), client.history("secret:x")])
    client.close()
    for root in (build_naru.data_root, build_naru.exec_root):
        found = subprocess.run(["grep", "-rlaF", "-s", secret, root], capture_output=True, text=True)
        assert found.stdout == "", found.stdout
    # Another secret is the same step.
    (tmp_path / "file").write_text("another")
    result = build_naru.scope.run(NARU, "-H", build_naru.host, "build", *arguments, folder, env=environment)
    assert result.stdout.count("Using cache") == 5, said(result)
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("naru") and "-secret-" in name]
    failed = build(build_naru, folder, "--secret", "id=one,src=/nosuch")
    assert failed.returncode == 1 and "nosuch" in said(failed)


def test_a_named_directory_has_its_own_ignore_file(build_naru, tmp_path):
    write_context(str(tmp_path / "main"), {"Dockerfile": "FROM busybox:test\nCOPY --from=more . /m\nRUN cd /m && find . | sort | tr '\\n' ' '\n", ".dockerignore": "b\n"})
    write_context(str(tmp_path / "more"), {".dockerignore": "a*\n!ab\n**/deep\n", "aa": "", "ab": "", "b": "", "d/deep/x": "", "d/y": ""})
    done = build_naru.scope.run(NARU, "-H", build_naru.host, "build", "--build-context", f"more={tmp_path}/more", str(tmp_path / "main"))
    assert ". ./.dockerignore ./ab ./b ./d ./d/y" in done.stdout, done
    # An archive in front of which directories would have to go.
    packed = build_naru.scope.shell(f"tar -C {tmp_path}/main -cz . | {NARU} -H {build_naru.host} build --build-context more={tmp_path}/more -")
    assert packed.returncode == 1 and "decompress it first" in packed.stderr, packed
    plain = build_naru.scope.shell(f"tar -C {tmp_path}/main -c . | {NARU} -H {build_naru.host} build --no-cache --build-context more={tmp_path}/more -")
    assert plain.returncode == 0 and "./d/y" in plain.stdout, plain
