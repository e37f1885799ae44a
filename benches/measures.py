"""What is measured. Each measure is a function of the bench, and adds rows to its report."""

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time

from build_measures import measure_build
from image_measures import measure_load, measure_pull
from testkit.api import Api
from testkit.engine import Naru, Scope

ISOLATED_SECONDS = 0.15
FLAGS = {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "17000"}]}, "Memory": 64 << 20, "Binds": ["/tmp:/m"]}, "User": "1000", "ExposedPorts": {"80/tcp": {}}}


def timed(work):
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def sample(count, work, pause=0.0, warm=3):
    for _ in range(warm):
        work()
    samples = []
    for _ in range(count):
        if pause:
            time.sleep(pause)
        samples.append(timed(work))
    return samples


def one_life(api, extra=None):
    """create, start, wait and remove of `true`."""
    body = {"Image": "busybox:test", "Cmd": ["true"], **(extra or {})}
    container = api.call("POST", "/containers/create", body)["Id"]
    api.call("POST", f"/containers/{container}/start")
    code = api.call("POST", f"/containers/{container}/wait")["StatusCode"]
    api.call("DELETE", f"/containers/{container}")
    if code:
        raise RuntimeError(f"true ended with {code}")


def steps_of_life(api, count, pause):
    """Returns the medians of each step, to tell where the time goes."""
    steps = {"create": [], "start": [], "wait": [], "remove": []}
    for _ in range(count):
        time.sleep(pause)
        made = {}
        body = {"Image": "busybox:test", "Cmd": ["true"]}
        steps["create"].append(timed(lambda: made.update(api.call("POST", "/containers/create", body))))
        path = "/containers/" + made["Id"]
        steps["start"].append(timed(lambda: api.call("POST", path + "/start")))
        steps["wait"].append(timed(lambda: api.call("POST", path + "/wait")))
        steps["remove"].append(timed(lambda: api.call("DELETE", path)))
    return ", ".join(f"{name} {statistics.median(samples):.2f}" for name, samples in steps.items())


def measure_lifecycle(bench):
    ours, theirs = Api(bench.naru.socket), Api(bench.docker.socket)
    for what, pause, network in (("isolated, bridge", ISOLATED_SECONDS, "bridge"), ("hot, bridge", 0, "bridge"), ("isolated, no network", ISOLATED_SECONDS, "none"), ("hot, no network", 0, "none")):
        extra = {"HostConfig": {"NetworkMode": network}}
        naru = sample(bench.samples, lambda: one_life(ours, extra), pause)
        docker = sample(bench.samples, lambda: one_life(theirs, extra), pause)
        bench.report.compare(f"API life of true, {what}", naru, {"docker": docker}, target="30 x, 3 ms" if what == "isolated, bridge" else None)
    bench.report.add("steps, isolated", steps_of_life(ours, bench.samples, ISOLATED_SECONDS) + " ms")


def measure_flags(bench):
    ours, theirs = Api(bench.naru.socket), Api(bench.docker.socket)
    naru = sample(bench.samples, lambda: one_life(ours, FLAGS), ISOLATED_SECONDS)
    docker = sample(bench.samples, lambda: one_life(theirs, FLAGS), ISOLATED_SECONDS)
    bench.report.compare("API life with -p -m -v --user", naru, {"docker": docker}, target="15 x")


def measure_row64(bench):
    """64 lives without a pause, after a rest: is there a cliff when nothing is parked any more?"""
    api = Api(bench.naru.socket)
    one_life(api)
    time.sleep(1)
    lives = [timed(lambda: one_life(api)) for _ in range(64)]
    early, late = statistics.median(lives[:8]), statistics.median(lives[-16:])
    bench.report.add("64 lives in a row: first 8, last 16, worst", f"{early:.2f}, {late:.2f}, {max(lives):.2f} ms", ratio=f"{late / early:.1f} x")
    made = [api.create(["true"]) for _ in range(64)]
    time.sleep(1)
    starts = [timed(lambda name=name: api.start(name)) for name in made]
    for name in made:
        api.remove(name)
    bench.report.add("64 starts of created ones: first 8, last 16, worst", f"{statistics.median(starts[:8]):.2f}, {statistics.median(starts[-16:]):.2f}, {max(starts):.2f} ms")


def measure_cli(bench):
    results = {}
    for name, engine, program in (("naru", bench.naru, None), ("docker", bench.docker, "/usr/bin/docker"), ("docker 28 client on naru", bench.naru, "/usr/local/bin/docker")):
        client = program or engine.default_client()
        if os.path.exists(client):
            command = engine.scope.command(client, "-H", engine.host, "run", "--rm", "busybox:test", "true")
            results[name] = sample(bench.samples, lambda command=command: run_quietly(command), ISOLATED_SECONDS)
    podman = podman_samples(bench)
    others = {name: samples for name, samples in {**results, **podman}.items() if name != "naru"}
    bench.report.compare("run --rm of true, whole process", results["naru"], others, target="20 x")


def podman_samples(bench):
    if not shutil.which("podman"):
        return {}
    scope = Scope()
    base = tempfile.mkdtemp(prefix="naru-podman-", dir="/tmp")
    podman = ["podman", "--root", base + "/root", "--runroot", base + "/run", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--tmpdir", base + "/tmp"]
    try:
        run_quietly(scope.command(*podman, "load", "-qi", bench.images + "/busybox.tar"))
        command = scope.command(*podman, "run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "busybox:test", "true")
        try:
            return {"podman": sample(bench.samples, lambda: run_quietly(command), ISOLATED_SECONDS)}
        except subprocess.CalledProcessError:
            command = scope.command(*podman, "run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "none", "busybox:test", "true")
            return {"podman, no network": sample(bench.samples, lambda: run_quietly(command), ISOLATED_SECONDS)}
    except subprocess.CalledProcessError as error:
        print(f"    podman does not run here: {error.stderr[-300:]}")
        return {}
    finally:
        scope.close()
        shutil.rmtree(base, ignore_errors=True)


def run_quietly(command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def measure_exec(bench):
    results = {}
    for engine in (bench.naru, bench.docker):
        api = Api(engine.socket)
        container = api.create(["sleep", "1000"])
        api.start(container)
        for what, pause in (("isolated", ISOLATED_SECONDS), ("hot", 0)):
            results[engine.name, what] = sample(bench.samples, lambda: api.exec(container, ["true"]), pause)
        api.remove(container)
        api.close()
    for what, target in (("isolated", "20 x"), ("hot", None)):
        bench.report.compare(f"exec of true over the API, {what}", results["naru", what], {"docker": results["docker", what]}, target=target)


def measure_runtimes(bench):
    """The whole API life against the bare runtimes' `run`, which has no network and no image."""
    ours = Api(bench.naru.socket)
    for what, pause in (("isolated", ISOLATED_SECONDS), ("hot", 0)):
        naru = sample(bench.samples, lambda: one_life(ours), pause)
        others = {}
        for runtime in ("runc", "crun"):
            if shutil.which(runtime):
                try:
                    with Bundle(bench, runtime) as bundle:
                        others[runtime + " run"] = sample(bench.samples, bundle.run, pause)
                except subprocess.CalledProcessError as error:
                    print(f"    {runtime} does not run here: {error.stderr[-300:].strip()}")
        bench.report.compare(f"API life, bridge, against a bare runtime, {what}", naru, others, target="not slower")


class Bundle:
    """An OCI bundle of busybox for a bare runtime."""

    def __init__(self, bench, runtime):
        self.runtime = runtime
        self.base = tempfile.mkdtemp(prefix="naru-bundle-", dir="/tmp")
        root = self.base + "/rootfs"
        os.mkdir(root)
        with tempfile.TemporaryDirectory() as work:
            subprocess.run(["tar", "-xf", bench.images + "/busybox.tar", "-C", work], check=True)
            for folder, _, files in os.walk(work):
                if "layer.tar" in files:
                    subprocess.run(["tar", "-xf", folder + "/layer.tar", "-C", root], check=True)
        subprocess.run(["runc", "spec"], cwd=self.base, check=True)
        with open(self.base + "/config.json") as file:
            config = json.load(file)
        config["process"].update(terminal=False, args=["true"])
        config["process"].pop("rlimits", None)
        with open(self.base + "/config.json", "w") as file:
            json.dump(config, file)
        self.number = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.base, ignore_errors=True)

    def run(self):
        self.number += 1
        name = f"naru-bench-{os.getpid()}-{self.number}"
        run_quietly([self.runtime, "--root", self.base + "/state", "run", "--bundle", self.base, name])


def start_many(engine, count, clients, first_port=None):
    """Creates and starts containers from parallel clients; returns the seconds it took, their names and each one's time."""
    numbers = iter(range(count))
    lock = threading.Lock()
    made, errors = {}, []

    def work():
        api = Api(engine.socket)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            host = {"PortBindings": {"80/tcp": [{"HostPort": str(first_port + number)}]}} if first_port else {}
            began = time.perf_counter()
            try:
                container = api.create(["sleep", "100000"], host=host, ExposedPorts={"80/tcp": {}})
                api.start(container)
            except Exception as error:
                errors.append(error)
                return
            made[number] = (container, (time.perf_counter() - began) * 1000)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if errors:
        raise errors[0]
    return seconds, [made[n][0] for n in range(count)], [made[n][1] for n in range(count)]


def remove_many(engine, names, clients=8):
    pending = list(names)
    lock = threading.Lock()

    def work():
        api = Api(engine.socket)
        while True:
            with lock:
                if not pending:
                    return
                name = pending.pop()
            api.remove(name)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def measure_many(bench):
    counts = {}
    for engine, count in ((bench.naru, 200), (bench.docker, 60)):
        seconds, names, _ = start_many(engine, count, 16)
        counts[engine.name] = count / seconds
        removal = remove_many(engine, names)
        bench.report.add(f"removal of {count} running, {engine.name}", f"{count / removal:.0f}/s")
    bench.report.add("200 containers from 16 clients", f"{counts['naru']:.0f}/s", f"docker (60) {counts['docker']:.0f}/s", f"{counts['naru'] / counts['docker']:.1f} x", "150/s")


def measure_ports(bench):
    _, names, times = start_many(bench.naru, 200, 1, first_port=20000)
    remove_many(bench.naru, names)
    first, last = statistics.median(times[:20]), statistics.median(times[-20:])
    bench.report.add("create+start with a published port: first 20, last 20 of 200", f"{first:.2f}, {last:.2f} ms", ratio=f"{last / first:.2f} x", target="1.2 x")


def available_kib():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))


def settled_available():
    """Page cache of files is dropped, so that what is left is what processes and the kernel hold."""
    subprocess.run(["sync"], check=True)
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
    time.sleep(3)
    return statistics.median(available_kib() for _ in range(5))


def measure_memory(bench):
    each = {}
    for engine, count in ((bench.naru, 200), (bench.docker, 40)):
        _, names, _ = start_many(engine, 3, 1)
        remove_many(engine, names)
        time.sleep(1)
        before = settled_available()
        _, names, _ = start_many(engine, count, 4)
        time.sleep(2)
        each[engine.name] = (before - settled_available()) / 1024 / count
        remove_many(engine, names)
    bench.report.add("memory of one idle container, of 200", f"{each['naru']:.2f} MiB", f"docker (40) {each['docker']:.2f} MiB", f"{each['docker'] / each['naru']:.1f} x", "1 MiB")


def rollup(pid):
    """Returns resident and proportional memory in MiB."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        values = {line.split()[0]: int(line.split()[1]) for line in file if line.startswith(("Rss:", "Pss:"))}
    return values["Rss:"] / 1024, values["Pss:"] / 1024


def measure_daemon(bench):
    engine = bench.new_engine(Naru)
    try:
        engine.stop()
        ready = []
        for _ in range(bench.samples):
            ready.append(engine.start() * 1000)
            engine.stop()
        bench.report.add("daemon ready, nsenter included", f"{statistics.median(ready):.1f} ms", target="50 ms")
        engine.start()
        time.sleep(2)
        resident, proportional = rollup(engine.process.pid)
        bench.report.add("daemon idle: RSS, PSS", f"{resident:.1f}, {proportional:.1f} MiB", target="30 MB")
        measure_restore(bench, engine)
        time.sleep(1)
        resident, proportional = rollup(engine.process.pid)
        bench.report.add("daemon with 1,000 restored: RSS, PSS", f"{resident:.1f}, {proportional:.1f} MiB")
    finally:
        names = engine.client("ps", "-aq").stdout.split() if engine.process else []
        remove_many(engine, names)
        engine.close()


def measure_list(bench, engine):
    """All of a thousand containers over the API, and by the command line."""
    api = Api(engine.socket)
    # What the client makes of the answer is not the daemon's time.
    listed = sample(bench.samples, lambda: api.request("GET", "/containers/json?all=1"))
    size = len(api.request("GET", "/containers/json?all=1")[1])
    api.close()
    bench.report.add("list of 1,000 containers", f"{statistics.median(listed):.2f} ms, {size >> 10} KiB", target="10 ms")
    shown = sample(bench.samples, lambda: engine.client("ps", "-aq"))
    bench.report.add("ps -aq of 1,000, whole process, nsenter included", f"{statistics.median(shown):.2f} ms")


def measure_restore(bench, engine):
    """900 running and 100 stopped; the bridge takes 1,023, so half of them are without a network."""
    api = Api(engine.socket)
    for number in range(1000):
        host = {"NetworkMode": "none" if number % 2 else "bridge"}
        command = ["true"] if number % 10 == 0 else ["sleep", "100000"]
        api.start(api.create(command, host=host))
    api.close()
    seconds = []
    for _ in range(5):
        engine.kill9()
        seconds.append(engine.start())
        count = len(Api(engine.socket).call("GET", "/containers/json?all=1"))
        if count != 1000:
            raise RuntimeError(f"{count} containers after a restart")
    measure_list(bench, engine)
    bench.report.add("restore of 1,000 containers, 900 running", f"{statistics.median(seconds) * 1000:.0f} ms", target="1,000 ms")


MEASURES = {
    "lifecycle": measure_lifecycle,
    "flags": measure_flags,
    "row64": measure_row64,
    "cli": measure_cli,
    "exec": measure_exec,
    "runtimes": measure_runtimes,
    "many": measure_many,
    "ports": measure_ports,
    "memory": measure_memory,
    "daemon": measure_daemon,
    "pull": measure_pull,
    "load": measure_load,
    "build": measure_build,
}
