"""Copying files: what a container does meanwhile, or has prepared, never reaches the host."""

import io
import os
import tarfile
import threading
import time

import docker
import pytest
from docker.errors import APIError, NotFound
from requests.exceptions import ChunkedEncodingError

IMAGE = "busybox:test"


@pytest.fixture(scope="module")
def sdk(busybox_naru):
    client = docker.DockerClient(base_url=busybox_naru.host, timeout=120)
    yield client
    client.close()


@pytest.fixture
def container(sdk):
    made = []

    def make(command=("sleep", "100"), start=True, **options):
        one = sdk.containers.create(IMAGE, list(command), network_mode="none", **options)
        made.append(one)
        if start:
            one.start()
        return one

    yield make
    for one in made:
        one.remove(force=True, v=True)


def archive(*members):
    """Members are (name, content) for files, (name, TarInfo changes) for anything else."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
            else:
                for key, value in what.items():
                    setattr(info, key, value)
                tar.addfile(info)
    return whole.getvalue()


def read(container, path):
    chunks, stat = container.get_archive(path)
    tar = tarfile.open(fileobj=io.BytesIO(b"".join(chunks)))
    return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}, stat


def output(container, *command):
    return container.exec_run(list(command)).output.decode()


@pytest.mark.seconds(180)
def test_a_link_swapped_during_the_copy_never_leads_to_the_host(container, tmp_path):
    """CVE-2018-15664: the container changes a directory into a link to a path of the host, and back, all the time."""
    (tmp_path / "secret").write_bytes(b"of the host")
    (tmp_path / "kept").write_bytes(b"kept")
    swap = f"""mkdir -p /tmp/a /tmp/b; echo inside >/tmp/a/secret; ln -s {tmp_path} /tmp/l; ln -s /tmp/a /tmp/x
    while true; do ln -sfn {tmp_path} /tmp/x; ln -sfn /tmp/a /tmp/x; rm -rf /tmp/y; ln -s {tmp_path} /tmp/y; rm /tmp/y; mkdir /tmp/y; done"""
    box = container(["sh", "-c", swap])
    ends = time.monotonic() + 8
    outcomes = set()

    def copy_out():
        while time.monotonic() < ends:
            for path in ("/tmp/x/secret", "/tmp/y/secret", "/tmp/x/", "/tmp/y/."):
                try:
                    for content in read(box, path)[0].values():
                        outcomes.add(content)
                except APIError:
                    outcomes.add("refused")
                except (ChunkedEncodingError, tarfile.ReadError):
                    outcomes.add("cut off")  # What was asked for changed while it was read.

    def copy_in():
        while time.monotonic() < ends:
            for path in ("/tmp/x", "/tmp/y", "/tmp"):
                try:
                    box.put_archive(path, archive(("kept", b"overwritten"), ("y/new", b"new"), ("x/new", b"new")))
                except APIError:
                    outcomes.add("refused")

    threads = [threading.Thread(target=work) for work in (copy_out, copy_out, copy_in)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert b"of the host" not in outcomes and b"inside\n" in outcomes, outcomes
    assert sorted(os.listdir(tmp_path)) == ["kept", "secret"] and (tmp_path / "kept").read_bytes() == b"kept"


def test_magic_links_lead_nowhere(container):
    box = container(["sh", "-c", "ln -s /proc/1/root/etc /tmp/root; ln -s /proc/self/cwd /tmp/cwd; ln -s /proc/1/exe /tmp/exe; sleep 100"])
    until_there(box, "/tmp/exe")
    for path in ("/tmp/root/passwd", "/tmp/cwd/x", "/tmp/cwd/.", "/proc/1/root/etc/passwd", "/proc/self/root/", "/proc/1/cwd/etc"):
        with pytest.raises(APIError):
            read(box, path)
        with pytest.raises(APIError):
            box.put_archive(path, archive(("new", b"x")))


def until_there(box, path):
    deadline = time.monotonic() + 30
    while box.exec_run(["test", "-e", path]).exit_code and box.exec_run(["test", "-L", path]).exit_code:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("running", [True, False])
def test_an_archive_changes_nothing_outside(container, tmp_path, running):
    """CVE-2021-41089 (modes of host directories) and the usual ways out of an archive."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "file").write_text("kept")
    before = outside.stat()
    box = container(start=running)
    box.put_archive("/tmp", archive(("way", {"type": tarfile.SYMTYPE, "linkname": str(outside)})))
    # The link means a path of the container, which is not there.
    for member in (("way/file", b"new"), ("way/sub", {"type": tarfile.DIRTYPE, "mode": 0o777})):
        with pytest.raises(APIError):
            box.put_archive("/tmp", archive(member))
    box.put_archive("/tmp", archive(("way", {"type": tarfile.DIRTYPE, "mode": 0o777, "uid": 7})))
    for members in ([("../../x", b"1")], [("a/../../../x", b"1")], [("l", {"type": tarfile.LNKTYPE, "linkname": "../../../etc/passwd"})]):
        with pytest.raises(APIError):
            box.put_archive("/tmp", archive(*members))
    after = outside.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime) == (before.st_mode, before.st_uid, before.st_mtime)
    assert os.listdir(outside) == ["file"] and (outside / "file").read_text() == "kept"


def test_a_volume_redirected_by_a_link_stays_in_the_container(container, tmp_path):
    """CVE-2026-42306: the image's way to a volume's place is a link that means a path of the host elsewhere."""
    target = tmp_path / "target"
    target.mkdir()
    first = container(["sh", "-c", f"mkdir -p {target}; ln -s {target} /data"])
    first.wait()
    image = first.commit("redirected")
    try:
        box = container(start=False)
        box.client.images.get(image.id)
        made = box.client.containers.create(image.id, ["sleep", "100"], volumes=["/data/v"], network_mode="none")
        try:
            made.put_archive("/data/v", archive(("x", b"in the volume")))
            assert read(made, "/data/v/x")[0] == {"x": b"in the volume"}
            made.start()
            assert output(made, "cat", "/data/v/x") == "in the volume"
            assert read(made, f"{target}/v/x")[0] == {"x": b"in the volume"}
        finally:
            made.remove(force=True, v=True)
        assert os.listdir(target) == []
    finally:
        box.client.images.remove(image.id, force=True)


def test_no_code_of_the_container_is_run(container):
    """CVE-2019-14271: the daemon must not load the container's libraries, nor believe its tar or shell."""
    box = container(["sh", "-c", "for f in /lib/libnss_files.so.2 /lib64/ld-linux-x86-64.so.2 /bin/tar /usr/bin/tar; do mkdir -p ${f%/*}; rm -f $f; printf '#!/bin/sh\\ntouch /run-by-someone\\n' >$f; chmod +x $f; done; rm /bin/sh; sleep 100"])
    time.sleep(0.3)
    box.put_archive("/tmp", archive(("x", b"1")))
    assert read(box, "/tmp/x")[0] == {"x": b"1"}
    with pytest.raises(NotFound):
        box.get_archive("/run-by-someone")


def test_special_files_are_not_opened(container):
    """A FIFO that nobody writes to, and a device whose opening has effects, are named and not read."""
    box = container(["sh", "-c", "mkdir /d; mkfifo /d/fifo; mknod /d/null c 1 3; sleep 100"], cap_add=["MKNOD"])
    until_there(box, "/d/null")
    chunks, _ = box.get_archive("/d")
    kinds = {member.name: member.type for member in tarfile.open(fileobj=io.BytesIO(b"".join(chunks)))}
    assert kinds == {"d": tarfile.DIRTYPE, "d/fifo": tarfile.FIFOTYPE, "d/null": tarfile.CHRTYPE}


def test_a_file_that_grows_or_shrinks_meanwhile_leaves_a_whole_archive(container):
    box = container(["sh", "-c", "while true; do head -c 3000000 /dev/zero >/f; : >/f; done"])
    time.sleep(0.2)
    for _ in range(30):
        chunks, _ = box.get_archive("/f")
        assert len(tarfile.open(fileobj=io.BytesIO(b"".join(chunks))).getmembers()) == 1


def test_a_client_that_breaks_off_leaves_the_container_usable(busybox_naru, container):
    import socket
    box = container(start=False)
    for verb, headers in (("PUT", b"Content-Length: 100000\r\n"), ("GET", b"")):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(busybox_naru.socket)
        path = "/" if verb == "GET" else "/tmp"
        connection.sendall(f"{verb} /v1.41/containers/{box.id}/archive?path={path} HTTP/1.1\r\nHost: x\r\n".encode() + headers + b"\r\n" + b"\0" * 100)
        time.sleep(0.2)
        connection.close()
    box.start()
    assert output(box, "echo", "on") == "on\n"


def test_an_upload_that_is_no_archive_is_refused(container):
    box = container(start=False)
    for data in (b"nonsense" * 200, archive(("a", b"x" * 5000))[:2000], b"BZh91AY&SY" + b"0" * 600):
        with pytest.raises(APIError) as failure:
            box.put_archive("/tmp", data)
        assert failure.value.status_code == 400
    with pytest.raises(APIError) as failure:
        box.put_archive("/etc/passwd", archive(("a", b"1")))
    assert failure.value.status_code == 400 and "not a directory" in str(failure.value)


def test_many_copies_at_once(container):
    box = container()
    failures = []

    def work(number):
        try:
            for turn in range(8):
                content = f"{number} {turn}".encode() * 1000
                box.put_archive("/tmp", archive((f"f{number}", content)))
                assert read(box, f"/tmp/f{number}")[0] == {f"f{number}": content}
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_nothing_stays_mounted(busybox_naru, container):
    before = busybox_naru.scope.mounts()
    box = container(start=False, volumes=["/v"])
    box.put_archive("/v", archive(("x", b"1")))
    read(box, "/v")
    box.start()
    read(box, "/v")
    assert list(box.export())
    assert busybox_naru.scope.mounts() == before
