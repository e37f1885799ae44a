"""Scenarios: what belongs to a swarm, on a node of none, and plugins, of which there are none."""

import re

import docker
import pytest
from docker.errors import APIError
from docker.models.configs import Config
from docker.models.nodes import Node
from docker.models.plugins import Plugin
from docker.models.secrets import Secret
from docker.models.services import Service

NOT_A_MANAGER = "This node is not a swarm manager"
TEMPLATE = {"ContainerSpec": {"Image": "busybox:test", "TTY": False}}


def refusals(calls):
    """Makes each call and returns with which status and reason it was refused."""
    facts = {}
    for name, call in calls.items():
        with pytest.raises(APIError) as caught:
            result = call()
            if not isinstance(result, (dict, str, bool)):
                list(result)
        facts[name] = [caught.value.status_code, re.split(r"[.:]", caught.value.explanation)[0]]
    return facts


def scenario_a_node_of_no_swarm(world):
    api = world.api
    spec = api.create_swarm_spec(snapshot_interval=5000)
    assert spec["Raft"]["SnapshotInterval"] == 5000
    facts = refusals({
        "inspect_swarm": api.inspect_swarm, "update_swarm": lambda: api.update_swarm(1, spec), "unlock_key": api.get_unlock_key,
        "unlock": lambda: api.unlock_swarm("SWMKEY-1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        "nodes": api.nodes, "inspect_node": lambda: api.inspect_node("x"), "remove_node": lambda: api.remove_node("x"),
        "update_node": lambda: api.update_node("x", 1, {"Role": "worker", "Availability": "active"}),
        "services": api.services, "create_service": lambda: api.create_service(TEMPLATE, name="x"), "inspect_service": lambda: api.inspect_service("x"),
        "remove_service": lambda: api.remove_service("x"), "service_logs": lambda: api.service_logs("x", stdout=True, is_tty=False),
        "tasks": api.tasks, "inspect_task": lambda: api.inspect_task("x"),
        "secrets": api.secrets, "create_secret": lambda: api.create_secret("x", b"1"), "inspect_secret": lambda: api.inspect_secret("x"),
        "remove_secret": lambda: api.remove_secret("x"),
        "configs": api.configs, "create_config": lambda: api.create_config("x", b"1"), "inspect_config": lambda: api.inspect_config("x"),
        "remove_config": lambda: api.remove_config("x"),
    })
    assert all(fact[0] == 503 for fact in facts.values()), facts
    # It asks for the service first, so that only a service that is there can be changed.
    with pytest.raises(APIError):
        api.update_service("x", 1, TEMPLATE, name="x")
    with pytest.raises(APIError) as caught:
        api.leave_swarm()
    facts["leave"] = [caught.value.status_code, caught.value.explanation]
    facts["force"] = api.leave_swarm(force=True)
    return facts


def scenario_models_of_a_swarm(world):
    client = world.client
    service, node = (kind({"ID": "x", "Version": {"Index": 1}, "Spec": {"Name": "x", "TaskTemplate": TEMPLATE}}, client, collection) for kind, collection in (
        (Service, client.services), (Node, client.nodes)))
    secret, config = (kind({"ID": "x", "Spec": {"Name": "x"}}, client, collection) for kind, collection in ((Secret, client.secrets), (Config, client.configs)))
    assert [one.id for one in (service, node, secret, config)] == ["x"] * 4 and [one.short_id for one in (service, node, secret, config)] == ["x"] * 4
    assert (service.name, secret.name, config.name, service.version, node.version) == ("x", "x", "x", 1, 1)
    swarm = client.swarm
    assert swarm.attrs == {} and swarm.id is None
    for collection in (client.services, client.nodes, client.secrets, client.configs):
        assert collection.prepare_model({"ID": "y"}).id == "y"
    with pytest.raises(NotImplementedError):
        client.nodes.create()
    with pytest.raises((KeyError, TypeError)):
        swarm.short_id
    with pytest.raises(Exception):
        swarm.version
    replicated = {"ID": "x", "Version": {"Index": 1}, "Spec": {"Name": "x", "Mode": {"Replicated": {"Replicas": 1}}, "TaskTemplate": TEMPLATE}}
    service.attrs.update(replicated)
    calls = {
        "nodes": client.nodes.list, "node": lambda: client.nodes.get("x"), "node update": lambda: node.update({}), "node remove": node.remove, "node reload": node.reload,
        "services": client.services.list, "service": lambda: client.services.get("x"), "create": lambda: client.services.create("busybox:test", name="x"),
        "remove": service.remove, "tasks": service.tasks, "update": lambda: service.update(image="busybox:test"), "scale": lambda: service.scale(2),
        "force": service.force_update, "service reload": service.reload, "service logs": lambda: service.logs(stdout=True),
        "secrets": client.secrets.list, "secret": lambda: client.secrets.get("x"), "secret create": lambda: client.secrets.create(name="x", data=b"1"),
        "secret remove": secret.remove, "secret reload": secret.reload,
        "configs": client.configs.list, "config": lambda: client.configs.get("x"), "config create": lambda: client.configs.create(name="x", data=b"1"),
        "config remove": config.remove, "config reload": config.reload,
        "swarm reload": swarm.reload, "unlock key": swarm.get_unlock_key, "leave": swarm.leave, "unlock": lambda: swarm.unlock("SWMKEY-1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
    }
    facts = refusals(calls)
    swarm.attrs = {"Version": {"Index": 1}}
    facts.update(refusals({"swarm update": swarm.update}))
    return facts


def scenario_no_plugins(world):
    api, plugins = world.api, world.client.plugins
    assert api.plugins() == [] and plugins.list() == []
    plugin = Plugin({"Id": "x", "Name": "none:none", "Enabled": False, "Settings": {}, "PluginReference": "none:none"}, world.client, plugins)
    assert (plugin.id, plugin.short_id, plugin.name, plugin.enabled, plugin.settings) == ("x", "x", "none:none", False, {})
    assert plugins.prepare_model({"Id": "y"}).id == "y"
    facts = refusals({
        "inspect": lambda: api.inspect_plugin("none"), "enable": lambda: api.enable_plugin("none"), "disable": lambda: api.disable_plugin("none"),
        "remove": lambda: api.remove_plugin("none"), "configure": lambda: api.configure_plugin("none", {"A": "1"}), "push": lambda: api.push_plugin("none"),
        "get": lambda: plugins.get("none"), "model enable": plugin.enable, "model disable": plugin.disable, "model remove": plugin.remove,
        "model configure": lambda: plugin.configure({"A": "1"}), "model push": plugin.push, "reload": plugin.reload,
    })
    with pytest.raises(docker.errors.DockerException):
        list(api.upgrade_plugin("none", "127.0.0.1:9/none", []))
    with pytest.raises(docker.errors.DockerException):
        list(plugin.upgrade("127.0.0.1:9/none"))
    return {name: fact[0] for name, fact in facts.items()}
