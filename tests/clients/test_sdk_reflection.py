"""The whole of Docker's SDK for Python: each public method is called by a scenario, first on Debian's Docker."""

import json
import types

import pytest
import reflection
import endpoints
import sdk_containers
import sdk_images
import sdk_networks
import sdk_swarm
import world
from world import differences, prove, run

MODULES = [endpoints, sdk_containers, sdk_images, sdk_networks, sdk_swarm]
SCENARIOS = [value for module in MODULES for name, value in vars(module).items()
             if isinstance(value, types.FunctionType) and value.__module__ == module.__name__ and name.startswith("scenario_")]

# What no scenario calls, or what differs from Debian's Docker, and why. Fewer than one in twenty.
EXCEPTIONS = {
    "APIClient.init_swarm": "Docker would become a manager; Naru refuses (test_what_is_refused_says_why)",
    "Swarm.init": "as above",
    "APIClient.join_swarm": "Docker would wait for another node; Naru refuses (test_what_is_refused_says_why)",
    "Swarm.join": "as above",
    "APIClient.pull_plugin": "Docker would ask Docker Hub; Naru refuses (test_what_is_refused_says_why)",
    "APIClient.plugin_privileges": "as above",
    "PluginCollection.install": "as above",
    "APIClient.create_plugin": "Docker would run a program of its host; Naru refuses (test_what_is_refused_says_why)",
    "PluginCollection.create": "as above",
}
CALLED = {}


def check(scenario, client_world, reference_world):
    sources = [scenario.__code__.co_filename, world.__file__]
    proved = prove(scenario, sources, reference_world)
    with reflection.Recorder() as recorder:
        facts = run(scenario, client_world)
    CALLED[scenario.__name__] = recorder.called
    apart = differences(proved, json.loads(json.dumps(facts)))
    assert not apart, json.dumps(apart, indent=1)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__.removeprefix("scenario_"))
def test_scenario(scenario, client_world, reference_world):
    check(scenario, client_world, reference_world)


def test_every_public_method_was_called(client_world, reference_world):
    for scenario in SCENARIOS:
        if scenario.__name__ not in CALLED:
            check(scenario, client_world, reference_world)
    whole = reflection.everything()
    assert set(EXCEPTIONS) <= whole, "an exception names what the SDK does not have"
    assert len(EXCEPTIONS) * 20 < len(whole)
    called = set().union(*CALLED.values())
    assert sorted(whole - called - set(EXCEPTIONS)) == []
