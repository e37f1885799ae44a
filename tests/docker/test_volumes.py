"""Volumes beyond Docker's: subpaths that stay inside, the trash and its undo, rename, clone, archives; and what prune must never do."""

import io
import os
import tarfile
import time

import pytest
from testkit.api import Api, ApiError
from testkit.engine import NARU


@pytest.fixture
def api(busybox_naru):
    api = Api(busybox_naru.socket)
    yield api
    busybox_naru.remove_all_containers()
    for volume in api.call("GET", "/volumes")["Volumes"] or []:
        api.call("DELETE", f"/volumes/{volume['Name']}?force=1")
    api.call("DELETE", "/naru/volumes/trash")
    api.close()


def naru(engine, *arguments, **options):
    return engine.scope.run(NARU, "-H", engine.host, *arguments, env=engine.environment(), **options)


def run(api, command, volume=None, mounts=None, target="/m"):
    mounts = mounts or [{"Type": "volume", "Source": volume, "Target": target}]
    box = api.create(["sh", "-c", command], host={"Mounts": mounts, "NetworkMode": "none"})
    try:
        api.start(box)
        code = api.wait(box)
        return code, api.logs(box).decode()
    finally:
        api.remove(box)


def sub(volume, subpath):
    return [{"Type": "volume", "Source": volume, "Target": "/m", "VolumeOptions": {"Subpath": subpath}}]


def test_subpaths_stay_in_the_volume(api, tmp_path):
    (tmp_path / "secret").write_text("of the host")
    run(api, f"mkdir -p /m/a/b; echo deep >/m/a/b/f; ln -s a/b /m/inner; ln -s {tmp_path} /m/out; ln -s ../../../../../../../../..{tmp_path} /m/up; echo one >/m/file", "v1")
    assert run(api, "cat /m/f", mounts=sub("v1", "a/b")) == (0, "deep\n")
    assert run(api, "cat /m/f", mounts=sub("v1", "inner")) == (0, "deep\n")
    assert run(api, "cat /m", mounts=sub("v1", "file")) == (0, "one\n")
    for path in ("out", "up", "out/secret", "nosuch", "a/nosuch"):
        with pytest.raises(ApiError) as failure:
            run(api, "ls /m", mounts=sub("v1", path))
        assert "no such file" in str(failure.value), path
    for path in ("../x", "/etc", "a/../../x"):
        with pytest.raises(ApiError) as failure:
            run(api, "true", mounts=sub("v1", path))
        assert failure.value.status == 400


def test_removal_is_undone(busybox_naru, api):
    engine = busybox_naru
    run(api, "echo data >/m/f", "v1")
    api.call("DELETE", "/volumes/v1")
    with pytest.raises(ApiError):
        api.call("GET", "/volumes/v1")
    assert naru(engine, "volume", "ls", "-q").stdout == ""
    assert "v1 " in naru(engine, "volume", "undo", "--list").stdout
    assert naru(engine, "volume", "undo").stdout == "v1\n"
    assert run(api, "cat /m/f", "v1") == (0, "data\n")
    # The name is free at once, and then the undo waits.
    api.call("DELETE", "/volumes/v1")
    assert run(api, "ls /m", "v1") == (0, "")
    refused = naru(engine, "volume", "undo", "v1")
    assert refused.returncode == 1 and "exists again" in refused.stderr
    assert naru(engine, "volume", "rename", "v1", "other").stdout == "other\n"
    assert naru(engine, "volume", "undo", "v1").returncode == 0
    assert run(api, "cat /m/f", "v1") == (0, "data\n")
    assert naru(engine, "volume", "undo", "nosuch").returncode == 1


def test_prune_is_undone_and_trash_can_be_emptied(busybox_naru, api):
    run(api, "head -c 3000000 /dev/zero >/m/f", "p1")
    assert api.call("POST", "/volumes/prune")["VolumesDeleted"] == ["p1"]
    assert [entry["Name"] for entry in api.call("GET", "/naru/volumes/trash")] == ["p1"]
    assert naru(busybox_naru, "volume", "undo", "p1").returncode == 0
    assert run(api, "wc -c </m/f", "p1") == (0, "3000000\n")
    api.call("DELETE", "/volumes/p1")
    assert "3" in naru(busybox_naru, "volume", "undo", "--empty").stdout
    assert api.call("GET", "/naru/volumes/trash") == []
    assert naru(busybox_naru, "volume", "undo", "p1").returncode == 1


def test_volumes_of_a_container_that_goes_are_not_kept(api):
    box = api.create(["true"], Volumes={"/m": {}})
    api.remove(box)
    assert api.call("GET", "/naru/volumes/trash") == []


def test_clone_export_and_import(busybox_naru, api, tmp_path):
    engine = busybox_naru
    run(api, "cd /m; mkdir -p d; echo 1 >d/f; ln d/f h; ln -s d l; chmod 2750 d; chown -R 7:8 d; chown 5:6 .; chmod 711 .", "v1")
    look = "cd /m; stat -c '%n %F %a %u:%g %h' . d d/f h; readlink l; cat d/f"
    expected = run(api, look, "v1")
    assert naru(engine, "volume", "clone", "v1", "copy").stdout == "copy\n"
    assert run(api, look, "copy") == expected
    archive = tmp_path / "v.tar"
    assert naru(engine, "volume", "export", "-o", str(archive), "v1").returncode == 0
    assert sorted(tarfile.open(archive).getnames()) == ["d", "d/f", "h", "l"]
    naru(engine, "volume", "create", "--uid", "5", "--gid", "6", "third")
    assert run(api, "stat -c %u:%g /m", "third") == (0, "5:6\n")
    assert naru(engine, "volume", "import", "third", str(archive)).returncode == 0
    assert run(api, "cat /m/h; readlink /m/l; stat -c %a:%u /m/d", "third") == (0, "1\nd\n2750:7\n")
    for arguments in (("clone", "v1", "copy"), ("clone", "nosuch", "x"), ("rename", "v1", "copy"), ("import", "nosuch", str(archive)), ("clone", "v1", "../x")):
        assert naru(engine, "volume", *arguments).returncode == 1, arguments
    hostile = io.BytesIO()
    with tarfile.open(fileobj=hostile, mode="w") as tar:
        info = tarfile.TarInfo("../../outside")
        tar.addfile(info)
    (tmp_path / "h.tar").write_bytes(hostile.getvalue())
    assert naru(engine, "volume", "import", "third", str(tmp_path / "h.tar")).returncode == 1
    assert not os.path.exists(f"{engine.data_root}/volumes/outside") and not os.path.exists(f"{engine.data_root}/outside")


def test_a_volume_in_use_is_not_renamed(busybox_naru, api):
    api.create(["true"], name="holder", host={"Binds": ["held:/m"]})
    refused = naru(busybox_naru, "volume", "rename", "held", "other")
    assert refused.returncode == 1 and "in use" in refused.stderr


def test_update_is_refused_in_words(api):
    api.call("POST", "/volumes/create", {"Name": "u1"})
    with pytest.raises(ApiError) as failure:
        api.call("PUT", "/volumes/u1", {})
    assert failure.value.status == 503 and "cluster volumes" in str(failure.value)


def test_prune_after_a_restart_keeps_what_is_used(fresh_naru):
    """moby#38883: the new daemon must know of the users before it prunes."""
    engine, api = fresh_naru, Api(fresh_naru.socket)
    running = api.create(["sleep", "100"], host={"Binds": ["used:/m"], "NetworkMode": "none"})
    api.start(running)
    api.create(["true"], host={"Binds": ["stopped:/m"], "NetworkMode": "none"})
    api.call("POST", "/volumes/create", {"Name": "unused"})
    for end in (engine.kill9, engine.stop):
        end()
        api.close()
        engine.start()
        pruned = api.call("POST", "/volumes/prune")["VolumesDeleted"] or []
        assert "used" not in pruned and "stopped" not in pruned
    assert {volume["Name"] for volume in api.call("GET", "/volumes")["Volumes"]} == {"used", "stopped"}
    # What was removed before the restart can still be had back.
    assert [entry["Name"] for entry in api.call("GET", "/naru/volumes/trash")] == ["unused"]


def test_a_tmpfs_volume_is_one_for_all_and_ends_with_the_last(api, busybox_naru):
    before = busybox_naru.scope.mounts()
    api.call("POST", "/volumes/create", {"Name": "t1", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}})
    boxes = [api.create(["sleep", "100"], host={"Binds": ["t1:/m"], "NetworkMode": "none"}) for _ in range(3)]
    for box in boxes:
        api.start(box)
    api.exec(boxes[0], ["sh", "-c", "echo shared >/m/f"])
    assert all(api.exec(box, ["cat", "/m/f"])[0] == b"shared\n" for box in boxes)
    api.remove(boxes[0])
    late = api.create(["sleep", "100"], host={"Binds": ["t1:/m"], "NetworkMode": "none"})
    api.start(late)
    assert api.exec(late, ["cat", "/m/f"])[0] == b"shared\n"
    assert busybox_naru.scope.mounts() == before, "nothing is mounted on the host"


def test_restart_on_unhealthy_when_asked(api):
    check = {"Test": ["CMD-SHELL", "test ! -e /sick"], "Interval": 200_000_000, "Retries": 1}
    box = api.create(["sleep", "100"], Healthcheck=check, Labels={"naru.restart-on-unhealthy": "true"}, host={"NetworkMode": "none"}, StopSignal="SIGKILL")
    plain = api.create(["sleep", "100"], Healthcheck=check, host={"NetworkMode": "none"})
    for one in (box, plain):
        api.start(one)
    first = {one: api.inspect(one)["State"]["Pid"] for one in (box, plain)}
    for one in (box, plain):
        api.exec(one, ["touch", "/sick"])
    deadline = time.monotonic() + 40
    while api.inspect(box)["State"]["Pid"] in (first[box], 0):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert api.inspect(plain)["State"]["Pid"] == first[plain]


def test_boot_starts_what_others_join_first(fresh_naru):
    engine, api = fresh_naru, Api(fresh_naru.socket)
    always = {"RestartPolicy": {"Name": "always"}}
    # Made first, so that age alone would start it first.
    api.create(["sleep", "1000"], name="late", host={**always, "NetworkMode": "none"})
    late = api.create(["sleep", "1000"], name="joined", host={**always, "NetworkMode": "none"})
    joiner = api.create(["sleep", "1000"], name="joiner", host={**always, "NetworkMode": f"container:{late}", "IpcMode": "private"})
    for box in ("late", "joined", "joiner"):
        api.start(box)
    for _ in range(2):
        engine.stop()
        api.close()
        engine.start()
        deadline = time.monotonic() + 40
        while not all(api.inspect(box)["State"]["Running"] for box in ("late", "joined", joiner)):
            assert time.monotonic() < deadline, [api.inspect(box)["State"] for box in ("late", "joined", joiner)]
            time.sleep(0.05)
