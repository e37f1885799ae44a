"""What pruning promises beyond single commands: nothing is passed over, and age means what a user takes it for."""

import json
import time
from urllib.parse import quote

import pytest
from testkit.api import Api


@pytest.fixture
def api(busybox_naru):
    client = Api(busybox_naru.socket)
    yield client
    busybox_naru.remove_all_containers()
    client.close()


def prune(api, kind, **filters):
    return api.call("POST", f"/{kind}/prune?filters={quote(json.dumps(filters))}")


def test_prune_takes_what_has_just_ended(api):
    """The end of a run, and its start, are still being written down when a client knows of the end already."""
    for _ in range(40):
        box = api.create(["true"], host={"NetworkMode": "none"}, Labels={"just": "ended"})
        api.start(box)
        assert api.wait(box) == 0
        assert prune(api, "containers", label=["just=ended"])["ContainersDeleted"] == [box]


def test_prune_leaves_what_is_started_meanwhile(api):
    box = api.create(["sleep", "1000"], host={"NetworkMode": "none"}, Labels={"just": "started"})
    api.start(box)
    assert not prune(api, "containers", label=["just=started"])["ContainersDeleted"]
    assert api.inspect(box)["State"]["Running"]
