"""Every endpoint that Docker 20.10 has, with what a client of each version finds in the answer."""

import json
import re

from testkit.api import Api
from world import IMAGE, shape

# The oldest version, one of 2017, and Docker 20.10's own.
VERSIONS = ["1.24", "1.30", "1.41"]

# Name: method, path, body. Names in braces are put in.
READING = {
    "ping": ("GET", "/_ping", None), "ping head": ("HEAD", "/_ping", None), "version": ("GET", "/version", None), "info": ("GET", "/info", None),
    "events": ("GET", "/events?since=1&until=2", None), "disk usage": ("GET", "/system/df", None),
    "container list": ("GET", "/containers/json?all=1&size=1", None), "container inspect": ("GET", "/containers/{running}/json?size=1", None),
    "inspect of an ended one": ("GET", "/containers/{ended}/json", None), "inspect of none": ("GET", "/containers/nosuch/json", None),
    "top": ("GET", "/containers/{running}/top", None), "top of an ended one": ("GET", "/containers/{ended}/top", None),
    "logs": ("GET", "/containers/{ended}/logs?stdout=1", None), "logs of nothing": ("GET", "/containers/{ended}/logs", None),
    "stats": ("GET", "/containers/{running}/stats?stream=0", None), "stats of an ended one": ("GET", "/containers/{ended}/stats?stream=0", None),
    "one shot": ("GET", "/containers/{running}/stats?stream=0&one-shot=1", None), "changes": ("GET", "/containers/{ended}/changes", None),
    "export": ("GET", "/containers/{ended}/export", None), "archive head": ("HEAD", "/containers/{ended}/archive?path=/bin", None),
    "archive": ("GET", "/containers/{ended}/archive?path=/made", None), "archive of nothing": ("GET", "/containers/{ended}/archive?path=/nosuch", None),
    "archive without a path": ("GET", "/containers/{ended}/archive", None), "exec inspect": ("GET", "/exec/{exec}/json", None), "exec inspect of none": ("GET", "/exec/nosuch/json", None),
    "image list": ("GET", "/images/json", None), "image list with digests": ("GET", "/images/json?digests=1&all=1", None), "image inspect": ("GET", "/images/{image}/json", None),
    "image history": ("GET", "/images/{image}/history", None), "image inspect of none": ("GET", "/images/nosuch/json", None), "image save": ("GET", "/images/{image}/get", None),
    "images save": ("GET", "/images/get?names={image}", None), "network list": ("GET", "/networks", None), "network inspect": ("GET", "/networks/{network}", None),
    "network inspect verbosely": ("GET", "/networks/{network}?verbose=true", None), "network of none": ("GET", "/networks/nosuch", None), "volume list": ("GET", "/volumes", None),
    "volume inspect": ("GET", "/volumes/{volume}", None), "volume of none": ("GET", "/volumes/nosuch", None), "plugin list": ("GET", "/plugins", None),
    "swarm": ("GET", "/swarm", None), "nodes": ("GET", "/nodes", None), "services": ("GET", "/services", None), "tasks": ("GET", "/tasks", None),
    "secrets": ("GET", "/secrets", None), "configs": ("GET", "/configs", None), "unlock key": ("GET", "/swarm/unlockkey", None), "no such path": ("GET", "/nosuch", None),
    "no such method": ("PATCH", "/info", None),
}
WRITING = {
    "create": ("POST", "/containers/create?name=one", {"Image": IMAGE, "Cmd": ["sleep", "1000"], "Tty": True}), "create it again": ("POST", "/containers/create?name=one", {"Image": IMAGE}),
    "create of no image": ("POST", "/containers/create", {"Image": "nosuch:image"}), "create of nothing": ("POST", "/containers/create", {}),
    "update": ("POST", "/containers/one/update", {"CpuShares": 100}), "rename": ("POST", "/containers/one/rename?name=two", None),
    "rename to nothing": ("POST", "/containers/two/rename?name=", None), "start": ("POST", "/containers/two/start", None), "start it again": ("POST", "/containers/two/start", None),
    "resize": ("POST", "/containers/two/resize?h=10&w=20", None), "resize wrongly": ("POST", "/containers/two/resize?h=x&w=20", None),
    "pause": ("POST", "/containers/two/pause", None), "unpause": ("POST", "/containers/two/unpause", None), "unpause again": ("POST", "/containers/two/unpause", None),
    "restart": ("POST", "/containers/two/restart?t=0", None), "exec": ("POST", "/containers/two/exec", {"Cmd": ["true"]}), "exec of nothing": ("POST", "/containers/two/exec", {}),
    "exec resize of none": ("POST", "/exec/nosuch/resize?h=1&w=1", None), "exec start of none": ("POST", "/exec/nosuch/start", {"Detach": False}),
    "kill": ("POST", "/containers/two/kill?signal=KILL", None), "kill again": ("POST", "/containers/two/kill", None),
    "kill by nothing": ("POST", "/containers/{running}/kill?signal=NOSUCH", None), "stop what has stopped": ("POST", "/containers/two/stop", None),
    "commit": ("POST", "/commit?container=two&repo=endpoint&tag=one", {}), "commit of none": ("POST", "/commit?container=nosuch", {}),
    "remove": ("DELETE", "/containers/two", None), "remove again": ("DELETE", "/containers/two", None), "remove what runs": ("DELETE", "/containers/{running}", None),
    "prune containers": ("POST", "/containers/prune?filters=%7B%22label%22%3A%5B%22nosuch%22%5D%7D", None),
    "tag": ("POST", "/images/{image}/tag?repo=endpoint&tag=two", None), "tag wrongly": ("POST", "/images/{image}/tag?repo=END", None), "untag": ("DELETE", "/images/endpoint:two", None),
    "remove image": ("DELETE", "/images/endpoint:one", None), "remove no image": ("DELETE", "/images/nosuch", None), "remove a used image": ("DELETE", "/images/{image}", None),
    "prune images": ("POST", "/images/prune", None), "network": ("POST", "/networks/create", {"Name": "made"}), "network again": ("POST", "/networks/create", {"Name": "made", "CheckDuplicate": True}),
    "connect": ("POST", "/networks/made/connect", {"Container": "{lone}"}), "connect again": ("POST", "/networks/made/connect", {"Container": "{lone}"}),
    "disconnect": ("POST", "/networks/made/disconnect", {"Container": "{lone}"}), "disconnect again": ("POST", "/networks/made/disconnect", {"Container": "{lone}"}),
    "remove network": ("DELETE", "/networks/made", None), "remove network again": ("DELETE", "/networks/made", None), "remove bridge": ("DELETE", "/networks/bridge", None),
    "prune networks": ("POST", "/networks/prune?filters=%7B%22label%22%3A%5B%22nosuch%22%5D%7D", None),
    "volume": ("POST", "/volumes/create", {"Name": "made", "Labels": {"a": "b"}}), "volume again": ("POST", "/volumes/create", {"Name": "made"}),
    "volume of no driver": ("POST", "/volumes/create", {"Driver": "nosuch"}), "remove volume": ("DELETE", "/volumes/made", None), "remove volume again": ("DELETE", "/volumes/made", None),
    "remove a used volume": ("DELETE", "/volumes/{volume}", None), "prune volumes": ("POST", "/volumes/prune?filters=%7B%22label%22%3A%5B%22nosuch%22%5D%7D", None),
    "prune builds": ("POST", "/build/prune", None), "login": ("POST", "/auth", {"username": "me", "password": "x", "serveraddress": "127.0.0.1:5000"}),
    "leave": ("POST", "/swarm/leave", None),
}
MISTAKEN = {"tag wrongly", "unpause again", "disconnect again"}


def scenario_every_endpoint_answers(world):
    api = Api(world.engine.socket)
    network = world.api.create_network("listed")["Id"]
    world.api.create_volume("listed")
    running = world.client.containers.run(IMAGE, ["sleep", "1000"], name="running", detach=True, network="listed", volumes=["listed:/m"], ports={"80/tcp": 18410}, mem_limit="64m")
    world.client.containers.run(IMAGE, ["sh", "-c", "echo 1 | tee /made"], name="ended", detach=True).wait()
    lone = world.client.containers.run(IMAGE, ["sleep", "1000"], name="lone", detach=True)
    made = world.api.exec_create(running.id, ["true"])["Id"]
    world.api.exec_start(made)
    names = {"running": "running", "ended": "ended", "image": IMAGE, "network": network, "volume": "listed", "exec": made, "lone": lone.id}
    facts = {}
    for version in VERSIONS:
        for name, (method, path, body) in {**READING, **(WRITING if version == VERSIONS[-1] else {})}.items():
            for key, value in names.items():
                path = path.replace("{" + key + "}", value)
                body = json.loads(json.dumps(body).replace("{" + key + "}", value))
            if method == "HEAD":
                # The small client would wait for a body.
                facts[f"{name} {version}"] = world.api.head(f"http+docker://localhost/v{version}{path}").status_code
                continue
            status, data = api.request(method, f"/v{version}{path}", body)
            # Docker 20.10 takes some mistakes of its client for failures of its own; later versions do not.
            facts[f"{name} {version}"] = "refused" if name in MISTAKEN and 400 <= status <= 500 else status
            facts[f"shape of {name} {version}"] = trimmed(shape_of(data)) if status < 400 else sorted(json.loads(data)) if data[:1] == b"{" else None
    api.close()
    return facts


def shape_of(data):
    try:
        return shape(json.loads(data))
    except ValueError:
        return None


# What newer versions of Docker no longer tell, or tell of the storage driver's and the runtime's own ways.
GONE = {
    "KernelMemory", "KernelMemoryTCP", "ClusterStore", "ClusterAdvertise", "LowerDir", "MergedDir", "UpperDir", "WorkDir", "BuilderSize", "io.containerd.runc.v2",
    "io.containerd.runtime.v1.linux"}


def trimmed(value):
    """Without what is gone, and with keys that are ids as one of no name."""
    if isinstance(value, dict):
        return {re.sub("^[0-9a-f]{64}$", "id", key): trimmed(inner) for key, inner in value.items() if key not in GONE}
    return [trimmed(inner) for inner in value] if isinstance(value, list) else value
