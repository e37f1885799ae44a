"""Every flag of `docker run`, of both clients and of this product's own, with the rows that show what it does.

A row shows a flag's effect from inside the container, or the refusal with its reason, on Debian's Docker and on Naru.
"""

import os
import re
import subprocess

import pytest
from harness import CLIENTS
from test_table import ROWS

# What the clients take and do not tell of.
HIDDEN = {"net", "net-alias", "dns-opt"}

FLAGS = {
    "add-host": "add-host", "annotation": "flag annotation", "attach": "flag attach", "blkio-weight": "flag blkio-weight", "blkio-weight-device": "flag blkio-weight-device", "cap-add": "cap-add", "cap-drop": "cap-drop",
    "cgroup-parent": "flag cgroup-parent", "cgroupns": "cgroupns host", "cidfile": "cidfile", "cpu-count": "flags for windows", "cpu-percent": "flags for windows", "cpu-period": "cpu quota", "cpu-quota": "cpu quota",
    "cpu-rt-period": "flags of realtime", "cpu-rt-runtime": "flags of realtime", "cpu-shares": "cpu shares and sets", "cpus": "cpus", "cpuset-cpus": "cpu shares and sets", "cpuset-mems": "flag cpuset-mems", "detach": "detached prints id",
    "detach-keys": "flag detach-keys", "device": "device", "device-cgroup-rule": "device rule", "device-read-bps": "flags of throttles", "device-read-iops": "flags of throttles", "device-write-bps": "flags of throttles",
    "device-write-iops": "flags of throttles", "disable-content-trust": "flag disable-content-trust", "dns": "dns", "dns-opt": "flag dns-opt", "dns-option": "dns", "dns-search": "dns", "domainname": "domainname", "entrypoint": "entrypoint",
    "env": "env", "env-file": "env file", "expose": "flag expose", "gpus": "flag gpus", "group-add": "group-add", "health-cmd": "health", "health-interval": "health", "health-retries": "health",
    "health-start-interval": "flag health-start-interval", "health-start-period": "health start period", "health-timeout": "health timeout", "help": "flag help", "hostname": "hostname", "init": "init", "interactive": "stdin",
    "io-maxbandwidth": "flags for windows", "io-maxiops": "flags for windows", "ip": "flags of addresses", "ip6": "flags of addresses", "ipc": "ipc container", "isolation": "flags for windows", "kernel-memory": "flag kernel-memory",
    "label": "labels", "label-file": "flag label-file", "link": "flag link", "link-local-ip": "flag link-local-ip", "log-driver": "flag log-driver", "log-opt": "flag log-driver", "mac-address": "flag mac-address", "memory": "memory limit",
    "memory-reservation": "flag memory-reservation", "memory-swap": "flag memory-swap", "memory-swappiness": "flag memory-swappiness", "mount": "mount bind", "name": "name in use", "net": "flags of net", "net-alias": "flags of net",
    "network": "network none", "network-alias": "flag network-alias", "no-healthcheck": "health of an image", "oom-kill-disable": "flag oom-kill-disable", "oom-score-adj": "oom score", "pid": "pid container", "pids-limit": "pids limit",
    "platform": "flag platform", "privileged": "privileged", "publish": "publish", "publish-all": "publish all", "pull": "flag pull", "quiet": "flag quiet", "read-only": "read-only", "restart": "restart policy", "rm": "rm leaves nothing",
    "runtime": "flag runtime", "security-opt": "seccomp profile", "shm-size": "shm size", "sig-proxy": "flag sig-proxy", "stop-signal": "stop signal", "stop-timeout": "flag stop-timeout", "storage-opt": "flag storage-opt", "sysctl": "sysctl",
    "tmpfs": "tmpfs", "tty": "terminal", "ulimit": "ulimit", "use-api-socket": "flag use-api-socket", "user": "user by number", "userns": "flag userns", "uts": "uts host", "volume": "named volume", "volume-driver": "flag volume-driver",
    "volumes-from": "volumes-from", "workdir": "workdir",
}

# Which letter stands for which flag.
LETTERS = {
    "a": "attach", "c": "cpu-shares", "d": "detach", "e": "env", "h": "hostname", "i": "interactive", "l": "label", "m": "memory", "p": "publish", "P": "publish-all", "q": "quiet", "t": "tty", "u": "user", "v": "volume", "w": "workdir",
}


def flags_of_help(client):
    help_text = subprocess.run([CLIENTS[client], "run", "--help"], capture_output=True, text=True, check=True).stdout
    found = set(re.findall(r"^ +(?:-\w, +)?--([a-z0-9-]+)", help_text, re.M))
    assert len(found) > 90, f"the help of {client} is written in another way"
    return found


def flags_of(script):
    """The flags that a row's script gives to `docker run` or `docker create`."""
    found = set()
    # One row gives several, by turns.
    turns = re.search(r"for flag in ([^;]*);", script)
    script = script.replace("--$flag", " ".join(f"--{one}" for one in turns[1].split()) if turns else "")
    for command in re.findall(r"docker (?:run|create)((?:(?! \$[BD]\b)[^;|&])*)", script):
        found |= set(re.findall(r" --([a-z0-9-]+)", command))
        for letters in re.findall(r" -([a-zA-Z]+)", command):
            found |= {LETTERS[letter] for letter in letters if letter in LETTERS}
    return found


@pytest.mark.parametrize("client", [name for name, path in CLIENTS.items() if os.path.exists(path)])
def test_every_flag_of_a_client_is_in_a_row(client):
    assert sorted((flags_of_help(client) | HIDDEN) - set(FLAGS)) == []


@pytest.mark.parametrize("flag", FLAGS)
def test_a_row_gives_the_flag(flag):
    row = next((row for row in ROWS if row.name == FLAGS[flag]), None)
    assert row, f"there is no row {FLAGS[flag]!r}"
    assert flag in flags_of(row.script), f"the row {row.name!r} does not give --{flag}"


def test_the_product_s_own_client_has_every_flag():
    """What Docker's clients of both versions take this one takes too, if only to refuse it with the reason."""
    refused = []
    for flag in sorted(FLAGS):
        answer = subprocess.run([CLIENTS["naru"], "-H", "unix:///nowhere", "run", f"--{flag}", "--help"], capture_output=True, text=True)
        if re.search("unknown flag|unexpected argument", answer.stderr):
            refused.append(flag)
    assert refused == []
