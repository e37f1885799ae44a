"""Attacks that once worked on engines like this one, each with the honest use that must go on working.

The names of the weaknesses are public; the honest twin stands beside its attack, so that a fix cannot break it.
"""

import os
import tarfile
import tempfile

import archive
import pytest
from attack import LINK, make_image, shell
from testkit.api import Api, ApiError
from testkit.engine import NARU


@pytest.fixture
def api(naru):
    client = Api(naru.socket)
    yield client
    client.close()
    naru.remove_all_containers()


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_image_with_a_link_for_a_kernel_filesystem(naru, api, name):
    """CVE-2023-27561, CVE-2019-19921: the mount must not follow the image's link."""
    image = f"hostile-{name}:1"
    assert make_image(naru, image, [(name, LINK, "/tmp/fake"), ("tmp/fake", tarfile.DIRTYPE, None)]).returncode == 0
    try:
        output, code = shell(api, f"cut -d' ' -f5 /proc/self/mountinfo | grep -c '^/{name}$'; test -L /{name} && echo link", image=image)
    except ApiError:
        return  # Refusing to start is as good.
    # Started: then the true filesystem is at its place, and what masks it too.
    assert "link" not in output and output.startswith("1"), output


def test_image_with_a_link_inside_etc_is_honest(naru, api):
    """The twin: absolute links such as /var/run -> /run are normal, and mounts through them stay inside the root."""
    entries = [("run", tarfile.DIRTYPE, None), ("var", tarfile.DIRTYPE, None), ("var/run", LINK, "/run"), ("etc/hosts", LINK, "/run/hosts")]
    assert make_image(naru, "honest-links:1", entries).returncode == 0
    output, code = shell(api, "touch /var/run/x && ls /run", host={"Tmpfs": {"/var/run": ""}}, image="honest-links:1")
    assert code == 0 and "x" in output


def test_mount_target_through_a_link_stays_in_the_root(naru, api, tmp_path):
    """CVE-2021-30465: a mount's target is resolved inside the root."""
    (tmp_path / "secret").mkdir()
    victim = tempfile.mkdtemp(prefix="naru-victim-", dir="/tmp")
    try:
        entries = [("escape", LINK, "../../../../../../.." + victim)]
        assert make_image(naru, "hostile-target:1", entries).returncode == 0
        (tmp_path / "file").write_text("inside")
        output, code = shell(api, "cat /escape/file", host={"Binds": [f"{tmp_path}:/escape"]}, image="hostile-target:1")
        assert "inside" in output and code == 0
        with open(f"/proc/{naru.scope.process.pid}/mounts") as mounts:
            assert victim not in mounts.read()
        assert os.listdir(victim) == []
    finally:
        os.rmdir(victim)


def test_volume_copy_up_does_not_follow_links_out(naru, api):
    entries = [("data", tarfile.DIRTYPE, None), ("data/link", LINK, "/etc/shadow"), ("data/plain", tarfile.REGTYPE, "plain")]
    assert make_image(naru, "hostile-copy:1", entries).returncode == 0
    output, code = shell(api, "readlink /data/link; cat /data/plain", host={"Binds": ["copy-volume:/data"]}, image="hostile-copy:1")
    assert output == "/etc/shadow\nplain" and code == 0


@pytest.mark.parametrize("path", ["../../../../tmp/x", "/../../etc"])
def test_image_volume_with_traversal(naru, api, path):
    """CVE-2022-23648: an image's volume path is cleaned before its contents are copied."""
    loaded = make_image(naru, "hostile-volume:1", [], {"Volumes": {path: {}}})
    if loaded.returncode != 0:
        return
    try:
        output, code = shell(api, "ls /etc 2>/dev/null; test ! -e /tmp/x/shadow && test ! -e /etc/shadow && echo safe", image="hostile-volume:1")
    except ApiError:
        return
    assert "safe" in output


@pytest.mark.parametrize("name", ["../escape", "a/b", "..", ".", "a\x00b", "x" * 300])
def test_named_volume_with_a_bad_name(naru, api, name):
    with pytest.raises(ApiError) as caught:
        shell(api, "true", host={"Mounts": [{"Type": "volume", "Source": name, "Target": "/m"}]})
    assert caught.value.status in (400, 500)
    assert not os.path.exists(naru.data_root + "/escape")


@pytest.mark.parametrize("number", range(3, 20, 4))
def test_working_directory_in_a_leaked_descriptor(api, number):
    """CVE-2024-21626: no descriptor of ours leads out."""
    try:
        output, code = shell(api, "pwd; ls ../../../../ 2>&1 | head -3; cat ../../../etc/shadow 2>&1", WorkingDir=f"/proc/self/fd/{number}")
    except ApiError:
        return
    assert "root:" not in output and code != 0 or "shadow" not in output


def test_working_directory_is_made(api):
    assert shell(api, "pwd", WorkingDir="/made/for/it") == ("/made/for/it\n", 0)


def test_no_descriptor_leaks_into_run_or_exec(naru, api):
    assert shell(api, "ls /proc/1/fd; true") == ("0\n1\n2\n", 0)
    container = api.create(["sleep", "100"])
    api.start(container)
    output, _ = api.exec(container, ["sh", "-c", "ls -l /proc/$$/fd; true"])
    assert output.count(b"->") == 3, output


def test_binary_cannot_be_overwritten_through_proc_exe(naru, api):
    """CVE-2019-5736: the program that enters a container is not the one on disk."""
    if naru.name != "naru":
        pytest.skip("about the product's own binary")
    before = archive.hash_file(NARU)
    assert make_image(naru, "hostile-exe:1", [("bin/exe", LINK, "/proc/self/exe")]).returncode == 0
    container = api.create(["sleep", "100"], image="hostile-exe:1")
    api.start(container)
    for command in (["/proc/self/exe"], ["/bin/exe"], ["sh", "-c", "echo x >/proc/self/exe"], ["sh", "-c", "for p in /proc/[0-9]*; do echo x >$p/exe; done"]):
        try:
            api.exec(container, command)
        except ApiError:
            pass
    assert archive.hash_file(NARU) == before
    assert naru.answers()


def test_keeper_is_invisible_and_exec_is_not_traceable(api):
    """CVE-2016-9962: nothing of ours with host rights is inside the pid namespace."""
    container = api.create(["sleep", "100"])
    api.start(container)
    output, code = api.exec(container, ["sh", "-c", "for p in /proc/[0-9]*; do cat $p/comm; done | sort -u"])
    assert set(output.decode().split()) <= {"sleep", "sh", "cat", "sort"}, output


def test_masked_paths_hide_and_read_only_paths_refuse(api):
    """CVE-2025-31133: what masks is /dev/null itself, not what the image put there."""
    output, _ = shell(api, "for f in kcore keys timer_list sched_debug; do test -e /proc/$f && head -c 10 /proc/$f | wc -c; done; ls /sys/firmware | wc -l")
    assert set(output.split()) == {"0"}, output
    output, code = shell(api, "echo x >/proc/sys/kernel/hostname")
    assert code != 0
    output, code = shell(api, "echo b >/proc/sysrq-trigger")
    assert code != 0


def test_image_with_a_link_for_dev_null(naru, api):
    entries = [("dev", tarfile.DIRTYPE, None), ("dev/null", LINK, "/etc/target"), ("dev/console", LINK, "/etc/target"), ("dev/pts", tarfile.DIRTYPE, None), ("etc/target", tarfile.REGTYPE, "untouched")]
    assert make_image(naru, "hostile-null:1", entries).returncode == 0
    output, code = shell(api, "cat /etc/target; stat -c %F /dev/null; head -c 5 /proc/keys | grep -c .", image="hostile-null:1")
    assert "untouched" in output and "character special file" in output


def test_capability_sets(api):
    """CVE-2022-29162: nothing is inheritable, in run and exec, as root and as a user."""
    for user in ("", "1000"):
        output, _ = shell(api, "grep CapInh /proc/self/status; grep CapAmb /proc/self/status", User=user)
        assert output.split()[1::2] == ["0000000000000000"] * 2
    container = api.create(["sleep", "100"])
    api.start(container)
    output, _ = api.exec(container, ["grep", "CapInh", "/proc/self/status"])
    assert output.split()[1] == b"0000000000000000"


@pytest.mark.parametrize("user", ["4294967295", "4294967296", "-1", "18446744073709551616", "0:4294967296", "1000:-1"])
def test_user_overflow(api, user):
    """CVE-2024-40635: a number too large is refused, not wrapped to root."""
    try:
        output, code = shell(api, "id -u; id -g", User=user)
    except ApiError as error:
        assert error.status in (400, 500)
        return
    assert "0" not in output.split()


def test_user_lookup_in_hostile_files(naru, api):
    """CVE-2024-9676: a passwd file that is huge, a link out, or a fifo is no trouble; the honest one is read."""
    big = b"x" * (64 << 20)
    assert make_image(naru, "hostile-passwd:1", [("etc/passwd", tarfile.REGTYPE, big)]).returncode == 0
    with pytest.raises(ApiError):
        shell(api, "id", User="somebody", image="hostile-passwd:1")
    try:
        assert shell(api, "id -u", User="1000", image="hostile-passwd:1")[0].endswith("1000\n")
    except ApiError as error:
        assert "user" in str(error) or "passwd" in str(error)
    assert make_image(naru, "hostile-link:1", [("etc/passwd", LINK, "../../../../../etc/passwd")]).returncode == 0
    with pytest.raises(ApiError):
        shell(api, "id", User="daemon", image="hostile-link:1")
    assert make_image(naru, "hostile-fifo:1", [("etc/passwd", tarfile.FIFOTYPE, None)]).returncode == 0
    with pytest.raises(ApiError):
        shell(api, "id", User="somebody", image="hostile-fifo:1")
    assert shell(api, "id -u", User="nobody") == ("65534\n", 0)


def test_passwd_line_with_too_many_fields(naru, api):
    lines = "evil:x:0x0:0:::\n\n:::::::\nbob:x:77:88:b:/home/bob:/bin/sh\n"
    assert make_image(naru, "odd-passwd:1", [("etc/passwd", tarfile.REGTYPE, lines)]).returncode == 0
    output, _ = shell(api, "id -u 2>/dev/null; id -g 2>/dev/null", User="bob", image="odd-passwd:1")
    assert output == "77\n88\n"


def test_cgroup_release_agent(api):
    """CVE-2022-0492: neither the mounted cgroup tree nor a new one can be written."""
    output, code = shell(api, "for d in /sys/fs/cgroup/*; do echo /x >$d/release_agent; done 2>&1; mkdir /sys/fs/cgroup/pids/x; echo end")
    assert "Read-only" in output and output.count("Permission denied") + output.count("Read-only") >= 2
    output, code = shell(api, "mkdir /tmp/c; mount -t cgroup -o pids none /tmp/c; echo $?", host={"CapAdd": ["SYS_ADMIN"]})
    # With SYS_ADMIN the mount itself may succeed; a cgroup namespace then shows only the container's own tree.
    if output.strip().endswith("0"):
        output, _ = shell(api, "mkdir /tmp/c; mount -t cgroup -o pids none /tmp/c; test -e /tmp/c/release_agent && echo agent", host={"CapAdd": ["SYS_ADMIN"]})
        assert "agent" not in output


@pytest.mark.parametrize("name", ["kernel.core_pattern", "kernel.sysrq", "vm.swappiness", "net.ipv4.ip_forward+kernel.core_pattern", "kernel/core_pattern", "net.../../kernel.core_pattern"])
def test_sysctl_of_the_host(api, name):
    """CVE-2022-0811: only sysctls of a namespace of the container's own."""
    with open("/proc/sys/kernel/core_pattern") as file:
        before = file.read()
    with pytest.raises(ApiError):
        shell(api, "true", host={"Sysctls": {name: "|/tmp/x"}})
    with open("/proc/sys/kernel/core_pattern") as file:
        assert file.read() == before


def test_sysctl_of_the_host_network(api):
    with pytest.raises(ApiError):
        shell(api, "true", host={"Sysctls": {"net.ipv4.ip_forward": "1"}, "NetworkMode": "host"})
    assert shell(api, "cat /proc/sys/net/ipv4/ip_forward", host={"Sysctls": {"net.ipv4.ip_forward": "1"}}) == ("1\n", 0)


def test_privileged_exec_does_not_widen_others(api):
    container = api.create(["sleep", "100"])
    api.start(container)
    output, _ = api.exec(container, ["grep", "CapEff", "/proc/1/status"])
    assert output.split()[1] == b"00000000a80425fb"


def test_ipv6_is_off_unless_asked_for(api):
    """CVE-2024-32473 and CVE-2020-13401: no address, no router advertisement."""
    output, _ = shell(api, "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6; ip -6 addr | grep -c eth0")
    assert output.split()[0] == "1"


def test_no_raw_device_or_kernel_module(api):
    output, code = shell(api, "mknod /tmp/mem c 1 1 && dd if=/tmp/mem of=/dev/null count=1 2>&1; mknod /tmp/k c 1 11 && cat /tmp/k 2>&1")
    assert output.count("not permitted") == 2, output
    assert shell(api, "mknod /tmp/null c 1 3 && echo x >/tmp/null && echo ok") == ("ok\n", 0)


def test_namespaces_are_the_containers_own(naru, api):
    output, _ = shell(api, "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done")
    ours = [os.readlink(f"/proc/{naru.process.pid}/ns/{name}") for name in ("cgroup", "ipc", "mnt", "net", "pid", "uts")]
    assert not set(output.split()) & set(ours)


def test_host_mount_table_is_not_visible(naru, api):
    output, _ = shell(api, "cat /proc/self/mountinfo")
    roots = [line.split()[3] for line in output.splitlines() if line.split()[4] not in ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")]
    assert not [root for root in roots if root.startswith("/tmp/")], roots
    container = api.create(["sleep", "100"])
    api.start(container)
    before = naru.mounts_before
    after = naru.scope.mounts()
    assert [line for line in after if line not in before] == [], "a running container's mounts show on the host"


def test_files_of_the_engine_are_private(naru):
    for folder in (naru.data_root, naru.exec_root):
        for path, _, files in os.walk(folder):
            if path.count("/") > folder.count("/") + 1:
                continue
            assert os.stat(path).st_mode & 0o002 == 0, path
    assert os.stat(naru.socket).st_mode & 0o007 == 0
