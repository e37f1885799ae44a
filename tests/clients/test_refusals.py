"""What Docker has and Naru has not: refused, never half done, with a status and a reason that a person understands."""

import docker
import pytest
from docker.errors import APIError

REFUSED = {
    "swarm init": (lambda client: client.swarm.init(), 501, "swarm mode is not available"),
    "swarm join": (lambda client: client.swarm.join(["127.0.0.1:2377"], "SWMTKN-1-a-b"), 501, "swarm mode is not available"),
    "plugin privileges": (lambda client: client.api.plugin_privileges("vieux/sshfs"), 501, "installing plugins is not available"),
    "plugin pull": (lambda client: client.api.pull_plugin("vieux/sshfs", []), 501, "installing plugins is not available"),
    "plugin install": (lambda client: client.plugins.install("vieux/sshfs"), 501, "installing plugins is not available"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(client_world, name):
    call, status, reason = REFUSED[name]
    with pytest.raises(APIError, match=reason) as caught:
        call(client_world.client)
    assert caught.value.status_code == status


def test_a_plugin_is_not_made_of_a_folder(client_world, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "rootfs").mkdir()
    for create in (client_world.api.create_plugin, client_world.client.plugins.create):
        with pytest.raises(APIError, match="installing plugins is not available") as caught:
            create("made", str(tmp_path))
        assert caught.value.status_code == 501


def test_a_checkpoint_is_refused_with_its_reason(client_world):
    api = client_world.api
    with client_world.clean():
        container = client_world.sleeping()
        url = api._url("/containers/{0}/checkpoints", container.id)
        answer = api.post(url, json={"CheckpointID": "one"})
        assert answer.status_code == 501 and "checkpoint" in answer.json()["message"]
        assert api.get(url).json() == []
        assert api.delete(url + "/one").status_code == 404
        assert api.post(api._url("/containers/nosuch/checkpoints"), json={"CheckpointID": "one"}).status_code == 404


def test_versions_are_negotiated(client_world):
    """From the oldest version to the newest; beyond them the client is told."""
    newest = client_world.client.version()["ApiVersion"]
    oldest = client_world.client.version()["MinAPIVersion"]
    assert oldest == "1.24"
    for minor in range(24, int(newest.split(".")[1]) + 1):
        client = docker.APIClient(base_url=client_world.engine.host, version=f"1.{minor}")
        assert client.containers(all=True) == [] and client.images() and client.info()["ID"]
        client.close()
    for version, said in (("1.23", "too old"), (f"1.{int(newest.split('.')[1]) + 1}", "too new")):
        answer = client_world.api.get(f"http+docker://localhost/v{version}/info")
        assert answer.status_code == 400 and said in answer.text
