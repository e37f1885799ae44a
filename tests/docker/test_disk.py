"""Where the disk's space goes: what `info` and `system df` tell agrees with `du`, and costs others nothing."""

import json
import os
import re
import subprocess
import threading
import time

import pytest
from testkit.api import Api
from testkit.engine import Naru

CLIENTS = [path for path in ("/usr/bin/docker", "/usr/local/bin/docker") if os.path.exists(path)]

# A hole of 200 megabytes, a file with two names, a thousand small files, and one of three megabytes.
FILL = """
dd if=/dev/zero of=hole bs=1 count=1 seek=200M 2>/dev/null
dd if=/dev/urandom of=large bs=64k count=48 2>/dev/null; mkdir -p in/side; ln large in/side/linked; ln -s large symbolic
mkdir small; i=0; while [ $i -lt 1000 ]; do echo $i >small/$i; i=$((i+1)); done
"""
PARTS = ["LayersShared", "LayersUnique", "Images", "Writable", "Logs", "Volumes", "Trash", "Downloads", "Other"]


@pytest.fixture
def api(fresh_naru):
    client = Api(fresh_naru.socket)
    yield client
    client.close()


def run(api, name, command, image="busybox:test", volume=None):
    host = {"Binds": [volume + ":/v"]} if volume else {}
    api.create(["sh", "-c", command], image=image, name=name, host=host)
    api.start(name)
    assert api.wait(name) == 0, api.logs(name)


def fill(engine, api):
    """Puts something into every part; returns the ids of layers that several images have."""
    run(api, "writer", f"mkdir /w; cd /w; {FILL}")
    run(api, "in-volume", f"cd /v; {FILL}", volume="full")
    run(api, "in-removed", f"cd /v; {FILL}", volume="removed")
    api.remove("in-removed")
    api.call("DELETE", "/volumes/removed")
    run(api, "talker", "i=0; while [ $i -lt 20000 ]; do echo a line of the log $i; i=$((i+1)); done")
    run(api, "base", f"mkdir /b; cd /b; {FILL}")
    api.call("POST", "/commit?container=base&repo=base")
    for number in (1, 2):
        run(api, f"top-{number}", "dd if=/dev/urandom of=/top bs=64k count=32 2>/dev/null", image="base:latest")
        api.call("POST", f"/commit?container=top-{number}&repo=top{number}")
    with open(engine.data_root + "/downloads/" + "0" * 64, "wb") as file:
        file.write(b"partial" * 300_000)
    settle()


def settle():
    """Records of what just ended are written a moment later."""
    time.sleep(0.5)
    os.sync()


def eventually(check, seconds=40):
    """Repeats what compares two counts until nothing was written between them."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except (AssertionError, subprocess.CalledProcessError):
            if time.monotonic() > deadline:
                raise
            settle()


def du(*paths, options=()):
    paths = [path for path in paths if os.path.exists(path)]
    if not paths:
        return 0
    result = subprocess.run(["du", "-sc", "--block-size=1", *options, *paths], capture_output=True, text=True, check=True)
    return int(result.stdout.splitlines()[-1].split()[0])


def count_by_du(root):
    containers = [os.path.join(root, "containers", name) for name in os.listdir(root + "/containers")]
    logs = [os.path.join(folder, name) for folder in containers for name in os.listdir(folder) if ".log" in name]
    users = {}
    for name in os.listdir(root + "/blobs/sha256"):
        with open(root + "/blobs/sha256/" + name, "rb") as file:
            data = file.read()
        if b'"rootfs"' in data:
            for top in chains(json.loads(data)["rootfs"]["diff_ids"]):
                users[top] = users.get(top, 0) + 1
    shared = [os.path.join(root, "layers", chain) for chain, count in users.items() if count > 1]
    counted = {
        "LayersShared": du(*shared),
        "Images": du(root + "/blobs", root + "/images.json"),
        "Writable": du(root + "/snapshots"),
        "Logs": du(*logs),
        "Volumes": du(root + "/volumes", options=["--exclude=.trash"]),
        "Trash": du(root + "/volumes/.trash"),
        "Downloads": du(root + "/downloads", root + "/temporary"),
        "Total": du(root),
    }
    counted["LayersUnique"] = du(root + "/layers") - counted["LayersShared"]
    counted["Other"] = counted["Total"] - sum(counted[part] for part in PARTS if part != "Other")
    return counted


def chains(diff_ids):
    """The chain ids of an image's layers, as the OCI image specification makes them."""
    import hashlib
    chain = None
    for diff_id in diff_ids:
        chain = diff_id if chain is None else "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
        yield chain.removeprefix("sha256:")


def check_account(engine, api, path):
    eventually(lambda: compare_account(api.call("GET", path)["DiskAccount"], engine.data_root))


def compare_account(account, root):
    counted = count_by_du(root)
    for part in [*PARTS, "Total"]:
        found, expected = account[part], counted[part]
        assert expected > 0, part
        assert abs(found - expected) <= expected / 100, f"{part}: {found}, du says {expected}"
    space = os.statvfs(root)
    assert account["DataRoot"] == root
    assert account["FileSystemBytes"] == space.f_blocks * space.f_frsize
    free = space.f_bavail * space.f_frsize
    assert abs(account["FreeBytes"] - free) < free / 100


def parse_size(text):
    number, unit = re.fullmatch(r"([0-9.]+)([kMGT]?B)", text).groups()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]


def test_every_part_agrees_with_du(fresh_naru, api):
    fill(fresh_naru, api)
    check_account(fresh_naru, api, "/system/df")
    # What is remembered of layers and removed volumes is right too, and what changed is seen.
    api.call("DELETE", "/naru/volumes/trash")
    run(api, "another", f"cd /v; {FILL}", volume="another")
    api.remove("another")
    api.call("DELETE", "/volumes/another")
    api.call("DELETE", "/images/top1")
    settle()
    check_account(fresh_naru, api, "/system/df")
    check_account(fresh_naru, api, "/info")


def test_clients_show_it(fresh_naru, api):
    fill(fresh_naru, api)
    eventually(lambda: compare_shown(fresh_naru, count_by_du(fresh_naru.data_root)))


def compare_shown(fresh_naru, counted):
    names = {"Data Space Used": "Total", "Layers Shared": "LayersShared", "Writable Layers": "Writable", "Logs": "Logs",
             "Volumes": "Volumes", "Removed Volumes": "Trash", "Partial Downloads": "Downloads"}
    for client in [*CLIENTS, None]:
        shown = fresh_naru.client("info", program=client)
        lines = dict(re.findall(r"^ *([^:\n]+): (\S.*)$", shown.stdout, re.M))
        assert lines["Docker Root Dir"] == fresh_naru.data_root
        assert parse_size(lines["Data Space Available"]) > 0
        for name, part in names.items():
            assert abs(parse_size(lines[name]) - counted[part]) <= counted[part] / 100, (client, name, lines[name])
        # Docker's own tables: its count of bytes, in which a hole is as long as what was written after it.
        assert fresh_naru.client("system", "df", program=client).returncode == 0
        table = fresh_naru.client("system", "df", "-v", program=client)
        assert re.search(r"full +1 +212\.9MB", table.stdout), table.stdout + table.stderr
    own = fresh_naru.client("system", "df").stdout
    for name, part in {"Logs": "Logs", "Removed volumes": "Trash", "Total": "Total"}.items():
        size = re.search(rf"^{name} +(\S+)$", own, re.M).group(1)
        assert abs(parse_size(size) - counted[part]) <= counted[part] / 100, own


def test_a_data_root_beside_the_system_is_warned_of(fresh_naru):
    is_beside = os.stat(fresh_naru.data_root).st_dev == os.stat("/").st_dev
    for client in CLIENTS:
        shown = fresh_naru.client("info", program=client)
        assert ("root file system" in shown.stderr) == is_beside
    elsewhere = Naru()
    try:
        os.mkdir(elsewhere.exec_root + "/data")
        elsewhere.data_root = elsewhere.exec_root + "/data"
        elsewhere.start()
        for client in CLIENTS:
            shown = elsewhere.client("info", program=client)
            assert "root file system" not in shown.stderr, shown.stderr
            assert shown.returncode == 0 and elsewhere.data_root in shown.stdout
    finally:
        elsewhere.close()


def count_beside_pings(engine, api):
    """Returns the seconds that a count took, and those of the slowest ping meanwhile."""
    seconds = []
    is_counted = threading.Event()

    def ping():
        own = Api(engine.socket)
        while not is_counted.is_set():
            began = time.monotonic()
            own.request("GET", "/_ping")
            seconds.append(time.monotonic() - began)
            time.sleep(0.001)
        own.close()

    pinging = threading.Thread(target=ping)
    pinging.start()
    began = time.monotonic()
    for _ in range(5):
        api.call("GET", "/system/df")
    took = (time.monotonic() - began) / 5
    is_counted.set()
    pinging.join()
    return took, max(seconds)


@pytest.mark.seconds(300)
def test_counting_holds_up_nobody(fresh_naru, api):
    """Many files, so that a count takes a while: pings answer meanwhile, and `volume rm` does not wait for one."""
    made = api.call("POST", "/volumes/create", {"Name": "many"})["Mountpoint"]
    for folder in range(60):
        os.mkdir(f"{made}/{folder}")
        for number in range(500):
            os.mknod(f"{made}/{folder}/{number}")
    for number in range(100):
        api.create(["true"], name=f"c{number}")
    assert len(api.call("GET", "/system/df")["Containers"]) == 100
    # What counting holds up is late every time; what a busy machine does, not.
    for _ in range(8):
        took, slowest = count_beside_pings(fresh_naru, api)
        if slowest < max(0.1, took / 2):
            break
    assert slowest < max(0.1, took / 2), f"a count took {took * 1000:.0f} ms, the slowest ping {slowest * 1000:.1f} ms"
    began = time.monotonic()
    api.call("DELETE", "/volumes/many")
    removal = time.monotonic() - began
    assert removal < max(0.1, took / 2), f"{removal * 1000:.1f} ms"
    deadline = time.monotonic() + 40
    while not any(entry["Size"] > 0 for entry in api.call("GET", "/naru/volumes/trash")):
        assert time.monotonic() < deadline, "the removed volume was never measured"
