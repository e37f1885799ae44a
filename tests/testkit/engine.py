"""Runs one engine for the tests: in network and mount namespaces of its own, on its own roots, leaving nothing behind.

An `Engine` never touches the host's namespaces, default roots or default socket. Two kinds exist:
`Naru` (the product) and `DebianDocker` (the reference the product is compared with).
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NARU = os.environ.get("NARU_BINARY", os.path.join(ROOT, "target/release/naru"))
CGROUP_ROOT = "/sys/fs/cgroup"
# Docker's command lines: Debian's, 20.10, and version 28 where the machine has it, which no package of Debian's brings.
DOCKER_20, DOCKER_28 = "/usr/bin/docker", "/usr/local/bin/docker"
NEWEST_DOCKER = DOCKER_28 if os.path.exists(DOCKER_28) else DOCKER_20


class Scope:
    """Network and mount namespaces held by one sleeping process; loopback is up."""

    def __init__(self):
        # Private first, so that nothing reaches the host; then shared among what runs inside, as on a real host.
        script = "mount --make-rprivate / && mount --make-rshared / && ip link set lo up && echo ready && exec sleep infinity"
        self.process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("no namespaces for the test")

    def command(self, *command):
        """Returns the command wrapped so that it runs inside; nsenter execs, so the pid is the command's own."""
        return ["nsenter", f"--target={self.process.pid}", "--net", "--mount", "--wd=/", "--", *command]

    def run(self, *command, timeout=120, **options):
        return subprocess.run(
            self.command(*command), capture_output=True, text=True, errors="replace", timeout=timeout,
            stdin=subprocess.DEVNULL, **options)

    def shell(self, script, timeout=120, **options):
        return self.run("bash", "-c", script, timeout=timeout, **options)

    def mounts(self):
        with open(f"/proc/{self.process.pid}/mounts") as file:
            return file.read().splitlines()

    def links(self):
        """Returns the names of the network interfaces, loopback left out."""
        text = self.run("ip", "-json", "link", "show").stdout
        return sorted(link["ifname"] for link in json.loads(text or "[]") if link["ifname"] != "lo")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Engine:
    """An engine process on its own roots. `start`, `stop` and `kill9` may follow each other at will."""

    name = ""

    def __init__(self, label="", options=(), scope=None, keep_roots=False):
        # Short, because a unix socket's path holds 107 bytes.
        self.base = tempfile.mkdtemp(prefix=f"naru-t{label}-", dir="/tmp")
        self.label = os.path.basename(self.base)
        self.data_root = self.base + "/data"
        # On a tmpfs, as /run is on nearly every host.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else self.base
        self.exec_root = f"{memory}/{self.label}"
        self.socket = self.exec_root + "/engine.sock"
        self.pidfile = self.exec_root + "/engine.pid"
        self.log_path = self.base + "/log"
        self.host = "unix://" + self.socket
        self.options = list(options)
        self.own_scope = scope is None
        self.scope = scope or Scope()
        self.process = None
        os.makedirs(self.data_root)
        os.makedirs(self.exec_root)
        self.mounts_before = self.scope.mounts()

    def start(self, timeout=90):
        """Starts the daemon and returns the seconds until it answered a ping."""
        began = time.monotonic()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.scope.command(*self.daemon_command()), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment())
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() - began > timeout:
                raise RuntimeError(f"{self.name} did not start:\n{self.log_tail()}")
            time.sleep(0.002)
        return time.monotonic() - began

    def environment(self):
        return {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "NARU_"))}

    def answers(self):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(self.socket)
                connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
                return b" 200 " in connection.recv(200)
            except OSError:
                return False

    def stop(self, timeout=90):
        """Ends the daemon with SIGTERM and returns its exit code."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.process = None
            raise RuntimeError(f"{self.name} did not end within {timeout} s of SIGTERM:\n{self.log_tail()}") from None
        self.process = None
        return code

    def kill9(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def log_tail(self, size=3000):
        with open(self.log_path, "rb") as file:
            return file.read()[-size:].decode(errors="replace")

    def load(self, path):
        result = self.client("load", "-qi", path, timeout=300)
        if result.returncode:
            raise RuntimeError(f"{self.name} load {path}: {result.stdout}{result.stderr}\n{self.log_tail()}")

    def client(self, *arguments, program=None, timeout=120):
        """Runs a client command against this engine, inside its namespaces."""
        return self.scope.run(program or self.default_client(), "-H", self.host, *arguments, timeout=timeout, env=self.environment())

    def remove_all_containers(self):
        names = self.client("ps", "-aq").stdout.split()
        if names:
            self.client("rm", "-fv", *names)

    def close(self):
        """Ends the engine, and whatever of it is left, and removes its folders."""
        try:
            if self.process and self.process.poll() is None:
                self.remove_all_containers()
                self.stop()
        finally:
            for pid in self.processes():
                kill_quietly(pid)
            self.remove_cgroups()
            if self.own_scope:
                self.scope.close()
            remove_tree(self.exec_root)
            remove_tree(self.base)

    def processes(self):
        """Returns pids of processes that belong to this engine: by network namespace, cgroup or command line."""
        namespace = os.readlink(f"/proc/{self.scope.process.pid}/ns/net")
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) in (os.getpid(), self.scope.process.pid):
                continue
            try:
                with open(f"/proc/{pid}/cgroup") as file:
                    groups = file.read()
                inside = self.own_scope and os.readlink(f"/proc/{pid}/ns/net") == namespace
            except OSError:
                continue
            if inside or any(name in groups for name in self.cgroup_names()) or self.base + "/" in describe_process(pid):
                found.append(int(pid))
        return found

    def cgroup_names(self):
        return [self.label]

    def cgroups(self):
        """Returns the cgroup folders that carry this engine's name, deepest first."""
        found = []
        for folder, folders, _ in os.walk(CGROUP_ROOT):
            found += [os.path.join(folder, name) for name in folders
                      if any(mine in os.path.join(folder, name) for mine in self.cgroup_names())]
        return sorted(set(found), key=len, reverse=True)

    def remove_cgroups(self):
        for _ in range(50):
            for folder in self.cgroups():
                try:
                    os.rmdir(folder)
                except OSError:
                    pass
            if not self.cgroups():
                return
            time.sleep(0.05)

    def settled_leftovers(self, seconds=20):
        """As `leftovers`, after the kernel has had time to end what it ends in the background."""
        deadline = time.monotonic() + seconds
        while (left := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def leftovers(self):
        """Names everything that outlived the engine although its containers were removed. Call after `stop`."""
        left = [f"process {pid}: {describe_process(pid)}" for pid in self.processes()]
        # `ip netns` mounts the place of its names, where nobody has before, and leaves it.
        mounts = [line for line in self.scope.mounts() if line.split()[1] != "/run/netns"]
        left += [f"mount {line}" for line in mounts if line not in self.mounts_before]
        left += [f"cgroup {folder}" for folder in self.cgroups()]
        left += [f"interface {name}" for name in self.scope.links() if name.startswith("veth")]
        return left


class DebianDocker(Engine):
    """Debian's dockerd, the reference."""

    name = "docker"

    def daemon_command(self):
        return [
            "dockerd", "--data-root", self.data_root, "--exec-root", self.exec_root, "--host", self.host,
            "--pidfile", self.pidfile, "--cgroup-parent", "/" + self.label, "--log-level", "error", *self.options]

    def default_client(self):
        return "/usr/bin/docker"


class Naru(Engine):
    """The product."""

    name = "naru"

    def daemon_command(self):
        return [
            NARU, "daemon", "--data-root", self.data_root, "--exec-root", self.exec_root, "--host", self.host,
            "--pidfile", self.pidfile, *self.options]

    def default_client(self):
        return NARU

    known_parent = None

    def cgroup_names(self):
        return [self.label, self.known_parent] if self.known_parent else [self.label]

    def load(self, path):
        super().load(path)
        self.learn_cgroup_parent(path)

    def learn_cgroup_parent(self, path):
        """The engine derives its cgroup parent from the exec-root; a running container shows which it is."""
        if self.known_parent is None and path.endswith("busybox.tar"):
            name = self.client("run", "-d", "--network", "none", "busybox:test", "sleep", "60").stdout.strip()
            pid = self.client("inspect", "-f", "{{.State.Pid}}", name).stdout.strip()
            with open(f"/proc/{pid}/cgroup") as file:
                path = next(line.strip().split(":", 2)[2] for line in file if ":pids:" in line or line.startswith("0::/n"))
            self.client("rm", "-f", name)
            self.known_parent = "/" + path.split("/")[1]

    def spawner(self):
        """Returns the pid of the spawner, a child of the daemon, or None."""
        for pid in children(self.process.pid):
            if "spawner" in describe_process(pid):
                return pid
        return None

    def keeper(self, container):
        """Returns the pid of the keeper of a running container: the parent of its PID 1."""
        pid = int(self.client("inspect", "-f", "{{.State.Pid}}", container).stdout)
        return parent(pid)


def children(pid):
    found = []
    for other in filter(str.isdigit, os.listdir("/proc")):
        if parent(int(other)) == pid:
            found.append(int(other))
    return found


def parent(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None


def is_alive(pid):
    """Whether the process exists and is more than an entry in the process table."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def describe_process(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        with open(f"/proc/{pid}/comm") as file:
            return f"{file.read().strip()} {command}"
    except OSError:
        return "gone"


def kill_quietly(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def remove_tree(path):
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.exists(path):
            return
        time.sleep(0.1)
