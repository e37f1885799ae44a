"""`build --output`: files, archives and images, by Naru's client and by Debian's in the session form."""

import io
import json
import os
import subprocess
import tarfile

import pytest
from test_build import CLIENT, write_context
from testkit.engine import NARU
from testkit.registry import DebianRegistry

TREE = """FROM busybox:test AS made
RUN mkdir -p /o/d/e && echo one >/o/d/one && ln /o/d/one /o/d/two && ln -s ../../etc/passwd /o/d/link && chown 12:34 /o/d/one && chmod 4751 /o/d/one && chmod 1770 /o/d/e && touch /o/-x '/o/with space'
RUN dd if=/dev/urandom of=/o/big bs=1k count=300 2>/dev/null; mkfifo /o/fifo
FROM scratch
COPY --from=made /o /
"""


@pytest.fixture
def folder(tmp_path):
    write_context(str(tmp_path / "c"), {"Dockerfile": TREE})
    return str(tmp_path / "c")


def naru_build(engine, *arguments, **options):
    return engine.scope.run(NARU, "-H", engine.host, "build", *arguments, **options)


def tree_of(directory):
    found = {}
    for at, folders, files in os.walk(directory):
        for name in folders + files:
            path = os.path.join(at, name)
            stat = os.lstat(path)
            content = os.readlink(path) if os.path.islink(path) else open(path, "rb").read() if os.path.isfile(path) else None
            is_folder = os.path.isdir(path) and not os.path.islink(path)
            found[os.path.relpath(path, directory)] = (oct(stat.st_mode), stat.st_nlink if os.path.isfile(path) else 0, is_folder or int(stat.st_mtime), content)
    return found


def images(engine):
    return engine.client("images", "-aq").stdout.split()


def test_files_come_as_they_are_in_the_image(build_naru, folder, tmp_path):
    before = images(build_naru)
    done = naru_build(build_naru, "-o", str(tmp_path / "naru"), "-o", f"type=tar,dest={tmp_path}/files.tar", folder)
    assert done.returncode == 0, done.stderr
    mine = tree_of(tmp_path / "naru")
    assert mine["d/one"][:2] == ("0o104751", 2) and mine["d/two"] == mine["d/one"] and mine["d/link"][3] == "../../etc/passwd" and mine["d/e"][0] == "0o41770"
    assert len(mine["big"][3]) == 300 << 10 and mine["fifo"][0] == "0o10644" and {"-x", "with space"} <= set(mine)
    with tarfile.open(tmp_path / "files.tar") as archive:
        members = {member.name.rstrip("/"): member for member in archive}
        assert set(members) == set(mine)
        assert (members["d/one"].uid, members["d/one"].gid, members["d/one"].mode) == (12, 34, 0o4751) and members["d/two"].islnk()
    # Debian's client is sent them entry by entry; what is there already is replaced, or left where the image has nothing.
    other = tmp_path / "docker"
    os.makedirs(other / "d")
    (other / "d/one").write_text("something older")
    (other / "kept").write_text("kept")
    done = build_naru.scope.shell(f"DOCKER_BUILDKIT=1 {CLIENT} -H {build_naru.host} build -o {other} {folder}")
    assert done.returncode == 0, done.stderr
    theirs = tree_of(other)
    assert theirs.pop("kept")[3] == b"kept" and theirs == mine
    for arguments in (f"-o - {folder} >{tmp_path}/out.tar", f"-o type=tar,dest={tmp_path}/docker.tar {folder}"):
        done = build_naru.scope.shell(f"DOCKER_BUILDKIT=1 {CLIENT} -H {build_naru.host} build {arguments}")
        assert done.returncode == 0, done.stderr
    for name in ("out.tar", "docker.tar"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "files.tar").read_bytes()
    done = build_naru.scope.shell(f"{NARU} -H {build_naru.host} build -o - {folder} >{tmp_path}/out.tar")
    assert (tmp_path / "out.tar").read_bytes() == (tmp_path / "files.tar").read_bytes(), done.stderr
    assert images(build_naru) == before, "an image was listed"


def test_attributes_come_along(build_naru, tmp_path):
    write_context(str(tmp_path / "c"), {"Dockerfile": "FROM scratch\nADD x.tar /\n"})
    with tarfile.open(tmp_path / "c/x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/f", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.pax_headers = kind, 0o755, {"SCHILY.xattr.user.note": f"of {name}"}
            archive.addfile(member)
    done = naru_build(build_naru, "-o", str(tmp_path / "naru"), "-o", f"type=tar,dest={tmp_path}/files.tar", str(tmp_path / "c"))
    assert done.returncode == 0, done.stderr
    done = build_naru.scope.shell(f"DOCKER_BUILDKIT=1 {CLIENT} -H {build_naru.host} build -o {tmp_path}/docker {tmp_path}/c")
    assert done.returncode == 0, done.stderr
    for place in ("naru", "docker"):
        for name in ("d", "d/f"):
            assert os.getxattr(tmp_path / place / name, "user.note") == f"of {name}".encode(), place
    with tarfile.open(tmp_path / "files.tar") as archive:
        assert archive.getmember("d/f").pax_headers["SCHILY.xattr.user.note"] == "of d/f"


def test_a_hostile_image_writes_nothing_outside(build_naru, tmp_path):
    write_context(str(tmp_path / "c"), {"Dockerfile": "FROM scratch\nCOPY . /\n", "up/x": "hostile", "up/y": "hostile"})
    out, outside = tmp_path / "out", tmp_path / "outside"
    os.makedirs(out)
    os.makedirs(outside)
    os.symlink(outside, out / "up")
    done = naru_build(build_naru, "-o", str(out), str(tmp_path / "c"))
    assert done.returncode != 0 and os.listdir(outside) == [], done


def test_archives_of_images_load_elsewhere(build_naru, folder, tmp_path):
    done = naru_build(build_naru, "-t", "output:a", "--iidfile", str(tmp_path / "id"), "-o", f"type=docker,dest={tmp_path}/image.tar", "-o", f"type=oci,dest={tmp_path}/layout,tar=false,name=output:b", folder)
    assert done.returncode == 0, done.stderr
    image = (tmp_path / "id").read_text()
    assert build_naru.client("image", "inspect", "output:a").returncode != 0, "it was listed"
    index = json.loads((tmp_path / "layout/index.json").read_text())
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "docker.io/library/output:b"
    loaded = build_naru.client("load", "-i", str(tmp_path / "image.tar"))
    assert "output:a" in loaded.stdout and build_naru.client("image", "inspect", "-f", "{{.Id}}", "output:a").stdout.strip() == image
    if os.path.exists("/usr/bin/skopeo"):
        seen = subprocess.run(["skopeo", "inspect", "--raw", f"oci:{tmp_path}/layout"], capture_output=True, text=True)
        assert json.loads(seen.stdout)["config"]["digest"] == image, seen.stderr
    build_naru.client("rmi", "output:a")


def test_an_image_is_pushed_by_its_build(build_naru, folder, tmp_path):
    registry = DebianRegistry(build_naru.scope)
    try:
        pushes = [
            (f"{NARU} -H {build_naru.host} build --push -t 127.0.0.1:5000/output:naru {folder}", "naru"),
            (f"{NARU} -H {build_naru.host} build -o type=image,name=127.0.0.1:5000/output:two,push=true {folder}", "two"),
            (f"DOCKER_BUILDKIT=1 {CLIENT} -H {build_naru.host} build -o type=image,name=127.0.0.1:5000/output:docker,push=true {folder}", "docker"),
        ]
        for command, tag in pushes:
            done = build_naru.scope.shell(command)
            assert done.returncode == 0, done.stderr
            seen = build_naru.scope.shell(f"curl -sf -H 'Accept: application/vnd.oci.image.manifest.v1+json' -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' http://127.0.0.1:5000/v2/output/manifests/{tag}")
            assert "layers" in json.loads(seen.stdout), seen
            build_naru.client("rmi", f"127.0.0.1:5000/output:{tag}")
    finally:
        registry.close()


@pytest.mark.parametrize("output, words", [("type=nosuch", "nosuch"), ("type=local", "dest"), ("type=tar,compression=zstd", "compression"), ("type=registry", "name")])
def test_what_cannot_be_given_is_refused(build_naru, folder, output, words):
    done = naru_build(build_naru, "-o", output, folder)
    assert done.returncode != 0 and words in done.stderr, done
    if output != "type=local":
        done = build_naru.scope.shell(f"DOCKER_BUILDKIT=1 {CLIENT} -H {build_naru.host} build -o {output},dest=/dev/null {folder}")
        assert done.returncode != 0 and words in done.stderr, done
