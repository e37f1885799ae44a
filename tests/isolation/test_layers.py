"""Hostile and broken images: refused with nothing left, while what runs goes on."""

import gzip
import io
import json
import os
import re
import subprocess
import tarfile

import archive
import pytest

CONFIG = {"Cmd": ["sh"], "Env": ["PATH=/bin"]}


def entry(name, kind=tarfile.REGTYPE, link="", data=b""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, len(data), 0o755
    return info, data


def write_layer(path, entries):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return archive.Layer(str(path), "hostile")


def load(naru, tmp_path, *layers, name="hostile:layers"):
    made = [write_layer(tmp_path / f"layer{n}.tar", entries) for n, entries in enumerate(layers)]
    archive.write_docker_archive(str(tmp_path / "image.tar"), name, made, CONFIG)
    return naru.client("load", "-i", str(tmp_path / "image.tar"), timeout=60)


VICTIM = f"/tmp/naru-victim-file-{os.getpid()}"


@pytest.fixture(autouse=True)
def victim():
    with open(VICTIM, "w") as file:
        file.write("untouched")
    yield
    with open(VICTIM) as file:
        assert file.read() == "untouched"
    os.remove(VICTIM)
    assert not os.path.exists("/tmp/naru-escaped")


@pytest.mark.parametrize("entries", [
    [entry("../../../../../../../../tmp/naru-escaped", data=b"x")],
    [entry("/../../../../../../../tmp/naru-escaped", data=b"x")],
    [entry("a/../../../../../../../../tmp/naru-escaped", data=b"x")],
    [entry("link", tarfile.SYMTYPE, "/tmp"), entry("link/naru-escaped", data=b"x")],
    [entry("link", tarfile.SYMTYPE, "../../../../../../../../tmp"), entry("link/naru-escaped", data=b"x")],
    [entry("hard", tarfile.LNKTYPE, "../../../../../../../.." + VICTIM), entry("hard", data=b"x")],
    [entry("link", tarfile.SYMTYPE, VICTIM), entry("hard", tarfile.LNKTYPE, "link"), entry("hard", data=b"overwritten")],
    [entry("link", tarfile.SYMTYPE, VICTIM), entry("link", data=b"overwritten")],
    [entry("d", tarfile.SYMTYPE, "/tmp"), entry("d/.wh." + os.path.basename(VICTIM))],
    [entry(".wh...")],
    [entry(".wh..", )],
    [entry("d/.wh." + "../" * 8 + VICTIM[1:])],
], ids=["dots", "rooted-dots", "inner-dots", "absolute-link", "relative-link", "hardlink", "link-to-link", "replaced-link", "whiteout-by-link", "whiteout-of-parent", "whiteout-of-self", "whiteout-with-path"])
def test_layer_never_writes_outside_its_root(naru, tmp_path, entries):
    load(naru, tmp_path, [entry("ok", data=b"x")], entries)
    # Refused, or confined: the fixture looks at the victim. The engine itself goes on.
    assert naru.answers()
    naru.client("rmi", "-f", "hostile:layers")


def test_links_between_layers_do_not_lead_out(naru, tmp_path):
    load(naru, tmp_path, [entry("dir", tarfile.SYMTYPE, "/tmp")], [entry("dir/naru-escaped", data=b"x")])
    naru.client("rmi", "-f", "hostile:layers")


def test_honest_links_are_kept(naru, tmp_path):
    lower = [entry("bin", tarfile.DIRTYPE), entry("bin/busybox", data=open("/bin/busybox", "rb").read()), entry("bin/ls", tarfile.LNKTYPE, "bin/busybox"), entry("bin/readlink", tarfile.LNKTYPE, "bin/busybox"), entry("lib", tarfile.SYMTYPE, "/usr/lib"), entry("etc", tarfile.DIRTYPE), entry("etc/gone", data=b"x")]
    upper = [entry("up", tarfile.SYMTYPE, "../../etc"), entry("etc/.wh.gone"), entry("etc/.wh.never-was")]
    assert load(naru, tmp_path, lower, upper, name="honest:layers").returncode == 0
    result = naru.client("run", "--rm", "--network", "none", "honest:layers", "/bin/readlink", "/lib")
    assert result.stdout == "/usr/lib\n", result.stderr
    assert naru.client("run", "--rm", "--network", "none", "honest:layers", "/bin/ls", "/etc/gone").returncode != 0
    naru.client("rmi", "-f", "honest:layers")


def images_and_folders(naru):
    listing = naru.client("images", "-aq", "--no-trunc").stdout
    count = sum(len(files) + len(folders) for _, folders, files in os.walk(naru.data_root))
    return listing, count


def broken_archives(images, tmp_path):
    whole = open(images + "/busybox.tar", "rb").read()
    yield "truncated", whole[: len(whole) // 2]
    yield "truncated-late", whole[:-300000]
    yield "empty", b""
    yield "noise", os.urandom(50000)
    yield "gzip-of-noise", gzip.compress(os.urandom(50000))
    yield "truncated-gzip", gzip.compress(whole)[:100000]
    layer = write_layer(tmp_path / "layer.tar", [entry("file", data=b"right")])
    archive.write_docker_archive(str(tmp_path / "good.tar"), "broken:1", [layer], CONFIG)
    good = open(tmp_path / "good.tar", "rb").read()
    yield "wrong-digest", good.replace(b"right", b"wrong")
    for name, manifest in (("no-manifest", None), ("bad-manifest", b"{"), ("manifest-of-wrong-kind", b"[5]"), ("layer-outside", json.dumps([{"Config": "../../../../etc/passwd", "Layers": ["../../../../etc/shadow"], "RepoTags": ["broken:1"]}]).encode())):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            if manifest is not None:
                archive.add_bytes(tar, "manifest.json", manifest)
        yield name, buffer.getvalue()


def test_broken_archives_leave_nothing(naru, images, tmp_path):
    running = naru.client("run", "-d", "--network", "none", "busybox:test", "sleep", "100").stdout.strip()
    before = images_and_folders(naru)
    wrong = []
    for name, data in broken_archives(images, tmp_path):
        path = tmp_path / "broken.tar"
        path.write_bytes(data)
        result = naru.client("load", "-i", str(path), timeout=60)
        if result.returncode == 0 or not result.stderr.strip():
            wrong.append(f"{name}: accepted with {result.returncode} {result.stdout!r} {result.stderr!r}")
        if images_and_folders(naru) != before:
            wrong.append(f"{name}: left something behind")
            before = images_and_folders(naru)
    naru.client("rm", "-f", running)
    assert wrong == []


def test_full_disk(fresh_naru, images, tmp_path):
    """On a filesystem too small for the image, load fails by name and leaves nothing."""
    from testkit.engine import Naru
    small = tmp_path / "small.img"
    small.write_bytes(b"")
    os.truncate(small, 64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(small)], check=True)
    engine = Naru()
    try:
        mounted = engine.scope.run("mount", "-o", "loop", str(small), engine.data_root)
        if mounted.returncode:
            pytest.skip("no loop devices here: " + mounted.stderr)
        engine.start()
        engine.load(images + "/busybox.tar")
        usage = engine.scope.run("df", "--output=used", engine.data_root).stdout
        result = engine.client("load", "-i", images + "/debian.tar", timeout=120)
        assert result.returncode != 0
        assert re.search("no space left|not enough space", result.stderr + result.stdout), result.stderr
        ran = engine.client("run", "--rm", "--network", "none", "busybox:test", "echo", "goes on")
        assert ran.stdout == "goes on\n", ran.stderr
        after = engine.scope.run("df", "--output=used", engine.data_root).stdout
        assert int(after.split()[1]) < int(usage.split()[1]) + 2000
        assert engine.client("images", "-q").stdout.count("\n") == 1
    finally:
        if engine.process:
            engine.remove_all_containers()
            engine.stop()
        engine.scope.run("umount", engine.data_root)
        engine.close()


def test_layouts_of_every_compression_run(fresh_naru, images):
    for name in ("debian.tar", "debian-oci.tar", "debian-zstd.tar"):
        fresh_naru.load(f"{images}/{name}")
        result = fresh_naru.client("run", "--rm", "--network", "none", "debian:test", "python3", "-c", "print(6 * 7)")
        assert result.stdout == "42\n", f"{name}: {result.stderr}"
    # One tree, whatever it was compressed with: its layers are shared.
    assert fresh_naru.client("rmi", "-f", "debian:test").returncode == 0


def test_rmi_deletes_before_it_answers(fresh_naru, images):
    before = images_and_folders(fresh_naru)[1]
    fresh_naru.load(images + "/debian.tar")
    assert images_and_folders(fresh_naru)[1] > before + 5000
    assert fresh_naru.client("rmi", "debian:test").returncode == 0
    assert images_and_folders(fresh_naru)[1] < before + 20
