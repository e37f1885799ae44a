"""Registries for the tests: Debian's docker-registry, and a small one of our own that misbehaves as it is told.

Both listen inside a `Scope`. The small one is steered by files, since the tests live in another network namespace.
"""

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


class DebianRegistry:
    """Debian's docker-registry on 127.0.0.1 of a scope, or with a certificate on another address."""

    def __init__(self, scope, address="127.0.0.1:5000", http="", auth=""):
        self.scope = scope
        self.host = address
        self.base = tempfile.mkdtemp(prefix="naru-t-registry-", dir="/tmp")
        with open(self.base + "/config.yml", "w") as file:
            file.write(
                "version: 0.1\nlog: {level: error}\n"
                f"storage: {{filesystem: {{rootdirectory: {self.base}/data}}}}\n"
                f"http: {{addr: '{address}'{http}}}\n{auth}")
        self.process = subprocess.Popen(
            scope.command("docker-registry", "serve", self.base + "/config.yml"), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=open(self.base + "/log", "wb"))
        wait_for_port(scope, address)

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.base, ignore_errors=True)


def wait_for_port(scope, address):
    host, port = address.rsplit(":", 1)
    for _ in range(200):
        if scope.shell(f"exec 3<>/dev/tcp/{host}/{port}").returncode == 0:
            return
        time.sleep(0.05)
    raise RuntimeError(f"nobody listens on {address}")


class FakeRegistry:
    """Serves what `content` holds; `rules` say how it misbehaves, `requests` what was asked of it."""

    def __init__(self, scope, address="127.0.0.1:5100", token_server=None):
        self.host = address
        self.base = tempfile.mkdtemp(prefix="naru-t-fake-", dir="/tmp")
        self.blobs = {}
        self.manifests = {}
        self.set_rules([])
        arguments = [sys.executable, HERE + "/fake_registry.py", self.base, address]
        if token_server:
            arguments.append(token_server)
        self.process = subprocess.Popen(scope.command(*arguments), stdin=subprocess.DEVNULL)
        wait_for_port(scope, address)

    def close(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.base, ignore_errors=True)

    def set_rules(self, rules):
        """Each rule: `match`, a part of the path; `times`, how often (-1 always); and what to do."""
        partial = self.base + "/rules.partial"
        with open(partial, "w") as file:
            json.dump({"serial": time.monotonic_ns(), "rules": rules}, file)
        os.rename(partial, self.base + "/rules.json")

    def requests(self):
        try:
            with open(self.base + "/requests") as file:
                return [json.loads(line) for line in file]
        except FileNotFoundError:
            return []

    def forget_requests(self):
        if os.path.exists(self.base + "/requests"):
            os.truncate(self.base + "/requests", 0)

    def bytes_sent(self, part):
        return sum(request.get("sent", 0) for request in self.requests() if part in request["path"])

    def put_blob(self, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        with open(f"{self.base}/{digest}", "wb") as file:
            file.write(data)
        return digest

    def put_manifest(self, name, tag, manifest, media_type=None):
        data = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        media_type = media_type or json.loads(data).get("mediaType", MANIFEST)
        for reference in (tag, digest):
            path = f"{self.base}/manifests/{name}/{reference}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(media_type.encode() + b"\n" + data)
        return digest

    def put_image(self, name, tag, image):
        """Stores an `Image`; returns its manifest's digest."""
        for data in image.blobs:
            self.put_blob(data)
        return self.put_manifest(name, tag, image.manifest)


class Image:
    """A small image: busybox, and layers of bytes that do not compress."""

    def __init__(self, sizes=(100_000,), seed=1, compression="gzip", architecture="amd64", binary=True):
        layers = [tar_of({"bin/sh": open("/bin/busybox", "rb").read()})] if binary else []
        for number, size in enumerate(sizes):
            layers.append(tar_of({f"data{number}": random.Random(seed * 1000 + number).randbytes(size)}))
        self.layers = [compress(layer, compression) for layer in layers]
        suffix = {"gzip": "+gzip", "zstd": "+zstd", "plain": ""}[compression]
        self.config = json.dumps({
            "architecture": architecture, "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Labels": {"seed": str(seed)}},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]},
        }).encode()
        self.blobs = [self.config, *self.layers]
        self.manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, self.config),
            "layers": [descriptor(LAYER + suffix, layer) for layer in self.layers],
        }

    def digest(self, layer):
        return self.manifest["layers"][layer]["digest"]


def descriptor(media_type, data):
    return {"mediaType": media_type, "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}


def compress(data, compression):
    if compression == "gzip":
        return gzip.compress(data, compresslevel=1, mtime=0)
    if compression == "zstd":
        return subprocess.run(["zstd", "-q", "-1"], input=data, capture_output=True, check=True).stdout
    return data


def tar_of(files):
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return output.getvalue()
