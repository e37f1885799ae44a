"""Every option of dockerd is honoured, taken because it says what is so anyway, or refused with its reason."""

import json
import re
import subprocess

import pytest
from testkit.engine import NARU, Naru

# dockerd's of newer versions, beside those that Debian's dockerd lists.
NEWER = {"allow-direct-routing", "bip6", "cdi-spec-dir", "default-network-opt", "firewall-backend", "http-proxy", "https-proxy", "no-proxy", "log-format", "validate"}


def naru_daemon(*options):
    return subprocess.run([NARU, "daemon", *options], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def long_options(program, *words):
    text = subprocess.run([program, *words, "--help"], capture_output=True, text=True, timeout=60).stdout
    return set(re.findall(r"^ +(?:-\w, )?--([a-z0-9][a-z0-9-]*)", text, re.M))


@pytest.fixture(scope="module")
def theirs():
    listed = long_options("dockerd") - {"help", "version"}
    assert len(listed) > 60, listed
    return listed | NEWER


def test_every_option_of_dockerd_is_known(theirs):
    ours = long_options(NARU, "daemon")
    unknown = {}
    for option in sorted(theirs - ours):
        result = naru_daemon(f"--{option}=nonsense", "--validate")
        # By name, and with a reason: not the complaint about a word nobody knows.
        if result.returncode != 1 or not re.match(rf"naru daemon: --{option} .*not supported.*: .", result.stderr):
            unknown[option] = result.stderr
    assert unknown == {}


def test_what_is_honoured_is_checked():
    for wrong in (["--log-driver", "nosuch"], ["--log-opt", "nosuch=1"], ["--log-opt", "x"], ["--seccomp-profile", "/nonexistent"],
                  ["--shutdown-timeout", "soon"], ["--init=perhaps"], ["--mtu", "9"], ["-H", "tcp://127.0.0.1:2375"], ["--nosuch"]):
        result = naru_daemon(*wrong, "--validate")
        assert result.returncode != 0 and wrong[-1].split("=")[0].strip("-") in result.stderr, (wrong, result.stderr)
    assert naru_daemon("--init", "--log-driver", "local", "-s", "overlay2", "--validate").stdout == "configuration OK\n"


def test_the_file_knows_the_same(tmp_path):
    path = str(tmp_path / "daemon.json")

    def validate(config):
        with open(path, "w") as file:
            json.dump(config, file)
        return naru_daemon("--config-file", path, "--validate")

    good = {"log-driver": "json-file", "log-opts": {"max-size": "1m", "max-file": "3"}, "storage-driver": "overlay2", "userland-proxy": False, "init": True,
            "no-new-privileges": True, "shutdown-timeout": 20, "live-restore": True, "ip-forward": True, "default-runtime": "runc",
            "exec-opts": ["native.cgroupdriver=cgroupfs"], "experimental": False, "iptables": True, "dns": ["192.0.2.1"], "registry-mirrors": ["https://mirror.example"]}
    assert validate(good).stdout == "configuration OK\n"
    for key, value in {"runtimes": {"x": {"path": "/x"}}, "authorization-plugins": ["x"], "tls": True,
                       "storage-opts": ["x=y"], "labels": ["a=b"], "userland-proxy": True, "nosuch": 1, "log-driver": "nosuch"}.items():
        result = validate({key: value})
        assert result.returncode == 1 and key in result.stderr, (key, result.stderr)


def test_defaults_for_containers_are_honoured(images, tmp_path):
    profile = str(tmp_path / "profile.json")
    with open(profile, "w") as file:
        json.dump({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}, file)
    engine = Naru(options=["--init", "--no-new-privileges", "--seccomp-profile", profile, "--log-driver", "local", "--log-opt", "max-size=1m", "--ip-forward=false"])
    try:
        engine.scope.shell("echo 0 >/proc/sys/net/ipv4/ip_forward")
        engine.start()
        assert engine.scope.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "0\n"
        engine.load(images + "/busybox.tar")

        def client(*arguments):
            result = engine.client(*arguments)
            return result.stdout.strip() if result.returncode == 0 else result.stderr

        script = "grep NoNewPrivs /proc/self/status; mkdir /x 2>/dev/null || echo refused; test $$ = 1 || echo init"
        assert client("run", "--rm", "busybox:test", "sh", "-c", script).split() == ["NoNewPrivs:", "1", "refused", "init"]
        own = ["--init=false", "--security-opt", "no-new-privileges=false", "--security-opt", "seccomp=builtin", "--log-driver", "json-file"]
        assert client("run", "--name", "own", *own, "busybox:test", "sh", "-c", script).split() == ["NoNewPrivs:", "0"]
        assert json.loads(client("inspect", "-f", "{{json .HostConfig.LogConfig}}", "own")) == {"Type": "json-file", "Config": {}}
        client("run", "--name", "plain", "busybox:test", "echo", "said")
        assert json.loads(client("inspect", "-f", "{{json .HostConfig.LogConfig}}", "plain")) == {"Type": "local", "Config": {"max-size": "1m"}}
        assert client("logs", "plain") == "said"
        assert client("info", "-f", "{{.LoggingDriver}}") == "local"
        engine.remove_all_containers()
        engine.stop()
        assert engine.settled_leftovers() == []
    finally:
        engine.close()


def test_containers_get_the_shutdown_timeout(images):
    engine = Naru(options=["--live-restore=false", "--shutdown-timeout", "1"])
    try:
        engine.start()
        engine.load(images + "/busybox.tar")
        for name, timeout in (("plain", []), ("own", ["--stop-timeout", "0"])):
            assert engine.client("run", "-d", "--name", name, *timeout, "busybox:test", "sh", "-c", "trap '' TERM; while :; do sleep 1; done").returncode == 0
        engine.stop()
        engine.start()
        codes = engine.client("inspect", "-f", "{{.State.ExitCode}}", "plain", "own").stdout.split()
        assert codes == ["137", "137"], codes
        engine.remove_all_containers()
    finally:
        engine.close()
