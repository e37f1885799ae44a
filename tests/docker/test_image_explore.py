"""`naru image explore`: over the API alone, so that it tells the same of an image in Docker as of one in Naru."""

import io
import json
import tarfile

import archive
import pytest
from testkit.engine import NARU


def write_layer(path, entries):
    with tarfile.open(path, "w") as tar:
        for name, size in entries:
            info = tarfile.TarInfo(name)
            info.size = size
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info, io.BytesIO(bytes(size)))
    return archive.Layer(str(path), "COPY made by a test")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explored")
    layers = [
        write_layer(folder / "0", [("big", 1_000_000), ("d/", 0), ("d/x", 200_000), ("d/y", 1000), ("kept", 500)]),
        write_layer(folder / "1", [("big", 300_000), ("d/", 0), ("d/.wh.x", 0), ("evil\x1b[2J", 10)]),
        write_layer(folder / "2", [("d/", 0), ("d/.wh..wh..opq", 0), ("d/new", 700)]),
    ]
    archive.write_docker_archive(str(folder / "image.tar"), "explored:test", layers, {"Cmd": ["x"]})
    return str(folder / "image.tar")


WASTED = 1_000_000 + 200_000 + 1000
SIZE = 1_000_000 + 200_000 + 1000 + 500 + 300_000 + 10 + 700


def explore(engine, *words):
    return engine.client("image", "explore", *words, "explored:test", program=NARU)


@pytest.fixture(params=["naru", "docker"])
def engine(request, image):
    engine = request.getfixturevalue("busybox_naru" if request.param == "naru" else "docker")
    engine.load(image)
    yield engine
    engine.client("rmi", "explored:test")


def test_layers_files_and_waste(engine):
    shown = json.loads(explore(engine, "--format", "json", "--files").stdout)
    assert (shown["Size"], shown["WastedSize"]) == (SIZE, WASTED)
    assert shown["Wasted"] == [{"Path": "big", "Size": 1_000_000, "Layers": 2}, {"Path": "d/x", "Size": 200_000, "Layers": 1}, {"Path": "d/y", "Size": 1000, "Layers": 1}]
    assert [(layer["Size"], layer["WastedSize"]) for layer in shown["Layers"]] == [(1_201_500, WASTED), (300_010, 0), (700, 0)]
    changes = [{(file["Path"], file["Change"], file["Hidden"]) for file in layer["Files"]} for layer in shown["Layers"]]
    assert changes[0] == {("big", "added", True), ("d/x", "added", True), ("d/y", "added", True), ("kept", "added", False)}
    assert changes[1] == {("big", "replaced", False), ("d/x", "removed", False), ("evil\x1b[2J", "added", False)}
    assert changes[2] == {("d/y", "removed", False), ("d/new", "added", False)}


def test_a_limit_is_an_exit_code(engine):
    for limit, code in (("1", 1), ("1MB", 1), ("2MB", 0), ("50%", 1), ("90%", 0)):
        result = explore(engine, "--wasted-max", limit)
        assert result.returncode == code, (limit, result)
        assert ("more than --wasted-max" in result.stderr) == (code == 1)
    assert explore(engine, "--wasted-max", "much").returncode == 1


def test_for_people(engine):
    text = explore(engine).stdout
    assert "1.5MB of files in 3 layers" in text and "1.2MB (79.9%)" in text and "LAYER" in text
    one = explore(engine, "--layer", "2", "--path", "/d").stdout
    assert "- " in one and "d/x" in one and "kept" not in one and "new" not in one
    assert "\x1b" not in explore(engine, "--files").stdout, "a name moves no cursor"
    assert explore(engine, "--layer", "9").returncode == 1
    assert engine.client("image", "explore", "nosuch:image", program=NARU).returncode == 1


def test_a_large_image_is_read_as_it_comes(naru):
    shown = json.loads(naru.client("image", "explore", "--format", "json", "debian:test").stdout)
    assert shown["Size"] > 100_000_000 and len(shown["Layers"]) > 1
