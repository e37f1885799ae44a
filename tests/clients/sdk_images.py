"""Scenarios: images and registries."""

import contextlib
import io
import os
import subprocess
import tarfile
import tempfile

import pytest
from docker.errors import APIError, BuildError, ImageNotFound, InvalidArgument
from sdk_containers import is_refused, tar_of
from world import IMAGE, REGISTRY, shape

FILE = tar_of("hello", b"there")


def imported(stream):
    """Returns the id in what an import answered."""
    import json
    return json.loads(stream.splitlines()[-1])["status"]


def scenario_import_in_every_form(world):
    api = world.api
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/one.tar"
        with open(path, "wb") as file:
            file.write(FILE)
        assert imported(api.import_image(path, repository="sdk-import", tag="file")).startswith("sha256:")
        assert imported(api.import_image_from_file(path, repository="sdk-import", tag="file2"))
        with serving(world, folder) as url:
            assert "sha256:" in api.import_image_from_url(url + "/one.tar", repository="sdk-import", tag="url")
            with pytest.raises(APIError) as caught:
                api.import_image_from_url(url + "/none.tar", repository="sdk-import", tag="none")
            status = caught.value.status_code
    assert imported(api.import_image_from_data(FILE, repository="sdk-import", tag="data", changes=["ENV A=1"]))
    assert imported(api.import_image_from_stream(iter([FILE]), repository="sdk-import", tag="stream"))
    for tag in ("file", "file2", "url", "data", "stream"):
        assert len(api.inspect_image("sdk-import:" + tag)["RootFS"]["Layers"]) == 1
    assert api.inspect_image("sdk-import:data")["Config"]["Env"] == ["A=1"]
    name = REGISTRY + "/sdk/imported"
    api.tag(IMAGE, name, "one")
    api.push(name, "one")
    api.remove_image(name + ":one")
    assert "Status" in api.import_image_from_image(name, tag="one") or api.inspect_image(name + ":one")
    return status


@contextlib.contextmanager
def serving(world, folder):
    server = subprocess.Popen(
        world.engine.scope.command("python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", folder, "18480"),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    server.stdout.readline()
    try:
        yield "http://127.0.0.1:18480"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def scenario_images_at_low_level(world):
    api = world.api
    told = api.inspect_image(IMAGE)
    assert IMAGE in told["RepoTags"]
    history = api.history(IMAGE)
    assert api.tag(IMAGE, "sdk-low", "one") is True
    archive = b"".join(api.get_image("sdk-low:one"))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert "manifest.json" in tar.getnames()
    removed = api.remove_image("sdk-low:one")
    assert [one["Untagged"] for one in removed] == ["sdk-low:one"]
    lines = list(api.load_image(archive))
    assert any("Loaded image: sdk-low:one" in line.get("stream", "") for line in lines)
    api.import_image_from_data(FILE, repository="sdk-other", tag="one")
    api.import_image_from_data(tar_of("b", b"b"), repository="sdk-other", tag="one")
    facts = {"inspect": [key for key in shape(told) if key not in ("Container", "ContainerConfig", "VirtualSize", "Descriptor", "Manifests", "Parent")], "shape of history": shape(history)}
    for arguments in (
        {"name": "sdk-low"}, {"name": "sdk-*"}, {"name": "nosuch"}, {"filters": {"dangling": True}}, {"filters": {"reference": "sdk-l*:one"}}, {"filters": {"label": "nosuch"}},
        {"filters": {"since": IMAGE}}, {"filters": {"before": IMAGE}}, {"name": "sdk-low:one"},
    ):
        facts[str(arguments)] = sorted((image["RepoTags"] or ["<none>:<none>"])[0] for image in api.images(**arguments))
    assert api.images(quiet=True) and all(isinstance(one, str) for one in api.images(quiet=True, all=True))
    for filters in ({"nosuch": "1"}, {"dangling": "x"}, {"before": "nosuch"}):
        facts[f"{filters} is refused"] = is_refused(lambda filters=filters: api.images(filters=filters))
    entry = api.images("sdk-low")[0]
    facts["entry"] = [key for key in sorted(entry) if key not in ("VirtualSize", "Descriptor", "Manifests")]
    pruned = api.prune_images({"dangling": True})
    facts["pruned"] = len([one for one in pruned["ImagesDeleted"] if "Deleted" in one]) > 0 and pruned["SpaceReclaimed"] > 0
    facts["builds"] = sorted(api.prune_builds())
    return facts


def scenario_building_an_image(world):
    text = b"FROM busybox:test\nARG A=1\nRUN echo $A >/a\nLABEL l=1\n"
    lines = list(world.api.build(fileobj=io.BytesIO(text), tag="sdk-built:one", buildargs={"A": "2"}, labels={"k": "v"}, rm=True, decode=True))
    image, log = world.client.images.build(fileobj=io.BytesIO(text), tag="sdk-built:two", rm=True)
    assert any("Successfully built" in line.get("stream", "") for line in lines) and any("Step 4/4" in line.get("stream", "") for line in log)
    facts = {"labels": [world.client.images.get("sdk-built:one").labels, image.labels],
             "file": [world.client.containers.run(f"sdk-built:{tag}", "cat /a", remove=True).decode() for tag in ("one", "two")]}
    with pytest.raises(BuildError) as caught:
        world.client.images.build(fileobj=io.BytesIO(b"FROM busybox:test\nRUN exit 4\n"), rm=True, forcerm=True)
    facts["failed"] = "returned a non-zero code: 4" in str(caught.value)
    with pytest.raises(APIError) as caught:
        list(world.api.build(fileobj=io.BytesIO(b"FROM busybox:test\nNOSUCH x\n")))
    facts["refused"] = caught.value.status_code
    for tag in ("one", "two"):
        world.client.images.remove(f"sdk-built:{tag}", force=True)
    return facts


def scenario_model_of_an_image(world):
    images = world.client.images
    image = images.get(IMAGE)
    assert image.id.startswith("sha256:") and IMAGE in image.tags and image.labels == {} and len(image.short_id) == 19
    assert image.tag("sdk-model", "one") and image.history()
    image.reload()
    assert "sdk-model:one" in image.tags
    archive = b"".join(image.save(named="sdk-model:one"))
    images.remove("sdk-model:one")
    assert [one.tags for one in images.load(archive)][0].count("sdk-model:one") == 1
    assert [one.id for one in images.list(name="sdk-model")] == [image.id]
    assert images.prepare_model({"Id": image.id}).id == image.id
    other = images.get("sdk-model:one")
    with pytest.raises(APIError) as caught:
        world.sleeping()
        other.remove()
    assert caught.value.status_code == 409
    images.remove("sdk-model:one")
    with pytest.raises(ImageNotFound):
        images.get("sdk-model:one")
    images.prune({"dangling": True})
    images.prune_builds()
    with pytest.raises(NotImplementedError):
        images.create()


def scenario_a_registry(world):
    api, images = world.api, world.client.images
    name = REGISTRY + "/sdk/one"
    api.tag(IMAGE, name, "first")
    lines = list(api.push(name, "first", stream=True, decode=True))
    assert any(line.get("aux", {}).get("Tag") == "first" for line in lines)
    assert "digest: sha256:" in str(images.push(name, "first"))
    registry_data = images.get_registry_data(name + ":first")
    assert registry_data.id.startswith("sha256:") and registry_data.has_platform("linux/amd64") and not registry_data.has_platform("linux/s390x")
    assert len(registry_data.short_id) == 19
    registry_data.reload()
    told = api.inspect_distribution(name + ":first")
    assert told["Descriptor"]["digest"] == registry_data.id
    api.remove_image(name + ":first")
    lines = list(api.pull(name, tag="first", stream=True, decode=True))
    assert any("Downloaded newer image" in line.get("status", "") or "up to date" in line.get("status", "") for line in lines)
    assert images.pull(name, tag="first").tags.count(name + ":first") == 1
    assert registry_data.pull().id == images.get(IMAGE).id
    api.tag(IMAGE, name, "second")
    api.push(name, "second")
    assert len(images.pull(name, all_tags=True)) >= 1
    with pytest.raises((ImageNotFound, APIError)) as caught:
        images.pull(REGISTRY + "/sdk/none", tag="x")
    missing = caught.value.status_code
    lines = list(api.push(REGISTRY + "/sdk/nosuch", "x", stream=True, decode=True))
    assert "error" in lines[-1]
    return {"shape": shape(told), "missing": missing}


def scenario_login_and_search(world):
    """A registry without passwords takes any; one that nobody runs fails as a server's error."""
    api = world.api
    facts = {"login": api.login("me", "secret", registry=f"http://{REGISTRY}", reauth=True)["Status"]}
    facts["again"] = world.client.login("me", "secret", registry=f"http://{REGISTRY}", reauth=True)["Status"]
    with pytest.raises(APIError) as caught:
        api.login("me", "secret", registry="http://127.0.0.1:9", reauth=True)
    facts["refused"] = caught.value.status_code >= 500
    for search in (lambda: api.search(REGISTRY + "/web"), lambda: world.client.images.search(REGISTRY + "/web", limit=5)):
        with pytest.raises(APIError) as caught:
            search()
        # Debian's registry does not search.
        facts["search"] = caught.value.status_code >= 400
    api.reload_config()
    return facts
