"""A context of 10,000 small files on the real Debian image: built anew, again, and with one file changed.

Debian's Docker builds by its classic builder and by its BuildKit, with Docker's own client; Naru by its own client and by
Docker's; buildah by itself. Samples are taken in turns.
"""

import os
import random
import statistics
import subprocess
import tempfile
import time

from testkit.engine import NARU

DOCKERFILE = "FROM debian:test\nCOPY . /app\nRUN find /app -type f | wc -l >/count\n"
CLIENT = "/usr/bin/docker"


def write_context(folder):
    """10,000 files of 200 to 4,000 bytes in 100 directories, the same at every run."""
    dice = random.Random(1)
    for directory in range(100):
        os.makedirs(f"{folder}/d{directory}")
        for number in range(100):
            with open(f"{folder}/d{directory}/f{number}.txt", "w") as file:
                file.write("".join(dice.choices("abcdefgh \n", k=dice.randint(200, 4000))))
    with open(folder + "/Dockerfile", "w") as file:
        file.write(DOCKERFILE)


def builders(bench, folder, state):
    """Each builder's command, by its name."""
    naru, docker = bench.naru, bench.docker
    naru.load(bench.images + "/debian.tar")
    docker.load(bench.images + "/debian.tar")

    def by_docker(engine, kit):
        return lambda *flags: engine.scope.run(CLIENT, "-H", engine.host, "build", *flags, folder, timeout=300, env={**os.environ, "DOCKER_BUILDKIT": kit})

    storage = ["--root", state + "/root", "--runroot", state + "/run", "--storage-driver", "overlay"]
    pulled = subprocess.run(["buildah", *storage, "pull", "-q", f"docker-archive:{bench.images}/debian.tar"], capture_output=True, text=True)
    found = {
        "naru": lambda *flags: naru.scope.run(NARU, "-H", naru.host, "build", *flags, folder, timeout=300),
        "naru by docker's client": by_docker(naru, "0"),
        "naru by docker's client, BuildKit": by_docker(naru, "1"),
        "docker": by_docker(docker, "0"),
        "docker's BuildKit": by_docker(docker, "1"),
    }
    if pulled.returncode == 0:
        command = ["buildah", *storage, "build", "--isolation", "chroot", "--layers", "-q"]
        found["buildah"] = lambda *flags: subprocess.run([*command, *flags, folder], capture_output=True, text=True, timeout=300)
    return found


def measure_build(bench):
    count = max(3, min(bench.samples, 7))
    with tempfile.TemporaryDirectory(prefix="naru-context-") as folder, tempfile.TemporaryDirectory(prefix="naru-buildah-") as state:
        write_context(folder)
        found = builders(bench, folder, state)
        ways = {"cold": ("--no-cache",), "cached": (), "one file changed": ()}
        samples = {way: {name: [] for name in found} for way in ways}
        for number in range(count):
            for way, flags in ways.items():
                for name, work in found.items():
                    if way == "one file changed":
                        # Anew for each: several of them share Naru's cache.
                        with open(folder + "/d50/f50.txt", "w") as file:
                            file.write(f"changed {number} for {name}")
                    began = time.perf_counter()
                    done = work(*flags)
                    samples[way][name].append(time.perf_counter() - began)
                    if done.returncode:
                        raise RuntimeError(f"{name}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        targets = {"cold": "2 x", "cached": "10 x", "one file changed": "5 x"}
        for way, times in samples.items():
            ours = times.pop("naru")
            best = min(times, key=lambda name: statistics.median(times[name]) if not name.startswith("naru") else float("inf"))
            for name, theirs in times.items():
                bench.report.compare(f"build, 10,000 files, {way}", ours, {name: theirs}, "s", targets[way] if name == best else None)
