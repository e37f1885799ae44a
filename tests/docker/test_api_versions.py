"""What came and went with API 1.48 to 1.51: every version's own fields, asked for over HTTP, and what they do."""

import contextlib
import json
import subprocess
from urllib.parse import quote

import pytest
from testkit.api import Api
from testkit.engine import DOCKER_20, NEWEST_DOCKER

IMAGE = "busybox:test"
CLI = NEWEST_DOCKER
FOREIGN = quote(json.dumps({"os": "linux", "architecture": "s390x"}))
OWN = quote(json.dumps({"os": "linux", "architecture": "amd64"}))


@pytest.fixture(scope="module")
def ask(busybox_naru):
    """Asks in one version of the API; gives the status and what was answered."""
    api = Api(busybox_naru.socket)

    def ask(minor, method, path, body=None):
        status, data = api.request(method, f"/v1.{minor}{path}", body)
        with contextlib.suppress(ValueError):
            data = json.loads(data)
        return status, data

    yield ask
    api.close()


@pytest.fixture
def create(ask):
    """Makes containers that the test's end removes; gives their ids and warnings."""
    made = []

    def create(minor, **body):
        status, data = ask(minor, "POST", "/containers/create", {"Image": IMAGE, "Cmd": ["sleep", "60"], **body})
        assert status == 201, data
        made.append(data["Id"])
        return data["Id"], data["Warnings"]

    yield create
    for container in made:
        assert ask(51, "DELETE", f"/containers/{container}?force=1&v=1")[0] == 204


@pytest.fixture
def networks(ask):
    names = ["versions-b", "versions-a"]
    for name in names:
        assert ask(51, "POST", "/networks/create", {"Name": name, "EnableIPv4": True})[0] == 201
    yield names
    for name in names:
        assert ask(51, "DELETE", f"/networks/{name}")[0] == 204


def message(answer, status=400):
    assert answer[0] == status, answer
    return answer[1]["message"]


@pytest.mark.skipif(NEWEST_DOCKER == DOCKER_20, reason="Docker's client 28 is not here")
def test_the_newest_version_is_told_and_kept_to(ask, busybox_naru):
    version = ask(51, "GET", "/version")[1]
    assert (version["ApiVersion"], version["MinAPIVersion"]) == ("1.51", "1.24")
    assert "Maximum supported API version is 1.51" in message(ask(52, "GET", "/version"))
    command = [CLI, "-H", busybox_naru.host, "version", "-f", "{{.Client.APIVersion}}"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "1.50\n", "Docker 28.2's own newest is spoken"


def test_info_has_the_fields_of_its_version(ask):
    infos = {minor: ask(minor, "GET", "/info")[1] for minor in (43, 47, 48, 49, 50, 51)}

    def having(is_there):
        return [minor for minor, info in infos.items() if is_there(info)]

    allowed = "AllowNondistributableArtifactsCIDRs"
    assert {minor: info["RegistryConfig"].get(allowed, "gone") for minor, info in infos.items()} == {
        43: [], 47: [], 48: None, 49: "gone", 50: "gone", 51: "gone"}
    for commit in ("ContainerdCommit", "RuncCommit", "InitCommit"):
        assert having(lambda info, commit=commit: "Expected" in info[commit]) == [43, 47, 48]
    for bridge in ("BridgeNfIptables", "BridgeNfIp6tables"):
        assert having(lambda info, bridge=bridge: bridge in info) == [43, 47, 48, 49]
        assert infos[48][bridge] is False and isinstance(infos[47][bridge], bool)
    assert having(lambda info: info.get("FirewallBackend") == {"Driver": "nftables"}) == [49, 50, 51]
    assert having(lambda info: info.get("CDISpecDirs") == []) == [47, 48, 49, 50, 51]
    # No driver here looks for devices, so none is discovered, and Docker leaves an empty list out.
    assert having(lambda info: "DiscoveredDevices" in info) == []


def test_an_images_configuration_has_nothing_of_a_container_from_1_50_on(ask):
    old, new = (ask(minor, "GET", f"/images/{IMAGE}/json")[1]["Config"] for minor in (49, 50))
    gone = {"Hostname", "Domainname", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce", "Image"}
    assert old.keys() - new.keys() == gone
    assert not any(old[field] for field in gone)
    assert {field: old[field] for field in new} == new and new["Cmd"] == ["sh"]


def test_a_platform_that_an_image_has_not_is_told_from_its_version_on(ask):
    differs = "does not match the specified platform: wanted linux/s390x, actual: linux/amd64"
    for since, path in ((49, f"/images/{IMAGE}/json?platform="), (48, f"/images/{IMAGE}/history?platform="), (48, f"/images/{IMAGE}/get?platform=")):
        assert ask(since - 1, "GET", path + FOREIGN)[0] == 200
        assert f"{IMAGE} was found but {differs}" in message(ask(since, "GET", path + FOREIGN), 404)
        assert ask(since, "GET", path + OWN)[0] == 200
        assert "unknown operating system" in message(ask(since, "GET", path + "a/b/c/d"))
    assert differs in message(ask(48, "GET", f"/images/get?names={IMAGE}&platform={FOREIGN}"), 404)
    assert "cannot both be set" in message(ask(49, "GET", f"/images/{IMAGE}/json?manifests=1&platform={OWN}"))


def test_content_is_removed_for_the_platforms_asked_for(ask):
    assert ask(50, "POST", f"/images/{IMAGE}/tag?repo=versions&tag=one")[0] == 201
    several = quote(json.dumps([{"os": "linux", "architecture": one} for one in ("amd64", "s390x")]))
    for platforms in (FOREIGN, several):
        assert "does not match" in message(ask(50, "DELETE", f"/images/versions:one?platforms={platforms}"), 404)
    assert "invalid platforms" in message(ask(50, "DELETE", "/images/versions:one?platforms=[1]"))
    removed = ask(50, "DELETE", f"/images/versions:one?platforms={quote('[')}{OWN}{quote(']')}")
    assert removed == (200, [{"Untagged": "versions:one"}])


def test_the_containers_of_an_image_are_counted_from_1_51_on(ask, create):
    create(51)
    create(51)
    assert [ask(minor, "GET", "/images/json")[1][0]["Containers"] for minor in (47, 50, 51)] == [-1, -1, 2]


def test_a_volume_driver_that_mounts_do_not_get_is_warned_of(create):
    host = {"VolumeDriver": "local", "Mounts": [{"Type": "volume", "Target": "/v"}]}
    assert create(47, HostConfig=host)[1] == []
    (warning,) = create(48, HostConfig=host)[1]
    assert "volume-driver configuration is ignored for volumes specified via 'mount'" in warning


def test_an_image_is_mounted_from_1_48_on(ask, create):
    def mount(**more):
        return {"HostConfig": {"Mounts": [{"Type": "image", "Source": IMAGE, "Target": "/x", **more}]}}

    refused = ask(47, "POST", "/containers/create", {"Image": IMAGE, **mount()})
    assert "needs API v1.48" in message(refused)
    container, _ = create(48, **mount(ImageOptions={"Subpath": "bin"}))
    shown = ask(51, "GET", f"/containers/{container}/json")[1]
    (point,) = shown["Mounts"]
    assert (point["Type"], point["Name"], point["Destination"], point["RW"]) == ("image", IMAGE, "/x", False)
    assert shown["HostConfig"]["Mounts"] == [{"Type": "image", "Source": IMAGE, "Target": "/x", "ImageOptions": {"Subpath": "bin"}}]
    (listed,) = ask(51, "GET", "/containers/json?all=1")[1]
    assert listed["Mounts"][0]["Type"] == "image"
    for wrong, words in ((mount(Source=""), "Source must not be empty"), (mount(ImageOptions={"Subpath": "../x"}), "relative path"),
                         (mount(BindOptions={}), "cannot mix BindOptions")):
        assert words in message(ask(51, "POST", "/containers/create", {"Image": IMAGE, **wrong}))
    assert "No such image" in message(ask(51, "POST", "/containers/create", {"Image": IMAGE, **mount(Source="nosuch:one")}), 404)


def test_the_priority_of_a_gateway_chooses_the_way_out(ask, networks, create, busybox_naru):
    def way_out(minor, first, second):
        endpoints = {networks[0]: {"GwPriority": first}, networks[1]: {"GwPriority": second}}
        container, _ = create(minor, NetworkingConfig={"EndpointsConfig": endpoints}, HostConfig={"NetworkMode": networks[0]})
        assert ask(51, "POST", f"/containers/{container}/start")[0] == 204
        endpoints = ask(51, "GET", f"/containers/{container}/json")[1]["NetworkSettings"]["Networks"]
        route = busybox_naru.client("exec", container, "ip", "route", "show", "default").stdout.split()
        return [endpoints[name]["GwPriority"] for name in networks], [name for name in networks if endpoints[name]["Gateway"] in route]

    assert way_out(48, 7, 1) == ([7, 1], [networks[0]])
    assert way_out(48, 0, 0) == ([0, 0], [networks[1]]), "the first by name"
    assert way_out(47, 7, 1) == ([0, 0], [networks[1]]), "unknown before 1.48"
    listed = ask(51, "GET", "/containers/json")[1]
    priorities = [one["GwPriority"] for container in listed for one in container["NetworkSettings"]["Networks"].values()]
    assert sorted(priorities) == [0, 0, 0, 0, 1, 7]


def test_a_network_without_ipv4_is_refused_where_it_can_be_asked_for(ask):
    body = {"Name": "versions-c", "EnableIPv4": False}
    assert "IPv4" in message(ask(48, "POST", "/networks/create", body), 501)
    assert ask(47, "POST", "/networks/create", body)[0] == 201
    assert ask(51, "GET", "/networks/versions-c")[1]["EnableIPv4"] is True
    assert ask(51, "DELETE", "/networks/versions-c")[0] == 204


def test_aliases_hold_the_id_before_1_45(ask, create, networks):
    """From 1.45 on they are what was asked for; the names by which the container is found are `DNSNames`."""
    name = networks[0]
    container, _ = create(51, HostConfig={"NetworkMode": name}, Hostname="called", NetworkingConfig={"EndpointsConfig": {name: {"Aliases": ["other"]}}})
    for minor, aliases in [(44, ["other", container[:12], "called"]), (45, ["other"]), (51, ["other"])]:
        endpoint = ask(minor, "GET", f"/containers/{container}/json")[1]["NetworkSettings"]["Networks"][name]
        assert endpoint["Aliases"] == aliases and endpoint["DNSNames"][1:] == ["other", container[:12], "called"], endpoint
