"""Remapped ids: an engine whose containers have a user namespace of their own (`--userns-remap`).

The user they are remapped to exists in the engine's own mount namespace only.
"""

import errno
import json
import os
import re
import shutil
import tempfile
import time

import pytest
from testkit.engine import DebianDocker, NEWEST_DOCKER, Naru, Scope
from testkit.seccomp_agent import Agent

CLI = NEWEST_DOCKER
IMAGE = "busybox:test"
UID, GID = 200000, 300000
DATABASES = {"subuid": f"tester:{UID}:65536\n", "subgid": f"tester:{GID}:65536\n", "passwd": "tester:x:5555:5555::/:/bin/false\n",
             "group": "tester:x:5555:\n"}


@pytest.fixture(scope="module")
def databases():
    folder = tempfile.mkdtemp(prefix="naru-ids-", dir="/tmp")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def scope(databases):
    scope = Scope()
    for name, text in DATABASES.items():
        path = os.path.join(databases, name)
        with open(path, "w") as file, open("/etc/" + name) as host:
            file.write(host.read() + text)
        assert scope.shell(f"mount --bind {path} /etc/{name}").returncode == 0
    yield scope
    scope.close()


@pytest.fixture(scope="module")
def engine(images, scope):
    kind = DebianDocker if os.environ.get("NARU_TEST_ENGINE") == "docker" else Naru
    engine = kind(options=["--userns-remap", "tester"], scope=scope)
    os.chmod(engine.base, 0o711)
    engine.start()
    engine.load(images + "/busybox.tar")
    yield engine
    engine.remove_all_containers()
    engine.stop()
    left = engine.settled_leftovers()
    engine.close()
    # Docker leaves mounts of its own behind.
    assert left == [] or engine.name == "docker"


@pytest.fixture(autouse=True)
def clean(engine):
    yield
    engine.remove_all_containers()


def docker(engine, *arguments):
    return engine.client(*arguments, program=CLI)


def run(engine, script, *options):
    result = docker(engine, "run", "--rm", *options, IMAGE, "sh", "-c", script)
    assert result.returncode == 0, result.stderr
    return result.stdout


def mapping(text):
    return [line.split() for line in text.splitlines()]


def test_root_is_root_inside_and_nobody_outside(engine):
    text = run(engine, "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map")
    assert mapping(text) == [["0"], ["0"], ["0", str(UID), "65536"], ["0", str(GID), "65536"]]
    name = docker(engine, "run", "-d", IMAGE, "sleep", "60").stdout.strip()
    pid = docker(engine, "inspect", "-f", "{{.State.Pid}}", name).stdout.strip()
    with open(f"/proc/{pid}/status") as file:
        status = file.read()
    assert f"Uid:\t{UID}\t{UID}" in status and f"Gid:\t{GID}\t{GID}" in status


def test_info_names_it(engine):
    assert "name=userns" in json.loads(docker(engine, "info", "-f", "{{json .SecurityOptions}}").stdout)


def test_the_image_and_what_is_written_belong_to_the_containers_ids(engine):
    text = run(engine, "stat -c %u:%g /bin/busybox / /etc/hosts /dev; echo x >/new; chown 7:8 /new; stat -c %u:%g /new; echo out >/dev/stdout")
    assert text.split() == ["0:0"] * 4 + ["7:8", "out"]


def test_files_of_the_host_are_out_of_reach(engine, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secret").chmod(0o600)
    tmp_path.chmod(0o755)
    text = run(engine, "stat -c %u /m/secret; cat /m/secret 2>&1; touch /m/x 2>&1; echo x 2>&1 >/proc/sys/kernel/hostname; true", "-v", f"{tmp_path}:/m")
    assert text.startswith("65534\n") and text.count("ermission denied") >= 2 and "secret\n65534" not in text


def test_a_user_of_the_image_is_mapped_too(engine):
    assert run(engine, "id -u; echo x >/dev/stdout", "--user", "1000:1000") == "1000\nx\n"
    result = docker(engine, "run", "--rm", "--user", "70000", IMAGE, "true")
    assert result.returncode == 125 and "unmapped" in result.stderr


def test_exec_enters_the_user_namespace(engine):
    name = docker(engine, "run", "-d", IMAGE, "sleep", "60").stdout.strip()
    result = docker(engine, "exec", name, "sh", "-c", "id -u; cat /proc/self/uid_map; echo out >/dev/stdout")
    assert mapping(result.stdout) == [["0"], ["0", str(UID), "65536"], ["out"]]
    result = docker(engine, "exec", "-u", "5", name, "id", "-u")
    assert result.stdout == "5\n"


def test_a_terminal_belongs_to_the_container(engine):
    result = engine.scope.shell(f"script -qec '{CLI} -H {engine.host} run --rm -t {IMAGE} sh -c \"tty; stat -c %u /dev/console\"' /dev/null")
    assert result.stdout.split() == ["/dev/pts/0", "0"]


def test_ports_are_published(engine):
    docker(engine, "run", "-d", "-p", "127.0.0.1:18099:80", IMAGE, "sh", "-c", "mkdir /www; echo page >/www/index.html; exec httpd -f -p 80 -h /www")
    for _ in range(50):
        result = engine.scope.shell("wget -qO- http://127.0.0.1:18099/")
        if result.returncode == 0:
            break
        time.sleep(0.1)
    assert result.stdout == "page\n"


def test_volumes_belong_to_the_mapped_root(engine):
    assert run(engine, "stat -c %u /v; touch /v/x", "-v", "ids:/v") == "0\n"
    data = docker(engine, "volume", "inspect", "-f", "{{.Mountpoint}}", "ids").stdout.strip()
    owner = lambda path: (os.stat(path).st_uid, os.stat(path).st_gid)
    assert owner(data) == owner(data + "/x") == (UID, GID)
    # The image's files in a new volume too.
    assert run(engine, "stat -c %u /bin/busybox", "-v", "copied:/bin") == "0\n"
    data = docker(engine, "volume", "inspect", "-f", "{{.Mountpoint}}", "copied").stdout.strip()
    assert owner(data + "/busybox") == (UID, GID)
    docker(engine, "volume", "rm", "ids", "copied")


def test_a_missing_bind_source_is_made_for_the_mapped_root(engine, tmp_path):
    assert run(engine, "stat -c %u /m && touch /m/x", "-v", f"{tmp_path}/a/b:/m") == "0\n"
    assert os.stat(tmp_path / "a").st_uid == os.stat(tmp_path / "a/b").st_uid == UID
    assert os.stat(tmp_path).st_uid == 0


def test_the_hosts_user_namespace_can_be_asked_for(engine):
    assert mapping(run(engine, "cat /proc/self/uid_map; stat -c %u /bin/busybox", "--userns", "host"))[0][:2] == ["0", "0"]
    text = run(engine, "cat /proc/self/uid_map", "--userns", "host", "--network", "host", "--pid", "host")
    assert mapping(text)[0][:2] == ["0", "0"]


@pytest.mark.parametrize("option, message", [
    (["--privileged"], "privileged mode is incompatible with user namespaces"),
    (["--network", "host"], "cannot share the host's network namespace when user namespaces are enabled"),
    (["--pid", "host"], "cannot share the host PID namespace when user namespaces are enabled"),
])
def test_what_only_the_hosts_root_can_have_is_refused(engine, option, message):
    result = docker(engine, "run", "--rm", *option, IMAGE, "true")
    assert result.returncode == 125 and message in result.stderr


def test_namespaces_of_another_container_are_joined_with_its_user_namespace(engine):
    docker(engine, "run", "-d", "--name", "first", "--ipc", "shareable", IMAGE, "sleep", "60")
    joined = ["--network", "container:first", "--pid", "container:first", "--ipc", "container:first"]
    text = run(engine, "cat /proc/self/uid_map; cat /proc/1/cmdline; ls /sys/class/net; touch /dev/shm/x", *joined)
    assert f"{UID}" in text and "sleep" in text and "eth0" in text
    assert docker(engine, "exec", "first", "ls", "/dev/shm").stdout == "x\n"


def test_namespaces_of_the_host_are_shared(engine):
    host = os.uname().nodename
    assert run(engine, "hostname; ls /sys/fs/cgroup | head -n1", "--uts", "host", "--cgroupns", "host").startswith(host)


def test_kernel_settings_and_limits_work_inside(engine):
    options = ["--sysctl", "net.ipv4.ip_forward=0", "--sysctl", "kernel.msgmax=9000", "--oom-score-adj", "300", "--tmpfs", "/t:uid=5",
               "--init", "--read-only", "--memory", "50m"]
    text = run(engine, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/self/oom_score_adj; stat -c %u /t; cat /proc/1/cmdline", *options)
    assert text.split()[:4] == ["0", "9000", "300", "5"] and "init" in text


def test_devices_keep_the_hosts_owners(engine):
    text = run(engine, "stat -c %u:%t:%T /dev/fuse; echo x >/dev/null && echo ok", "--device", "/dev/fuse")
    assert text.split() == ["65534:a:e5", "ok"]


def test_all_capabilities_inside_are_none_outside(engine):
    script = "mount -t tmpfs none /tmp && echo mounted; mknod /n b 8 0 || dmesg || echo refused"
    text = run(engine, script + " 2>/dev/null", "--cap-add", "ALL", "--security-opt", "seccomp=unconfined")
    assert text.split()[0] == "mounted" and text.split()[-1] == "refused"


def test_files_are_copied_with_the_ids_of_the_container(engine, tmp_path):
    name = docker(engine, "run", "-d", IMAGE, "sh", "-c", "mkdir /d; echo x >/d/f; chown 7:8 /d/f; exec sleep 60").stdout.strip()
    listing = f"{CLI} -H {engine.host} cp {name}:/d - | tar -tvn --numeric-owner"
    for _ in range(50):
        text = engine.scope.shell(listing).stdout
        if "7/8" in text:
            break
        time.sleep(0.1)
    assert "0/0" in text and "7/8" in text and str(UID) not in text
    (tmp_path / "file").write_text("content")
    assert docker(engine, "cp", str(tmp_path / "file"), f"{name}:/d/new").returncode == 0
    assert docker(engine, "cp", str(tmp_path / "file"), f"{name}:/etc/new").returncode == 0
    assert docker(engine, "exec", name, "sh", "-c", "stat -c %u:%g /d/new /etc/new; cat /d/new").stdout == "0:0\n0:0\ncontent"
    assert "A /d/new" in docker(engine, "diff", name).stdout
    docker(engine, "commit", name, "mapped:1")
    assert run_image(engine, "mapped:1", "stat -c %u:%g /d/f /etc/new") == "7:8\n0:0\n"
    assert run_image(engine, "mapped:1", "stat -c %u:%g /d/f /etc/new", "--userns", "host") == ("7:8\n0:0\n" if engine.name == "naru" else f"{UID + 7}:{GID + 8}\n{UID}:{GID}\n")
    docker(engine, "rmi", "mapped:1")


def test_a_stopped_containers_volumes_are_copied_with_its_ids_too(engine, tmp_path):
    """What a volume holds has the host's ids on disk, whether the container runs or not."""
    script = "echo x >/v/f; chown 7:8 /v/f; echo x >/f; chown 7:8 /f; echo x >/b/f; chown 9:9 /b/f"
    bind = tmp_path / "bind"
    bind.mkdir()
    os.chown(bind, UID, GID)
    name = docker(engine, "create", "-v", "/v", "-v", f"{bind}:/b", IMAGE, "sh", "-c", script).stdout.strip()
    docker(engine, "start", "-a", name)

    def owners(path):
        listing = engine.scope.shell(f"{CLI} -H {engine.host} cp {name}:{path} - | tar -tvn --numeric-owner").stdout
        return {line.split()[-1]: line.split()[1] for line in listing.splitlines()}

    assert (owners("/f"), owners("/v/f"), owners("/b")) == ({"f": "7/8"}, {"f": "7/8"}, {"b/": "0/0", "b/f": "9/9"})
    (tmp_path / "file").write_text("content")
    for path in ("/v/new", "/new", "/b/new"):
        assert docker(engine, "cp", "-a", str(tmp_path / "file"), f"{name}:{path}").returncode == 0
    listing = engine.scope.shell(f"tar -C {tmp_path} --owner 5 --group 6 -c file | {CLI} -H {engine.host} cp -a - {name}:/v && {CLI} -H {engine.host} cp {name}:/v - | tar -tvn --numeric-owner").stdout
    assert re.search(r" 5/6 .* v/file\n", listing) and str(UID) not in listing, listing
    assert (bind / "f").stat().st_uid == UID + 9 and (bind / "new").stat().st_uid == UID
    assert owners("/new") == {"new": "0/0"}


def run_image(engine, image, script, *options):
    return docker(engine, "run", "--rm", *options, image, "sh", "-c", script).stdout


def test_a_seccomp_agent_is_reached_from_outside(engine, tmp_path):
    if engine.name == "docker":
        pytest.skip("Docker 20.10 reads no listenerPath")
    agent = Agent(str(tmp_path / "agent"), errno.ENOMEDIUM)
    (tmp_path / "profile.json").write_text(agent.profile())
    result = docker(engine, "run", "--rm", "--security-opt", f"seccomp={tmp_path}/profile.json", IMAGE, "mkdir", "/x")
    agent.close()
    assert "No medium found" in result.stderr and len(agent.states) == 1


def test_containers_outlive_the_daemon_and_take_execs_of_the_next(engine):
    if engine.name == "docker":
        pytest.skip("Docker ends its containers unless told otherwise")
    name = docker(engine, "run", "-d", IMAGE, "sleep", "60").stdout.strip()
    engine.kill9()
    engine.start()
    assert docker(engine, "exec", name, "cat", "/proc/self/uid_map").stdout.split()[1] == str(UID)


def test_who_has_no_ids_is_refused_with_the_remedy(scope):
    if os.environ.get("NARU_TEST_ENGINE") == "docker":
        pytest.skip("Docker's own words")
    for options in (["--userns-remap", "nobody"], ["--userns-remap", "a:b:c"]):
        engine = Naru(options=options, scope=scope)
        try:
            with pytest.raises(RuntimeError, match="set aside|expected default"):
                engine.start()
            engine.process = None
        finally:
            engine.close()


def test_the_default_user_gets_ids_and_the_file_is_an_option_too(images, scope, databases):
    if os.environ.get("NARU_TEST_ENGINE") == "docker":
        pytest.skip("Docker makes the user by useradd")
    config = os.path.join(databases, "daemon.json")
    with open(config, "w") as file:
        json.dump({"userns-remap": "default"}, file)
    engine = Naru(options=["--config-file", config], scope=scope)
    try:
        engine.start()
        engine.load(images + "/busybox.tar")
        with open(os.path.join(databases, "subuid")) as file:
            first = file.read().split("dockremap:")[1].split(":")[0]
        assert mapping(run(engine, "cat /proc/self/uid_map"))[0][1] == first == str(UID + 65536)
    finally:
        engine.close()


def test_programs_of_images_and_containers_are_out_of_reach_of_other_users(engine):
    """CVE-2021-41091: a user of the host must not run what a container has made setuid root."""
    name = docker(engine, "run", "-d", IMAGE, "sh", "-c", "cp /bin/busybox /mine; chmod 4755 /mine; exec sleep 60").stdout.strip()
    run(engine, "cp /bin/busybox /v/mine; chmod 4755 /v/mine", "-v", "reach:/v")
    data = docker(engine, "volume", "inspect", "-f", "{{.Mountpoint}}", "reach").stdout.strip()
    os.chmod(engine.base, 0o711)
    script = f"find {engine.data_root} -perm -4000 2>/dev/null | wc -l; ls {data}/mine"
    seen = engine.scope.run("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "sh", "-c", script)
    assert seen.stdout == "0\n" and "denied" in seen.stderr, (name, seen)
    if engine.name == "naru":
        for folder in ("layers", "snapshots", "init", "volumes", "containers"):
            assert os.stat(f"{engine.data_root}/{folder}").st_mode & 0o77 == 0, folder
    docker(engine, "rm", "-f", name)
    docker(engine, "volume", "rm", "reach")
