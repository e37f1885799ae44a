"""Scenarios: networks, volumes, and the engine itself."""

import threading
import time

import docker
import pytest
from docker.errors import APIError, NotFound
from world import IMAGE, shape, until


def scenario_networks_at_low_level(world):
    api = world.api
    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.77.0.0/24", gateway="10.77.0.254")])
    made = api.create_network("low", driver="bridge", ipam=pool, internal=True, labels={"of": "low"}, check_duplicate=True)
    told = api.inspect_network("low")
    assert told["Id"] == made["Id"] and told["Internal"] and told["IPAM"]["Config"] == [{"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.254"}]
    endpoint = api.create_endpoint_config(aliases=["one"], ipv4_address="10.77.0.9")
    config = api.create_networking_config({"low": endpoint})
    container = api.create_container(IMAGE, ["sleep", "1000"], networking_config=config, host_config=api.create_host_config(network_mode="low"))["Id"]
    api.start(container)
    settings = api.inspect_container(container)["NetworkSettings"]["Networks"]
    assert settings["low"]["IPAddress"] == "10.77.0.9" and "one" in settings["low"]["Aliases"]
    api.connect_container_to_network(container, "bridge")
    assert set(api.inspect_container(container)["NetworkSettings"]["Networks"]) == {"low", "bridge"}
    api.disconnect_container_from_network(container, "bridge")
    with pytest.raises(APIError) as caught:
        api.remove_network("low")
    assert caught.value.status_code == 403
    api.disconnect_container_from_network(container, "low", force=True)
    assert [one["Name"] for one in api.networks(names=["low"])] == ["low"] and len(api.networks(ids=[made["Id"]])) == 1
    facts = {"shape": shape(told)}
    for filters in ({"driver": "host"}, {"label": "of"}, {"label": "of=low"}, {"type": "builtin"}, {"type": "custom"}, {"scope": "local"}, {"name": "lo"}, {"id": made["Id"][:9]},
                    {"dangling": "true"}):
        facts[str({key: value for key, value in filters.items() if key != "id"})] = sorted(one["Name"] for one in api.networks(filters=filters))
    api.remove_network("low")
    api.create_network("unused")
    assert api.prune_networks()["NetworksDeleted"] == ["unused"]
    return facts


def scenario_model_of_a_network(world):
    networks = world.client.networks
    network = networks.create("model", driver="bridge", labels={"of": "model"})
    container = world.client.containers.run(IMAGE, ["sleep", "1000"], detach=True)
    network.connect(container, aliases=["here"])
    network.reload()
    assert network.name == "model" and network.containers == [container] and network.short_id == network.id[:12]
    network.disconnect(container)
    network.reload()
    assert network.containers == []
    assert networks.get("model", verbose=True).id == network.id
    assert [one.name for one in networks.list(names=["model"], greedy=True)] == ["model"]
    assert networks.prepare_model(network.attrs).id == network.id
    network.remove()
    with pytest.raises(NotFound):
        networks.get("model")
    networks.create("unused")
    assert networks.prune()["NetworksDeleted"] == ["unused"]


def scenario_volumes(world):
    api = world.api
    made = api.create_volume("low", driver="local", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}, labels={"of": "low"})
    assert api.inspect_volume("low")["Options"]["o"] == "size=1m" and made["Name"] == "low"
    api.create_volume("plain")
    listed = api.volumes(filters={"label": "of=low"})
    assert [one["Name"] for one in listed["Volumes"]] == ["low"]
    facts = {"shape": shape(made)}
    api.create_container(IMAGE, ["true"], host_config=api.create_host_config(binds=["plain:/m"]))
    for filters in ({"dangling": "true"}, {"dangling": "false"}, {"name": "ai"}, {"driver": "local"}, {"label": "of"}):
        facts[str(filters)] = sorted(one["Name"] for one in api.volumes(filters=filters)["Volumes"] or [])
    with pytest.raises(APIError) as caught:
        api.remove_volume("plain")
    assert caught.value.status_code == 409
    api.remove_volume("low")
    volumes = world.client.volumes
    volume = volumes.create("model", labels={"of": "model"})
    assert (volume.name, volume.id, volumes.get("model").short_id) == ("model", "model", "model")
    volume.reload()
    assert [one.name for one in volumes.list(filters={"name": "model"})] == ["model"] and volumes.prepare_model(volume.attrs).name == "model"
    volume.remove(force=True)
    with pytest.raises(NotFound):
        volumes.get("model")
    volumes.create()
    assert len(volumes.prune()["VolumesDeleted"]) == 1
    assert api.prune_volumes()["VolumesDeleted"] in (None, [])
    return facts


def scenario_the_engine_itself(world):
    client, api = world.client, world.api
    version, info, usage = api.version(), api.info(), api.df()
    assert api.ping() is True and client.ping() is True and version["ApiVersion"] == api.api_version
    assert client.version()["Version"] == version["Version"] and client.info()["ID"] == info["ID"] and client.df()["Images"]
    assert api.get_adapter(api.base_url) is not None
    api.reload_config()
    facts = {"version": sorted(version.keys() - {"Experimental"}), "info": sorted(key for key in info), "df": sorted(usage)}
    # What only one of them can know.
    expected = set(facts["info"]) - ONLY_DOCKER
    facts["info"] = sorted(expected - ONLY_NARU)
    facts["version"] = sorted(set(facts["version"]) - {"Platform", "BuildTime"})
    facts["df"] = sorted(set(facts["df"]) - {"BuilderSize", "DiskAccount"})
    return facts


# Fields of Docker 20.10 that newer versions no longer have, and of newer ones that 20.10 lacks.
ONLY_DOCKER = {"KernelMemory", "KernelMemoryTCP", "ClusterStore", "ClusterAdvertise", "BridgeNfIptables", "BridgeNfIp6tables"}
ONLY_NARU = {"CDISpecDirs", "Containerd", "FirewallBackend", "DefaultAddressPools", "DiskAccount"}


def scenario_events(world):
    api = world.api
    time.sleep(0.05)
    began = time.time()
    seen = []
    stream = api.events(decode=True, filters={"type": ["container", "volume", "network"]})

    def read():
        for event in stream:
            seen.append(event)

    reader = threading.Thread(target=read)
    reader.start()
    api.create_volume("kept")
    container = api.create_container(IMAGE, ["sh", "-c", "exit 3"], name="told", labels={"of": "events"}, host_config=api.create_host_config(binds=["kept:/m"]))["Id"]
    api.start(container)
    api.wait(container)
    api.rename(container, "retold")
    api.remove_container(container)
    api.remove_volume("kept")
    api.create_network("lined")
    api.remove_network("lined")
    until(lambda: [event for event in seen if (event["Type"], event["Action"]) == ("network", "destroy")])
    stream.close()
    reader.join()
    ended = time.time() + 1
    # Newer versions tell how long it ran, too.
    told = {" ".join([event["Type"], event["Action"], *sorted(event["Actor"]["Attributes"].keys() - {"execDuration"})]) for event in seen}
    facts = {"live": sorted(told), "shape": shape(next(event for event in seen if event["Action"] == "die"))}

    def past(**filters):
        # A volume that a container names is told of as created once more by Docker.
        return sorted({event["Action"] for event in world.client.events(since=began, until=ended, decode=True, filters={"type": ["container", "volume"], **filters})})

    for filters in ({"event": "die"}, {"event": ["create", "destroy"], "container": "told"}, {"container": container}, {"label": "of=events"}, {"label": "of=nothing"},
                    {"image": IMAGE, "event": "start"}, {"volume": "kept"}, {"volume": "ke"}, {"type": "volume"}, {"scope": "local", "event": "start"}, {"scope": "swarm"}, {"daemon": "nosuch"}):
        name = "id" if container in filters.values() else filters
        facts[str(name)] = past(**filters)
    for wrong in ({"since": "nonsense"}, {"since": 5, "until": 3}):
        facts[str(wrong)] = api.get(api._url("/events"), params=wrong).status_code >= 400
    return facts
