"""`naru why`: a table of causes, each made by unmodified clients, by the kernel or by an outsider, each named exactly.

In a row's script `docker` is Debian's client, `$N` the container that is asked about, `$W` an empty folder on the host,
`$B` the image. What is expected is a part of what `naru why --format json` answers, and a piece of its sentences.
"""

import json
import os
import re
import signal
import struct
import time

import pytest
from testkit.engine import Naru, is_alive, kill_quietly

PRELUDE = r"""
until_true() { for _ in $(seq 200); do eval "$@" >/dev/null 2>&1 && return; sleep 0.05; done; echo "never: $*"; exit 1; }
is() { until_true "[ \"\$(docker inspect -f {{.State.Status}} $N)\" = $1 ]"; }
up() { until_true "docker exec $N true"; }
pid() { docker inspect -f '{{.State.Pid}}' $N; }
"""

# PID 1 has no default action for a signal of its own namespace: one that is to end it by TERM must ask for it.
ENDS = "sh -c 'trap \"exit 5\" TERM; touch /up; while :; do sleep 0.05; done'"
ENDS_UP = 'until_true "docker exec $N test -e /up"; '
SIGNALED = {"Kind": "Signaled", "CoreDumped": False}
OUTSIDE = {"Kind": "Outside"}


def naru_sent(signal, by, **more):
    return {"Kind": "Naru", "Signal": signal, "Reason": {"By": by, **more}}


def ended(cause, aftermath="NoPolicy", **more):
    return {"Status": "exited", "LastEnd": {"Cause": cause, "Aftermath": {"Kind": aftermath}, **more}}


def failed(fault, **more):
    return {"Status": "created", "FailedStart": {"Fault": fault, **more}}


def returned(code, signal=None, by=None):
    after = {"Signal": signal, "Reason": {"By": by}} if signal else None
    return {"Kind": "Exited", "Code": code, "After": after}


def victim(name):
    return [{"Name": name, "Scope": "Limit"}]


# Name, script, what the answer holds, what its sentences hold.
CAUSES = [
    ("exit 0", "docker run --name $N $B true", ended(returned(0), ExitCode=0, WasFoundLater=False), "returned 0 by itself"),
    ("exit 137 of the program itself", "docker run --name $N $B sh -c 'exit 137'", ended(returned(137)), "returned 137 by itself"),
    ("read-only file system", "docker run --read-only --name $N $B touch /x 2>/dev/null", ended(returned(1)), "returned 1 by itself"),
    ("kill request", "docker run -d --name $N $B sleep 60; docker kill $N; is exited", ended({**SIGNALED, "Signal": 9, "Sender": naru_sent(9, "KillRequest")}, ExitCode=137), "SIGKILL ended it, sent by Naru for a kill request"),
    ("kill request with TERM", f"docker run -d --name $N $B {ENDS}; {ENDS_UP} docker kill -s TERM $N; is exited", ended(returned(5, 15, "KillRequest")), "after SIGTERM for a kill request"),
    ("kill -9 by an outsider", "docker run -d --name $N $B sleep 60; kill -9 $(pid); is exited", ended({**SIGNALED, "Signal": 9, "Sender": OUTSIDE}, ExitCode=137), "SIGKILL ended it, sent from outside of Naru"),
    ("kill -9 by an outsider before a stop", "docker run -d --name $N $B sleep 60; kill -9 $(pid); is exited; docker stop $N", ended({**SIGNALED, "Signal": 9, "Sender": OUTSIDE}), "from outside of Naru"),
    ("kill -SEGV by an outsider", "docker run -d --pid host --ulimit core=0 --name $N $B sleep 60; kill -SEGV $(pid); is exited", ended({**SIGNALED, "Signal": 11, "Sender": {"Kind": "Unlogged"}}), "the kernel's log has no fault"),
    ("stop request that the program obeys", f"docker run -d --name $N $B {ENDS}; {ENDS_UP} docker stop $N", ended(returned(5, 15, "StopRequest")), "after SIGTERM for a stop request"),
    ("stop request with a signal of its own", "docker run -d --stop-signal KILL --name $N $B sleep 60; docker stop $N", ended({**SIGNALED, "Signal": 9, "Sender": naru_sent(9, "StopRequest")}), "for a stop request."),
    ("stop request that had to kill", "docker run -d --name $N $B sleep 60; docker stop -t 1 $N", ended({**SIGNALED, "Signal": 9, "Sender": naru_sent(9, "StopRequest", AfterSeconds=1)}), "because it still ran 1 s after the first signal"),
    ("restart request", "docker run -d --name $N $B sleep 60; docker restart -t 0 $N", {"Status": "running", "StartedBy": {"Kind": "RestartRequest"}, "LastEnd": {"Cause": {**SIGNALED, "Signal": 9, "Sender": naru_sent(9, "RestartRequest")}}}, "restarted by a request"),
    ("memory limit, PID 1", "docker run -m 16m --memory-swap 16m --name $N $B tail /dev/zero", ended({"Kind": "OutOfMemory", "Victim": victim("tail")[0]}, ExitCode=137), "out-of-memory killer ended it: process tail"),
    ("memory limit, a child", "docker run -d -m 16m --memory-swap 16m --name $N $B sh -c 'tail /dev/zero; touch /over; sleep 60'; until_true docker exec $N test -e /over", {"Status": "running", "Pressure": {"OomKills": 1, "OomVictims": victim("tail")}, "LastEnd": None}, "killer ended process tail"),
    ("memory limit, a child whose code the shell hands on", "docker run -m 16m --memory-swap 16m --name $N $B sh -c 'tail /dev/zero; exit $?'", ended(returned(137), OomKills=1, OomVictims=victim("tail")), "killer ended process tail"),
    ("memory limit, an exec", "docker run -d -m 16m --memory-swap 16m --name $N $B sleep 60; docker exec $N tail /dev/zero; [ $? = 137 ] || echo not killed; docker kill $N; is exited", ended({**SIGNALED, "Signal": 9, "Sender": naru_sent(9, "KillRequest")}, OomKills=1, OomVictims=victim("tail")), "killer ended process tail"),
    ("limit of processes", "docker run --pids-limit 3 --name $N $B sh -c 'sleep 3 & sleep 3 & sleep 3 & sleep 3 & wait'", ended({"Kind": "Exited", "After": None}), "The limit of processes was reached"),
    ("unhealthy and restarted", "docker run -d --label naru.restart-on-unhealthy=true --stop-timeout 0 --health-cmd '[ -e /well ] || { echo no tables; exit 3; }' --health-interval 200ms --health-retries 2 --name $N $B sh -c 'mkdir /started || touch /well; exec sleep 60'; until_true \"docker exec $N test -e /well\"", {"Status": "running", "StartedBy": {"Kind": "Unhealthy"}, "LastEnd": {"Cause": {"Sender": naru_sent(9, "Unhealthy")}, "FailedCheck": {"ExitCode": 3, "Output": "no tables\n"}}}, "restarted because it was unhealthy"),
    ("on-failure has given up", "docker run -d --restart on-failure:2 --name $N $B sh -c 'exit 3'; until_true \"[ \\$(docker inspect -f {{.RestartCount}} $N) = 2 ]\"; is exited", {**ended(returned(3), "GaveUp"), "RestartCount": 2, "StartedBy": {"Kind": "Policy", "Policy": "on-failure:2", "Attempt": 2}}, "on-failure:2 has given up after 2 restarts"),
    ("on-failure without a failure", "docker run -d --restart on-failure --name $N $B true; is exited", ended(returned(0), "NotAFailure"), "only after a failure"),
    ("always, between two starts", "docker run -d --restart always --name $N $B false; until_true \"[ \\$(docker inspect -f {{.RestartCount}} $N) = 5 ]\"; is restarting", {"Status": "restarting", "LastEnd": {"Cause": returned(1), "Aftermath": {"Kind": "Restarts", "Policy": "always", "Attempt": 6, "DelayMs": 3200}}}, "starts it again after 3200 ms"),
    ("always, stopped between two starts", "docker run -d --restart always --name $N $B false; until_true \"[ \\$(docker inspect -f {{.RestartCount}} $N) = 4 ]\"; is restarting; docker stop $N", ended(returned(1), "LeftStopped"), "because a request stopped it"),
    ("unless-stopped and stopped", "docker run -d --restart unless-stopped --name $N $B sleep 60; docker stop -t 0 $N", ended({"Sender": naru_sent(9, "StopRequest")}, "LeftStopped"), "unless-stopped leaves it alone"),
    ("command not found", "docker run --name $N $B nothing", failed("CommandNotFound", ExitCode=127), "its command is not in the container"),
    ("command not executable", "docker run --name $N $B /etc", failed("CommandNotExecutable", ExitCode=126), "cannot be executed"),
    ("another architecture", "docker run -v $W/foreign:/foreign --name $N $B /foreign", failed("FormatUnknown", ExitCode=126), "another kind of machine"),
    ("missing interpreter", "docker run -v $W/script:/script --name $N $B /script", failed("InterpreterMissing", ExitCode=127), "interpreter that its command needs"),
    ("bad working directory", "docker run -w /bin/busybox --name $N $B true", failed("WorkingDirectory", ExitCode=128), "its working directory cannot be entered"),
    ("unknown user", "docker run -u nobody-here --name $N $B true", failed("UserUnknown"), "its user cannot be found"),
    ("bind source gone", "mkdir $W/source; docker create --mount type=bind,source=$W/source,target=/x --name $N $B true; rmdir $W/source; docker start $N", failed("BindSourceMissing"), "bind source path does not exist"),
    ("device gone", "mknod $W/device c 1 3; docker create --device $W/device --name $N $B true; rm $W/device; docker start $N", failed("DeviceMissing"), "a device is not there"),
    ("port of another container", "docker run -d --name $N-other -p 127.0.0.1:28090:80 $B sleep 60; docker run -d --name $N -p 127.0.0.1:28090:80 $B true", failed("PortTaken"), "28090"),
    ("port of a process of the host", "python3 -c 'import socket,time; s=socket.socket(); s.bind((\"127.0.0.1\",28091)); s.listen(); open(\"'$W'/bound\",\"w\"); time.sleep(60)' & held=$!; until_true test -e $W/bound; docker run -d --name $N -p 127.0.0.1:28091:80 $B true; kill $held", failed("PortTaken"), "28091"),
    ("network gone", "docker network create $N-net; docker create --network $N-net --name $N $B true; docker network rm $N-net; docker start $N", failed("NetworkMissing"), "a network of its is not there"),
    ("network of a container that does not run", "docker create --name $N-other $B true; docker run --network container:$N-other --name $N $B true", failed("SharedNamespace"), "namespace it was to share"),
    ("cgroup parent impossible", "docker run --cgroup-parent /$(head -c 5000 /dev/zero | tr '\\0' x) --name $N $B true", failed("Cgroup"), "its cgroup cannot be made"),
    ("system call that seccomp forbids", "docker run --ulimit core=0 --security-opt seccomp=$W/seccomp.json --name $N $B mkdir /x", ended({"Kind": "Signaled", "Signal": 31}, ExitCode=159), "SIGSYS ended it"),
    ("segmentation fault", "docker run --ulimit core=0 -v $W/segfault:/segfault --name $N $B /segfault", ended({**SIGNALED, "Signal": 11, "Sender": {"Kind": "Kernel"}}, ExitCode=139), "segfault at 0"),
    ("not started yet", "docker create --name $N $B true", {"Status": "created", "LastEnd": None, "FailedStart": None}, "has not been started"),
    ("first run", "docker run -d --name $N $B sleep 60", {"Status": "running", "StartedBy": {"Kind": "StartRequest"}, "LastEnd": None}, "is running, started by a request"),
]


def program(machine, code):
    """A whole ELF program of these instructions."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, 0x1000, 0x1000, 0x1000) + code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("why")
    (folder / "foreign").write_bytes(program(0xF3, b""))  # RISC-V
    (folder / "segfault").write_bytes(program(0x3E, b"\x31\xc0\x88\x00"))  # xor eax, eax; mov [rax], al
    (folder / "script").write_text("#!/nothing/here\n")
    for name in ("foreign", "segfault", "script"):
        (folder / name).chmod(0o755)
    forbidden = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}
    (folder / "seccomp.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [forbidden]}))
    return folder


def why(engine, name):
    result = engine.client("why", "--format", "json", name)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def text_of(engine, name):
    return engine.client("why", name).stdout


def shell(engine, script, name, work):
    environment = {**os.environ, "DOCKER_HOST": engine.host, "B": "busybox:test", "N": name, "W": str(work)}
    result = engine.scope.shell(PRELUDE + script, env=environment, timeout=60)
    assert "never: " not in result.stdout, result.stdout + result.stderr
    return result


def lacks(expected, found, path=""):
    """Names every place where `found` does not hold `expected`."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [line for key, value in expected.items() for line in lacks(value, found.get(key), f"{path}.{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [line for at, value in enumerate(expected) for line in lacks(value, found[at], f"{path}[{at}]")]
    return [] if expected == found else [f"{path}: {expected!r} expected, not {found!r}"]


@pytest.mark.parametrize("cause", CAUSES, ids=[cause[0] for cause in CAUSES])
def test_cause_is_named_exactly(busybox_naru, folder, cause):
    name, script, expected, sentence = cause
    container = "why-" + re.sub("[^a-z0-9]+", "-", name.lower())
    try:
        result = shell(busybox_naru, script, container, folder)
        answer = why(busybox_naru, container)
        assert lacks(expected, answer) == [], f"{json.dumps(answer, indent=1)}\n{result.stdout}{result.stderr}"
        assert sentence in text_of(busybox_naru, container), text_of(busybox_naru, container)
    finally:
        busybox_naru.remove_all_containers()


def test_unknown_containers_and_formats(busybox_naru):
    result = busybox_naru.client("why", "nothing-here")
    assert result.returncode == 1 and "No such container: nothing-here" in result.stderr
    shell(busybox_naru, "docker run --name $N $B false", "why-format", "/tmp")
    assert busybox_naru.client("why", "-f", "{{.LastEnd.Cause.Kind}} {{.LastEnd.ExitCode}}", "why-format").stdout == "Exited 1\n"
    assert busybox_naru.client("why", "-f", "{{.Nothing", "why-format").returncode != 0
    busybox_naru.remove_all_containers()


def test_an_image_that_is_gone_keeps_nothing_from_starting(busybox_naru):
    """Its layers stay for as long as a container needs them: there is no such cause."""
    script = "docker create --name $N-i $B true; docker commit $N-i $N:image; docker create --name $N $N:image true; docker rmi -f $N:image; docker start -a $N"
    shell(busybox_naru, script, "why-image", "/tmp")
    assert lacks(ended(returned(0)), why(busybox_naru, "why-image")) == []
    busybox_naru.remove_all_containers()


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.02)


def run(engine, name, *command, options=()):
    result = engine.client("run", "-d", "--name", name, *options, "busybox:test", *command, program="/usr/bin/docker")
    assert result.returncode == 0, result.stderr
    return int(engine.client("inspect", "-f", "{{.State.Pid}}", name).stdout)


def wait_until_written(engine, name):
    """A start is told before its record is on disk: of one whose daemon and keeper die at that moment nothing is left."""
    path = f"{engine.data_root}/containers/{engine.client('inspect', '-f', '{{.Id}}', name).stdout.strip()}/record.json"
    until(lambda: '"status":"running"' in open(path).read())


def test_what_happens_without_a_daemon_is_recorded(fresh_naru):
    """Keepers go on: they write down causes while no daemon is there; a keeper that is killed leaves none."""
    exits = run(fresh_naru, "exits", "sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; exit 137")
    killed = run(fresh_naru, "killed", "sleep", "60")
    policy = run(fresh_naru, "policy", "sleep", "60", options=("--restart", "always"))
    lost = run(fresh_naru, "lost", "sleep", "60")
    wait_until_written(fresh_naru, "lost")
    keeper, keepers = fresh_naru.keeper("lost"), [fresh_naru.keeper(name) for name in ("exits", "killed", "policy")]
    fresh_naru.kill9()
    open(f"/proc/{exits}/root/go", "w").close()
    kill_quietly(killed)
    kill_quietly(policy)
    kill_quietly(keeper)
    until(lambda: not any(is_alive(pid) for pid in [exits, killed, policy, keeper, *keepers]))
    fresh_naru.start()
    outsider = {**SIGNALED, "Signal": 9, "Sender": OUTSIDE}
    assert lacks(ended(returned(137), WasFoundLater=True), why(fresh_naru, "exits")) == []
    assert "No daemon was running then" in text_of(fresh_naru, "exits")
    assert lacks(ended(outsider, WasFoundLater=True), why(fresh_naru, "killed")) == []
    assert lacks(ended({"Kind": "KeeperLost"}, WasFoundLater=True, ExitCode=137), why(fresh_naru, "lost")) == []
    until(lambda: why(fresh_naru, "policy")["Status"] == "running")
    answer = why(fresh_naru, "policy")
    assert lacks({"LastEnd": {"Cause": outsider, "WasFoundLater": True}}, answer) == []
    assert answer["StartedBy"]["Kind"] in ("Policy", "DaemonStart")
    assert is_alive(lost) is False


def test_a_keeper_killed_under_a_daemon(fresh_naru):
    run(fresh_naru, "lost", "sleep", "60")
    kill_quietly(fresh_naru.keeper("lost"))
    until(lambda: why(fresh_naru, "lost")["Status"] == "exited")
    assert lacks(ended({"Kind": "KeeperLost"}, WasFoundLater=False), why(fresh_naru, "lost")) == []
    assert "its keeper process was killed" in text_of(fresh_naru, "lost")


def test_the_daemon_s_end_that_takes_containers_along(images):
    engine = Naru(options=["--live-restore=false"])
    try:
        engine.start()
        engine.load(images + "/busybox.tar")
        obeys = "trap 'exit 5' TERM; touch /up; while :; do sleep 0.05; done"
        pid = run(engine, "obeys", "sh", "-c", obeys, options=("--restart", "unless-stopped"))
        until(lambda: os.path.exists(f"/proc/{pid}/root/up"))
        run(engine, "must-be-killed", "sleep", "60", options=("--stop-timeout", "1"))
        assert engine.stop() == 0
        engine.start()
        until(lambda: why(engine, "obeys")["Status"] == "running")
        answer = why(engine, "obeys")
        assert lacks({"StartedBy": {"Kind": "DaemonStart", "Policy": "unless-stopped"}}, answer) == []
        assert lacks({"Cause": returned(5, 15, "DaemonShutdown"), "Aftermath": {"Kind": "DaemonEnding"}}, answer["LastEnd"]) == []
        sender = naru_sent(9, "DaemonShutdown", AfterSeconds=1)
        assert lacks(ended({**SIGNALED, "Signal": 9, "Sender": sender}), why(engine, "must-be-killed")) == []
        assert "the end of the daemon" in text_of(engine, "must-be-killed")
    finally:
        engine.close()


def test_a_machine_that_went_down(fresh_naru, tmp_path):
    """The kernel's id of the boot is another and the exec-root is empty, as after a power loss; then the same boot again."""
    for is_rebooted in (True, False):
        run(fresh_naru, "ran", "sleep", "60")
        wait_until_written(fresh_naru, "ran")
        keeper = fresh_naru.keeper("ran")
        fresh_naru.kill9()
        kill_quietly(keeper)
        until(lambda pid=keeper: not is_alive(pid))
        assert fresh_naru.scope.run("sh", "-c", f"rm -r {fresh_naru.exec_root}/runs/*").returncode == 0
        if is_rebooted:
            (tmp_path / "boot_id").write_text("00000000-1111-2222-3333-444444444444\n")
            assert fresh_naru.scope.run("mount", "--bind", str(tmp_path / "boot_id"), "/proc/sys/kernel/random/boot_id").returncode == 0
        fresh_naru.start()
        answer = why(fresh_naru, "ran")
        if is_rebooted:
            assert lacks(ended({"Kind": "MachineLost", "BootIdNow": "00000000-1111-2222-3333-444444444444"}, ExitCode=255), answer) == []
            assert "the machine went down while it ran" in text_of(fresh_naru, "ran")
            fresh_naru.scope.run("umount", "/proc/sys/kernel/random/boot_id")
            fresh_naru.kill9()
            fresh_naru.start()
        else:
            assert lacks(ended({"Kind": "RunLost"}, ExitCode=255), answer) == []
        fresh_naru.remove_all_containers()


def test_a_full_disk(fresh_naru):
    """The disk that keeps what concerns runs takes no more files; once it does, the container starts."""
    engine = fresh_naru
    engine.stop()
    assert engine.scope.run("mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", engine.exec_root + "/runs").returncode == 0
    engine.start()
    made = engine.client("create", "--name", "full", "busybox:test", "true", program="/usr/bin/docker")
    assert made.returncode == 0, made.stderr
    ballast = f"{engine.exec_root}/runs/ballast"
    engine.scope.shell(f"cat /dev/zero > {ballast}")
    refused = engine.client("start", "full", program="/usr/bin/docker")
    assert refused.returncode == 1 and re.search("(?i)no space left", refused.stderr), refused.stderr
    answer = why(engine, "full")
    assert lacks(failed("DiskFull"), answer) == [], answer
    assert "a disk of the host is full" in text_of(engine, "full")
    engine.scope.run("rm", ballast)
    assert engine.client("start", "-a", "full", program="/usr/bin/docker").returncode == 0
    assert lacks({**ended(returned(0)), "FailedStart": None}, why(engine, "full")) == []
    engine.remove_all_containers()
    engine.stop()
    engine.scope.run("umount", engine.exec_root + "/runs")


def test_a_frozen_container_and_a_signal_that_waits(busybox_naru):
    """A kill of a paused container is the client's, thawed for it or not."""
    pid = run(busybox_naru, "frozen", "sleep", "60")
    busybox_naru.client("pause", "frozen")
    os.kill(pid, signal.SIGCONT)
    assert busybox_naru.client("kill", "frozen", program="/usr/bin/docker").returncode == 0
    until(lambda: why(busybox_naru, "frozen")["Status"] == "exited")
    assert lacks(ended({"Sender": naru_sent(9, "KillRequest")}), why(busybox_naru, "frozen")) == []
    busybox_naru.remove_all_containers()
