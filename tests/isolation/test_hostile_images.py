"""Images that lie, repeat themselves or swell: refused or harmless, and the engine no larger for them."""

import gzip
import io
import json
import os
import tarfile
import time

import archive
import pytest
from attack import make_image, shell
from testkit.api import Api, ApiError, unframe

CONFIG = {"Cmd": ["sh"], "Env": ["PATH=/bin"]}
MEMORY_KIB_MAX = 400 << 10


@pytest.fixture
def api(naru):
    client = Api(naru.socket)
    yield client
    client.close()
    naru.remove_all_containers()


def peak_memory_kib(engine):
    with open(f"/proc/{engine.process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def reset_peak(engine):
    with open(f"/proc/{engine.process.pid}/clear_refs", "w") as file:
        file.write("5")


def test_labels_of_an_image_configure_nothing(naru, api):
    """CVE-2026-53488: an image's labels are told to those who ask, and obeyed by nobody."""
    labels = {
        "naru.privileged": "true", "io.naru.binds": "/:/host", "com.docker.runtime": "/bin/sh", "io.containers.capabilities": "SYS_ADMIN",
        "org.opencontainers.runtime.hooks": '{"prestart":[{"path":"/bin/sh"}]}', "io.kubernetes.cri.container-type": "sandbox", "run.oci.handler": "x",
    }
    assert make_image(naru, "hostile-labels:1", [], {"Labels": labels}).returncode == 0
    script = "grep CapEff /proc/self/status; ls /host 2>&1; cut -d' ' -f5 /proc/self/mountinfo"
    with_labels, without = (shell(api, script, image=image) for image in ("hostile-labels:1", "busybox:test"))
    assert with_labels == without
    made = api.create(["true"], image="hostile-labels:1")
    assert labels.items() <= api.inspect(made)["Config"]["Labels"].items(), "the twin: labels are shown"


def test_an_image_s_volume_is_filled_with_what_the_image_has_there(naru, api):
    """The twin of CVE-2022-23648's traversal."""
    entries = [("data", tarfile.DIRTYPE, None), ("data/file", tarfile.REGTYPE, "content")]
    assert make_image(naru, "honest-volume:1", entries, {"Volumes": {"/data": {}}}).returncode == 0
    assert shell(api, "cat /data/file; grep -c ' /data ' /proc/self/mounts", image="honest-volume:1") == ("content1\n", 0)


@pytest.mark.parametrize("count", [2, 60])
def test_one_layer_many_times_is_no_deadlock(naru, api, count):
    """CVE-2021-20291: an image that names the same layer twice made the loader wait for itself."""
    began = time.monotonic()
    loaded = make_image(naru, "hostile-twice:1", [("file", tarfile.REGTYPE, "x")], layers=count)
    assert time.monotonic() - began < 60
    if loaded.returncode == 0:
        assert shell(api, "cat /file", image="hostile-twice:1") == ("x", 0)
    assert naru.client("run", "--rm", "busybox:test", "echo", "goes on").stdout == "goes on\n"
    naru.client("rmi", "-f", "hostile-twice:1")


def swollen_archives(folder):
    """Archives small on disk and huge once unpacked or parsed."""
    zeros = gzip.compress(bytes(256 << 20), 9)
    yield "manifest", docker_tar({"manifest.json": bytes(256 << 20)})
    yield "manifest in gzip", gzip.compress(docker_tar({"manifest.json": b" " * (256 << 20)}))
    yield "gzip of zeros", zeros
    yield "gzip in gzip", gzip.compress(zeros)
    yield "nested json", docker_tar({"manifest.json": b"[" * 5_000_000})
    names = {"manifest.json": json.dumps([{"Config": "c.json", "Layers": [f"{n}.tar" for n in range(200_000)], "RepoTags": ["x:1"]}]).encode()}
    yield "layers without end", docker_tar(names)
    yield "extended header", pax_tar(64 << 20)


def docker_tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            archive.add_bytes(tar, name, data)
    return buffer.getvalue()


def pax_tar(size):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * size}) as tar:
        archive.add_bytes(tar, "manifest.json", b"[]")
    return buffer.getvalue()


@pytest.mark.seconds(180)
def test_swollen_archives_are_refused_within_bounds(naru, tmp_path):
    """Tar and gzip bombs: the daemon's memory stays bounded and nothing stays on disk."""
    wrong = []
    for name, data in swollen_archives(tmp_path):
        path = tmp_path / "swollen.tar"
        path.write_bytes(data)
        files = sum(len(files) for _, _, files in os.walk(naru.data_root))
        reset_peak(naru)
        result = naru.client("load", "-i", str(path), timeout=60)
        peak = peak_memory_kib(naru)
        if result.returncode == 0 or not result.stderr.strip():
            wrong.append(f"{name}: taken: {result}")
        if peak > MEMORY_KIB_MAX:
            wrong.append(f"{name}: {peak >> 10} MiB in memory")
        if sum(len(files) for _, _, files in os.walk(naru.data_root)) != files:
            wrong.append(f"{name}: left files")
    assert wrong == []
    assert naru.answers()


def test_a_layer_of_many_zeros_is_only_as_large_as_it_says(naru, api):
    """The twin: a large sparse-looking file is no bomb; it is unpacked."""
    assert make_image(naru, "honest-zeros:1", [("zeros", tarfile.REGTYPE, bytes(64 << 20))]).returncode == 0
    assert shell(api, "stat -c %s /zeros", image="honest-zeros:1") == (f"{64 << 20}\n", 0)


@pytest.mark.parametrize("user", ["1000", "1000:1000", "nobody", "0", "2147483647"])
def test_exec_runs_as_the_user_it_names(api, user):
    """CVE-2026-30892: the user of an exec is the one asked for; the twins are the ones that are."""
    container = api.create(["sleep", "100"], User="1")
    api.start(container)
    assert exec_as(api, container, user) == (("65534" if user == "nobody" else user.split(":")[0]), 0)
    assert exec_as(api, container, "") == ("1", 0)


@pytest.mark.parametrize("user", ["1000x", "+0", "0x0", "1000:", ":1000", "1000:x y", "4294967296", "-1", " 0", "0 ", "nobody:4294967296", "1000:1000:1000"])
def test_exec_of_an_unclear_user_is_never_root(api, user):
    """CVE-2026-30892, CVE-2024-40635: what cannot be read is refused, or is not root."""
    container = api.create(["sleep", "100"], User="1")
    api.start(container)
    try:
        found, code = exec_as(api, container, user)
    except ApiError as error:
        assert error.status in (400, 500)
        return
    # A group alone leaves the user to the default, which is root.
    assert code != 0 or found != "0" or user == ":1000", (found, code)


def exec_as(api, container, user):
    made = api.call("POST", f"/containers/{container}/exec", {"Cmd": ["id", "-u"], "AttachStdout": True, "AttachStderr": True, "User": user})["Id"]
    data = unframe(api.call("POST", f"/exec/{made}/start", {}))
    return data.decode().strip(), api.call("GET", f"/exec/{made}/json")["ExitCode"]
