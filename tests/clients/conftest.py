"""The two engines of the clients' scenarios."""

import pytest
from testkit.engine import DebianDocker
from world import World


@pytest.fixture(scope="session")
def client_world(busybox_naru):
    """Naru; with NARU_TEST_ENGINE=docker Debian's Docker in its place, as everywhere."""
    world = World(busybox_naru)
    yield world
    world.close()


@pytest.fixture(scope="session")
def reference_world(images):
    """Returns a function that starts Debian's Docker when the first scenario wants to be proved."""
    started = []

    def start():
        if not started:
            engine = DebianDocker()
            engine.start()
            engine.load(images + "/busybox.tar")
            started.append(World(engine))
        return started[0]

    yield start
    for world in started:
        world.close()
        world.engine.close()
