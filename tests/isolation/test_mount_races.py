"""What a container does to its volume while another container's mounts are being put there."""

import ctypes
import os
import tarfile
import tempfile
import threading

import pytest
from attack import LINK, make_image, shell
from testkit.api import Api, ApiError

RENAME_EXCHANGE = 2
AT_FDCWD = -100
ROUNDS = 40


@pytest.fixture
def api(naru):
    client = Api(naru.socket)
    yield client
    client.close()
    naru.remove_all_containers()


@pytest.fixture
def victim():
    """A directory of the host that no container has been given."""
    path = tempfile.mkdtemp(prefix="naru-victim-", dir="/tmp")
    yield path
    os.rmdir(path)


class Swapper:
    """Exchanges two names for each other as fast as it can, as a hostile neighbour on the same volume would."""

    def __init__(self, one, other):
        self.names = (one.encode(), other.encode())
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.is_over = threading.Event()
        self.count = 0
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.is_over.is_set():
            if self.libc.renameat2(AT_FDCWD, self.names[0], AT_FDCWD, self.names[1], RENAME_EXCHANGE) == 0:
                self.count += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join()


def volume_with_swap(api, name, link, is_file=False):
    """Makes a volume with `target` and, to be exchanged with it, a symbolic link; returns both paths."""
    root = api.call("POST", "/volumes/create", {"Name": name})["Mountpoint"]
    target, other = root + "/target", root + "/other"
    if is_file:
        open(target, "w").close()
    else:
        os.mkdir(target)
    os.symlink(link, other)
    return target, other


def mounts_of(engine):
    with open(f"/proc/{engine.scope.process.pid}/mounts") as file:
        return file.read()


@pytest.mark.parametrize("upwards", [False, True], ids=["absolute", "upwards"])
def test_a_target_swapped_for_a_link_stays_in_the_root(naru, api, victim, tmp_path, upwards):
    """CVE-2021-30465: between resolving a mount's target and mounting on it the target becomes a link to the host."""
    (tmp_path / "inside").write_text("inside")
    link = "../" * 12 + victim[1:] if upwards else victim
    name = "swap-" + ("up" if upwards else "absolute")
    target, other = volume_with_swap(api, name, link)
    before = mounts_of(naru)
    host = {"Binds": [f"{name}:/v", f"{tmp_path}:/v/target/deep"]}
    with Swapper(target, other) as swapper:
        for _ in range(ROUNDS):
            try:
                shell(api, "cat /v/target/deep/inside", host=host)
            except ApiError as error:
                assert error.status in (400, 500), error
    assert swapper.count > ROUNDS
    assert os.listdir(victim) == []
    assert mounts_of(naru) == before
    api.call("DELETE", f"/volumes/{name}")


def test_a_target_in_a_quiet_volume_is_mounted(naru, api, tmp_path):
    """The twin: one mount inside another's volume works, through an honest link too."""
    (tmp_path / "inside").write_text("inside")
    target, other = volume_with_swap(api, "swap-honest", "target")
    for path in ("target", "other"):
        host = {"Binds": ["swap-honest:/v", f"{tmp_path}:/v/{path}/deep"]}
        assert shell(api, f"cat /v/{path}/deep/inside", host=host) == ("inside", 0)
    api.call("DELETE", "/volumes/swap-honest")


def test_a_swapped_working_directory_is_not_made_on_the_host(naru, api, victim):
    """A working directory below a link that changes is made inside the root or not at all."""
    target, other = volume_with_swap(api, "swap-work", "../" * 12 + victim[1:])
    with Swapper(target, other):
        for _ in range(ROUNDS):
            try:
                shell(api, "true", host={"Binds": ["swap-work:/v"]}, WorkingDir="/v/target/made")
            except ApiError as error:
                assert error.status in (400, 500), error
    assert os.listdir(victim) == []
    api.call("DELETE", "/volumes/swap-work")


@pytest.mark.parametrize("path", ["/proc", "/proc/self", "/proc/sys/kernel", "/sys/fs/cgroup/x"])
def test_a_volume_never_stands_in_for_the_kernel(naru, api, path):
    """CVE-2019-16884, CVE-2025-52881: what is written to a fake /proc (labels, sysctls) would go nowhere."""
    assert make_image(naru, "hostile-proc-volume:1", [], {"Volumes": {path: {}}}).returncode == 0
    script = "cat /proc/self/attr/current >/dev/null 2>&1; grep -c '^proc /proc proc' /proc/self/mounts; cat /proc/sys/net/ipv4/ip_forward"
    try:
        output, _ = shell(api, script, host={"Sysctls": {"net.ipv4.ip_forward": "1"}}, image="hostile-proc-volume:1")
    except ApiError:
        return  # Refusing is as good.
    assert output.split() == ["1", "1"], output


def test_sysctls_reach_the_kernel_past_an_image_s_links(naru, api):
    """CVE-2025-52881: a link of the image where /proc will be does not take the write elsewhere."""
    entries = [("sys-target", tarfile.DIRTYPE, None), ("proc", tarfile.DIRTYPE, None), ("proc/sys", LINK, "/sys-target")]
    assert make_image(naru, "hostile-sysctl:1", entries).returncode == 0
    output, code = shell(api, "cat /proc/sys/net/ipv4/ip_forward; ls /sys-target", host={"Sysctls": {"net.ipv4.ip_forward": "1"}}, image="hostile-sysctl:1")
    assert (output, code) == ("1\n", 0)
