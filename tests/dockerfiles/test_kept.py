"""`naru build` tells what its directory holds before it sends any of it: only what changed travels, and the image is that of a fresh build."""

import os
import socket
import struct
import subprocess
import threading

import pytest
from test_build import CLIENT
from testkit.engine import NARU, ROOT

DOCKERFILE = "FROM scratch\nCOPY . /c\n"


class Counter:
    """Stands before an engine's socket and counts what clients send."""

    def __init__(self, path, target):
        self.path, self.target, self.bytes = path, target, 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(self.target)
            threading.Thread(target=self.pump, args=(client, engine, True), daemon=True).start()
            threading.Thread(target=self.pump, args=(engine, client, False), daemon=True).start()

    def pump(self, source, sink, is_counted):
        try:
            while piece := source.recv(1 << 16):
                self.bytes += len(piece) if is_counted else 0
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Context:
    """A directory whose files have not changed for long (documents of this repository), so that their times tell; what
    the test changes is written on top of it."""

    def __init__(self, engine, base):
        self.engine, self.base, self.folder, self.copies = engine, base, base + "/context", 0
        for name in ("upper", "work", "context"):
            os.makedirs(f"{base}/{name}")
        self.mount()
        with open(base + "/Dockerfile", "w") as file:
            file.write(DOCKERFILE)
        self.counter = Counter(base + "/s", engine.socket)

    def mount(self):
        self.shell(f"mount -t overlay overlay -o lowerdir={ROOT}/docs,upperdir=upper,workdir=work context")

    def unmount(self):
        self.shell("umount context")

    def shell(self, script):
        done = self.engine.scope.shell(f"cd {self.base} && {script}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def build(self, *flags, folder=None, host=None):
        result = self.engine.scope.run(NARU, "-H", host or f"unix://{self.counter.path}", "build", "-q", "-f", self.base + "/Dockerfile", *flags, folder or self.folder)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def sent(self, *flags, **options):
        """The image, and how many bytes the build sent."""
        before = self.counter.bytes
        return self.build(*flags, **options), self.counter.bytes - before

    def fresh(self):
        """What Docker's own client builds of a copy that the engine has not seen: by this client's word, a file of the same
        length and time is the same."""
        self.copies += 1
        copy = f"{self.base}/copy{self.copies}"
        self.shell(f"cp -a context {copy}")
        self.shell(f"DOCKER_BUILDKIT=1 {CLIENT} -H {self.engine.host} build -q --no-cache -f Dockerfile --iidfile iid {copy}")
        with open(self.base + "/iid") as file:
            return file.read()

    def close(self):
        self.counter.listener.close()
        self.unmount()


@pytest.fixture
def context(build_naru, tmp_path):
    context = Context(build_naru, str(tmp_path))
    yield context
    context.close()


def test_what_has_not_changed_does_not_travel(context):
    first, all_bytes = context.sent()
    again, few = context.sent()
    assert first == again == context.fresh() and few < 1500 < 50_000 < all_bytes, (few, all_bytes)
    # What is left out may change.
    context.shell("echo ignored >context/.dockerignore && touch context/ignored")
    ignoring = context.build()
    context.shell("echo more >context/ignored")
    assert context.sent()[1] < all_bytes / 10 and context.build() == ignoring == context.fresh()


# One after the other on the same directory, several at a time: whatever is missed, the image is another.
CHANGES = (
    # The same length and time, with another content; a file that takes another's place; modes.
    """cp -p context/glossary.md old && (tail -c +2 old; echo) >context/glossary.md && touch -r old context/glossary.md && ! cmp -s old context/glossary.md
       mv context/incidents.md context/performance.md; chmod 4755 context/architecture.md; chmod 700 context/adr""",
    # Another name; a link, a hard link and a pipe; an empty file.
    "mv context/performance.md context/speed.md; ln -s speed.md context/link; ln context/speed.md context/zhard; mkfifo context/pipe; : >context/architecture.md",
    # A link to elsewhere; what is gone; a directory where a file was, and the other way round; what is left out.
    "ln -sfn nosuch context/link; rm context/zhard context/speed.md; mkdir context/speed.md; rm -r context/guide; echo >context/guide; echo adr >context/.dockerignore",
    # Let in again, in part.
    "printf 'adr\\n!adr/0001*\\n' >context/.dockerignore; chmod 755 context/adr",
)


def test_every_change_is_seen(context):
    images = [context.build()]
    for script in CHANGES:
        context.shell(script)
        images.append(context.build())
        assert images[-1] == context.fresh(), script
    assert len(set(images)) == len(images)


def test_directories_with_the_same_files_are_one_image(context):
    context.shell("cp -a context copy && cp -r context another")
    built = [context.build("--no-cache", folder=f"{context.base}/{name}") for name in ("context", "copy", "another")]
    assert len(set(built)) == 1


def test_builds_of_one_directory_at_once_do_not_mix(context):
    """Each sees the directory as it listed it, whoever is first."""
    context.shell("mkdir files && for n in 1 2 3; do (seq $n 20000; echo $n) >files/$n; done && printf 'FROM scratch\\nARG N\\nCOPY . /c\\n' >Dockerfile")
    folder = context.base + "/files"

    def begin(number):
        return subprocess.Popen(context.engine.scope.command(NARU, "-H", context.engine.host, "build", "-q", "--no-cache", "-f", context.base + "/Dockerfile", "--build-arg", f"N={number}", folder), stdout=subprocess.PIPE, text=True)

    clients = [begin(number) for number in range(4)]
    built = {client.communicate(timeout=60)[0].strip() for client in clients}
    assert built == {context.build("--no-cache", "--build-arg", "N=9", folder=folder)} and "" not in built


def test_what_breaks_off_changes_nothing(context):
    """A client that leaves after its listing, a listing that is none."""
    first = context.build()
    for body in (struct.pack("<Q", 3) + b"\x01\x00\x00", struct.pack("<Q", 100) + b"\x01", struct.pack("<Q", 1 << 60), b"\xff" * 9):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(context.engine.socket)
            connection.sendall(b"POST /naru/build?context=x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
            said = b""
            while piece := connection.recv(4096):
                said += piece
            assert b"errorDetail" in said and b"listing" in said, said
    assert context.build() == first


def test_docker_s_own_daemon_is_sent_an_archive(docker, tmp_path):
    for path, text in (("Dockerfile", DOCKERFILE), ("file", "content")):
        (tmp_path / path).write_text(text)
    built = docker.scope.run(NARU, "-H", docker.host, "build", "-t", "archived:x", str(tmp_path))
    assert built.returncode == 0 and "Successfully tagged archived:x" in built.stdout, built.stderr
    docker.client("rmi", "archived:x")


def test_an_archive_makes_the_same_image(build_naru, tmp_path):
    """Capabilities of files travel; a Dockerfile from elsewhere, or one that is left out, is no part of the context."""
    context, dockerfile = tmp_path / "context", tmp_path / "Build"
    context.mkdir()
    (tmp_path / "more").mkdir()
    for name, text in {"tool": "x", "Dockerfile": DOCKERFILE, ".dockerignore": ".dockerignore\nDockerfile\n"}.items():
        (context / name).write_text(text)
    dockerfile.write_text(DOCKERFILE)

    def image(words, capability=10, kit=0):
        os.setxattr(context / "tool", "security.capability", struct.pack("<5I", 0x02000001, 1 << capability, 0, 0, 0))
        built = build_naru.scope.shell(f"DOCKER_BUILDKIT={kit} {words} {context}")
        assert built.returncode == 0, (words, built)
        return built.stdout.strip()

    elsewhere, archived = f"-f {dockerfile}", f"--build-context more={tmp_path}/more"
    naru, docker = (f"{program} -H {build_naru.host} build -q" for program in (NARU, CLIENT))
    images = [image(f"{naru} {flags}") for flags in ("", elsewhere, archived, f"{archived} {elsewhere}")]
    images += [image(docker), image(f"{docker} {elsewhere}"), image(f"{docker} {elsewhere}", kit=1)]
    assert len(set(images)) == 1 and image(f"{naru} {archived}", capability=13) not in images, images
    made = build_naru.scope.shell(f"{CLIENT} -H {build_naru.host} create --name archived {images[-1]} x >&2 && {CLIENT} -H {build_naru.host} cp archived:/c - | tar t; {CLIENT} -H {build_naru.host} rm archived >&2")
    assert made.stdout.splitlines() == ["c/", "c/tool"], made


def test_contexts_outlive_the_daemon(fresh_naru, tmp_path):
    context = Context(fresh_naru, str(tmp_path))
    try:
        first, all_bytes = context.sent()
        # What was not written down when it was killed is asked for again.
        for end in (fresh_naru.stop, fresh_naru.kill9):
            end()
            fresh_naru.start()
            again, bytes_sent = context.sent()
            assert again == first and bytes_sent <= all_bytes
        context.shell("seq 1000 >context/glossary.md")
        assert context.build() == context.fresh() != first
    finally:
        context.close()
