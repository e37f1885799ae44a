"""An engine with a registry beside it, as a client's scenario finds it, and what makes two engines' answers comparable.

A scenario is a function that takes a `World`, checks what it promises by itself, and may return facts. It runs on
Debian's Docker first; what passes there must pass on Naru, with the same facts.
"""

import contextlib
import hashlib
import json
import os
import sys
import time

import docker
from testkit.engine import ROOT
from testkit.registry import DebianRegistry

IMAGE = "busybox:test"
REGISTRY = "127.0.0.1:5000"


class World:
    """One engine and Debian's docker-registry, in the same network namespace."""

    def __init__(self, engine):
        self.engine = engine
        self.is_naru = engine.name == "naru"
        self.registry = DebianRegistry(engine.scope)
        self.client = docker.DockerClient(base_url=engine.host, version="auto", timeout=60)
        self.api = self.client.api

    def close(self):
        self.client.close()
        self.registry.close()

    @contextlib.contextmanager
    def clean(self):
        """Whatever happens inside, the engine is left as it was found."""
        networks = {network["Id"] for network in self.api.networks()}
        images = {image["Id"]: image["RepoTags"] or [] for image in self.api.images()}
        try:
            yield
        finally:
            self.engine.remove_all_containers()
            for network in self.api.networks():
                if network["Id"] not in networks:
                    self.api.remove_network(network["Id"])
            for volume in self.api.volumes()["Volumes"] or []:
                self.api.remove_volume(volume["Name"], force=True)
            self.remove_other_images(images)

    def remove_other_images(self, kept):
        for image in self.api.images():
            names = image["RepoTags"] or []
            if image["Id"] not in kept:
                self.api.remove_image(image["Id"], force=True)
                continue
            for name in set(names) - set(kept[image["Id"]]):
                self.api.remove_image(name)

    def sleeping(self, **options):
        """A container that sleeps until it is removed."""
        return self.client.containers.run(IMAGE, ["sleep", "1000"], detach=True, **{"network_mode": "none", **options})


def proved_before(name, sources):
    """Where the proof is kept that this scenario passed on Debian's Docker: its facts. Changes with what made it."""
    digest = hashlib.sha256(json.dumps([name, docker.__version__, sys.version]).encode())
    for source in sources:
        with open(source, "rb") as file:
            digest.update(file.read())
    return os.path.join(ROOT, "target", "reference", f"client-{digest.hexdigest()[:24]}.json")


def prove(scenario, sources, reference):
    """Runs the scenario on Debian's Docker, unless it did pass there as it is now. Returns its facts and calls."""
    path = proved_before(scenario.__name__, sources)
    if os.path.exists(path):
        with open(path) as file:
            return json.load(file)
    facts = run(scenario, reference())
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".partial", "w") as file:
        json.dump(facts, file)
    os.rename(path + ".partial", path)
    return json.loads(json.dumps(facts))


def run(scenario, world):
    with world.clean():
        return scenario(world)


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.02)
    return value


def shape(value):
    """What fields a document has and of what kind: `{"Id": "string", "Ports": [{"IP": "string"}]}`."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        merged = None
        for inner in value:
            merged = merge(merged, shape(inner))
        return [] if merged is None else [merged]
    if value is None:
        return None
    return {bool: "boolean", int: "number", float: "number", str: "string"}[type(value)]


def merge(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: merge(one.get(key), other.get(key)) for key in sorted({*one, *other})}
    return other if one is None else one


def missing(wanted, found, path=""):
    """Names what `wanted` has and `found` lacks. Null stands for any kind: what is empty shows no kind."""
    if wanted is None or found is None:
        return []
    if isinstance(wanted, dict) and isinstance(found, dict):
        lost = [f"{path}.{key}" for key in wanted if key not in found]
        for key in wanted.keys() & found.keys():
            lost += missing(wanted[key], found[key], f"{path}.{key}")
        return sorted(lost)
    if isinstance(wanted, list) and isinstance(found, list):
        return missing(wanted[0], found[0], path + "[]") if wanted and found else []
    return [] if wanted == found else [f"{path}: {wanted} became {found}"]


def differences(proved, found):
    """Facts must be equal; of a document, which a name beginning with `shape` says, no field may be missing."""
    if not isinstance(proved, dict):
        return {} if proved == found else {"docker": proved, "naru": found}
    apart = {}
    for name in sorted({*proved, *found}):
        if name.startswith("shape"):
            if lost := missing(proved[name], found[name]):
                apart[name] = lost
        elif proved.get(name) != found.get(name):
            apart[name] = {"docker": proved.get(name), "naru": found.get(name)}
    return apart
