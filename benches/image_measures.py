"""Pull and load of the real Debian image, against Docker and against the machine's own floor.

Each engine has a registry of its own, Debian's, on loopback, and a disk of its own: an ext4 with a journal, as hosts
have it, on a loop device without a second cache. On the machine's own filesystem, whatever it is, one engine's removals
would slow down the next one's pull: an ext4 without a journal avoids inodes deleted within the last 35 s, one by one.
Samples are taken in turns, so that what disturbs the machine disturbs all.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time

from testkit.engine import DebianDocker, Naru
from testkit.registry import DebianRegistry

REGISTRY = "127.0.0.1:5900"
IMAGE = REGISTRY + "/debian:test"
LOADED = "debian:test"
DISK_BYTES = 6 << 30
# The same client for both engines, so that its own cost is no difference.
CLIENT = "/usr/local/bin/docker" if os.path.exists("/usr/local/bin/docker") else "/usr/bin/docker"


class EngineOnDisk:
    """An engine with its data root on a disk of its own."""

    def __init__(self, kind):
        self.engine = kind(label="b")
        self.scope = self.engine.scope
        self.disk = tempfile.NamedTemporaryFile(prefix="naru-disk-", dir="/tmp")
        try:
            self.mount()
            self.engine.start()
        except BaseException:
            self.close()
            raise

    def mount(self):
        os.posix_fallocate(self.disk.fileno(), 0, DISK_BYTES)
        complete("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.disk.name)
        device = complete("losetup", "--find", "--show", "--direct-io=on", self.disk.name).strip()
        try:
            must(self.scope.run("mount", device, self.engine.data_root))
        finally:
            # It goes when it is no longer mounted.
            complete("losetup", "--detach", device)

    def client(self, *arguments):
        return must(self.engine.client(*arguments, program=CLIENT, timeout=300))

    def forget_images(self):
        """Removes what was pulled or loaded, and lets the disk come to rest."""
        self.engine.client("rmi", "-f", IMAGE, LOADED, program=CLIENT)
        settle()

    def close(self):
        self.engine.close()
        self.disk.close()


def complete(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def must(done):
    if done.returncode:
        raise RuntimeError(f"{done.args}: {done.stdout}{done.stderr}")
    return done.stdout


def settle():
    os.sync()
    time.sleep(1)


def seconds_of(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def count_of(bench):
    """A sample takes seconds; seven tell the median well enough."""
    return max(3, min(bench.samples, 7))


def measure_pull(bench):
    engines = []
    registries = []
    try:
        for kind in (Naru, DebianDocker):
            engines.append(EngineOnDisk(kind))
            registries.append(DebianRegistry(engines[-1].scope, REGISTRY))
            must(engines[-1].scope.run(
                "skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci-archive:{bench.images}/debian-oci.tar",
                f"docker://{IMAGE}", timeout=120))
        naru, docker = engines
        samples = {"naru": [], "docker": [], "floor": []}
        for _ in range(count_of(bench)):
            samples["naru"].append(pull_once(naru))
            samples["docker"].append(pull_once(docker))
            samples["floor"].append(plain_pull(naru))
        megabytes = sum(layer["size"] for layer in fetch_manifest(naru)["layers"]) / 1e6
        others = {"docker": samples["docker"], "curl, gzip -d, tar -x, two layers at once": samples["floor"]}
        report(bench, f"cold pull of debian, {megabytes:.0f} MB gzip", samples["naru"], others, ("2 x", "0.5 x"))
    finally:
        for registry in registries:
            registry.close()
        for engine in engines:
            engine.close()


def measure_load(bench):
    path = bench.images + "/debian.tar"
    engines = []
    try:
        for kind in (Naru, DebianDocker):
            engines.append(EngineOnDisk(kind))
        naru, docker = engines
        samples = {"naru": [], "docker": [], "floor": []}
        with tempfile.TemporaryDirectory(prefix="naru-layers-", dir="/tmp") as folder:
            complete("tar", "-xf", path, "-C", folder)
            with open(path, "rb") as file:
                # Into the page cache.
                while file.read(1 << 20):
                    pass
            for _ in range(count_of(bench)):
                samples["naru"].append(load_once(naru, path))
                samples["docker"].append(load_once(docker, path))
                samples["floor"].append(plain_untar(naru, folder))
        megabytes = os.path.getsize(path) / 1e6
        others = {"docker": samples["docker"], "tar -x, two layers at once": samples["floor"]}
        report(bench, f"load of debian, {megabytes:.0f} MB plain", samples["naru"], others, ("", "0.5 x"))
        speed = megabytes / statistics.median(samples["naru"])
        bench.report.add("load of debian, speed", f"{speed:.0f} MB/s", target="200 MB/s")
    finally:
        for engine in engines:
            engine.close()


def report(bench, what, naru, others, targets):
    """Rows of medians; how far the samples lie apart is told as well."""
    ours = statistics.median(naru)
    for (name, samples), target in zip(others.items(), targets):
        theirs = statistics.median(samples)
        bench.report.add(
            what, f"{ours:.2f} s ({min(naru):.2f}–{max(naru):.2f})",
            f"{name} {theirs:.2f} s ({min(samples):.2f}–{max(samples):.2f})", f"{theirs / ours:.1f} x", target)


def pull_once(engine):
    """Seconds for one pull into an engine without the image."""
    engine.forget_images()
    return seconds_of(lambda: engine.client("pull", "-q", IMAGE))


def load_once(engine, path):
    engine.forget_images()
    return seconds_of(lambda: engine.client("load", "-qi", path))


def fetch_manifest(engine):
    accept = "Accept: application/vnd.oci.image.manifest.v1+json"
    return json.loads(must(engine.scope.run("curl", "-sf", "-H", accept, f"http://{REGISTRY}/v2/debian/manifests/test")))


def plain_pull(engine):
    """Seconds to fetch, inflate and untar every layer into a folder each, on the same disk, and to sync that."""
    layers = [layer["digest"] for layer in fetch_manifest(engine)["layers"]]
    one = f"mkdir $0 && curl -sf http://{REGISTRY}/v2/debian/blobs/$0 | tar -xz --numeric-owner -C $0"
    return plain(engine, layers, one)


def plain_untar(engine, folder):
    """Seconds to untar every layer of an unpacked archive, and to sync that."""
    layers = [name for name in os.listdir(folder) if os.path.exists(f"{folder}/{name}/layer.tar")]
    layers.sort(key=lambda name: -os.path.getsize(f"{folder}/{name}/layer.tar"))
    return plain(engine, layers, f"mkdir $0 && tar -xf {folder}/$0/layer.tar --numeric-owner -C $0")


def plain(engine, layers, one):
    place = engine.engine.data_root + "/floor"
    must(engine.scope.run("mkdir", place))
    settle()
    script = f"set -o pipefail; cd {place}; printf '%s\\n' {' '.join(layers)} | xargs -P2 -n1 bash -o pipefail -c '{one}' && sync -f ."
    try:
        return seconds_of(lambda: must(engine.scope.shell(script)))
    finally:
        must(engine.scope.run("rm", "-r", place))
