"""What the documentation of Docker's SDK for Python promises its callers: types of errors, streams, sockets."""

import contextlib
import socket
import threading
import time

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageLoadError, ImageNotFound, NotFound

IMAGE = "busybox:test"


@pytest.fixture(scope="module")
def sdk(busybox_naru):
    client = docker.DockerClient(base_url=busybox_naru.host, timeout=120)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def clean(sdk):
    """Every test leaves the engine as it found it."""
    before = [image.tags for image in sdk.images.list()]
    yield
    for container in sdk.containers.list(all=True):
        container.remove(force=True, v=True)
    for volume in sdk.volumes.list():
        volume.remove(force=True)
    assert [image.tags for image in sdk.images.list()] == before


@contextlib.contextmanager
def sleeping(sdk, **options):
    container = sdk.containers.run(IMAGE, ["sleep", "100"], detach=True, **{"network_mode": "none", **options})
    try:
        yield container
    finally:
        container.remove(force=True)


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.02)


def read_all(raw):
    """Reads an SDK socket to its end."""
    plain = getattr(raw, "_sock", raw)
    plain.settimeout(10)
    whole = b""
    while data := plain.recv(4096):
        whole += data
    return whole


def test_ping_version_and_info_agree(sdk):
    assert sdk.ping() is True
    version = sdk.version()
    assert version["Os"] == "linux" and version["Arch"] == "amd64" and version["Version"]
    assert sdk.api.api_version == version["ApiVersion"]
    info = sdk.info()
    assert info["OSType"] == "linux" and info["NCPU"] >= 1 and info["MemTotal"] > 1 << 20
    running, whole = info["ContainersRunning"], info["Containers"]
    with sleeping(sdk):
        info = sdk.info()
        assert (info["ContainersRunning"], info["Containers"]) == (running + 1, whole + 1)


def test_run_returns_the_streams_asked_for(sdk):
    both = ["sh", "-c", "echo out; echo err >&2"]
    assert sdk.containers.run(IMAGE, both) == b"out\n"
    assert sdk.containers.run(IMAGE, both, stdout=False, stderr=True) == b"err\n"
    assert sdk.containers.run(IMAGE, both, remove=True) == b"out\n"
    assert len(sdk.containers.list(all=True)) == 2, "remove=True was not heeded"
    assert sdk.containers.run(IMAGE, ["sh", "-c", "exit 0"]) == b""
    lines = sdk.containers.run(IMAGE, ["sh", "-c", "echo 1; sleep 0.1; echo 2"], stream=True)
    assert b"".join(lines) == b"1\n2\n"


def test_run_takes_the_usual_options(sdk):
    made = sdk.volumes.create("sdk-options")
    script = "echo $A; hostname; pwd; id -u; touch /x 2>/dev/null; echo $?; touch /m/x 2>/dev/null; echo $?; grep CapBnd /proc/self/status"
    output = sdk.containers.run(
        IMAGE, ["sh", "-c", script], environment={"A": "a b"}, hostname="here", working_dir="/tmp", user="7", read_only=True,
        volumes={made.name: {"bind": "/m", "mode": "ro"}}, labels={"of": "sdk"}, cap_drop=["ALL"], pids_limit=50, mem_limit="64m", remove=True)
    lines = output.decode().splitlines()
    assert lines == ["a b", "here", "/tmp", "7", "1", "1", "CapBnd:\t0000000000000000"]


def test_a_failing_run_raises_container_error(sdk):
    with pytest.raises(ContainerError) as caught:
        sdk.containers.run(IMAGE, ["sh", "-c", "echo why >&2; exit 3"], name="sdk-failing")
    assert (caught.value.exit_status, caught.value.stderr, caught.value.image) == (3, b"why\n", IMAGE)
    assert caught.value.container.name == "sdk-failing"


def test_a_life_of_its_own(sdk):
    script = "for i in 1 2 3; do echo $i; sleep 0.1; done; while :; do sleep 1; done"
    container = sdk.containers.run(IMAGE, ["sh", "-c", script], detach=True, name="sdk-life")
    stream, seen = container.logs(stream=True, follow=True), b""
    while seen != b"1\n2\n3\n":
        seen += next(stream)
        assert b"1\n2\n3\n".startswith(seen), seen
    stream.close()
    assert container.logs(tail=1) == b"3\n" and container.logs(stdout=False, stderr=True) == b""
    assert container.logs(timestamps=True).count(b"Z ") == 3
    container.reload()
    assert container.status == "running" and container.attrs["State"]["Pid"] > 0
    assert [one.id for one in sdk.containers.list(filters={"name": "sdk-life", "status": "running"})] == [container.id]
    assert any("for i in" in process[-1] for process in container.top()["Processes"])
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.rename("sdk-renamed")
    container.stop(timeout=0)
    assert container.wait()["StatusCode"] == 137
    container.restart(timeout=0)
    assert sdk.containers.get("sdk-renamed").status == "running"
    container.kill("SIGKILL")
    assert container.wait(condition="not-running")["StatusCode"] == 137
    container.remove()
    with pytest.raises(NotFound):
        sdk.containers.get("sdk-renamed")


def test_wait_gives_the_code_and_heeds_its_timeout(sdk):
    container = sdk.containers.run(IMAGE, ["sh", "-c", "until [ -e /go ]; do sleep 0.05; done; exit 9"], detach=True)
    with pytest.raises(Exception, match="(?i)timed? ?out"):
        container.wait(timeout=0.2)
    assert container.exec_run(["touch", "/go"]).exit_code == 0
    assert container.wait(timeout=60)["StatusCode"] == 9
    assert container.wait()["StatusCode"] == 9


def test_exec_run_in_every_form(sdk):
    with sleeping(sdk, environment={"OF": "run"}) as container:
        result = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"])
        assert result.exit_code == 4 and sorted(result.output.split()) == [b"err", b"out"]
        result = container.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True)
        assert tuple(result) == (0, (b"out\n", b"err\n"))
        assert container.exec_run(["true"], demux=True).output == (None, None)
        result = container.exec_run(["sh", "-c", "id -u; pwd; echo $OF$A"], user="5", workdir="/tmp", environment={"A": "b"})
        assert result.output == b"5\n/tmp\nrunb\n"
        assert b"".join(container.exec_run(["sh", "-c", "echo 1; sleep 0.1; echo 2"], stream=True).output) == b"1\n2\n"
        pairs = list(container.exec_run(["sh", "-c", "echo 1; sleep 0.1; echo 2 >&2"], stream=True, demux=True).output)
        assert pairs == [(b"1\n", None), (None, b"2\n")]
        assert container.exec_run(["sh", "-c", "test -t 1 && tty"], tty=True).output == b"/dev/pts/0\r\n"
        assert container.exec_run(["no-such"]).exit_code in (126, 127)
        container.exec_run(["sh", "-c", "echo late >/late"], detach=True)
        until(lambda: container.exec_run(["cat", "/late"]).output == b"late\n")
        large = container.exec_run(["sh", "-c", "yes | head -c 3000000"]).output
        assert large == b"y\n" * 1_500_000


@pytest.mark.parametrize("round", range(5))
def test_exec_loses_no_byte_of_a_short_command(sdk, round):
    """The end of a quick command and its output race each other."""
    with sleeping(sdk) as container:
        for _ in range(20):
            assert tuple(container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True)) == (4, (b"out\n", b"err\n"))


def test_exec_socket_carries_both_ways(sdk):
    with sleeping(sdk) as container:
        raw = container.exec_run(["cat"], stdin=True, socket=True).output
        raw._sock.sendall(b"there and back\n")
        raw._sock.shutdown(socket.SHUT_WR)
        assert read_all(raw) == b"\x01\0\0\0\0\0\0\x0fthere and back\n"
        raw.close()
        raw = container.exec_run(["sh"], stdin=True, tty=True, socket=True).output
        raw._sock.sendall(b"echo $((6*7)); exit\n")
        assert b"\n42\r\n" in read_all(raw)
        raw.close()


def test_attach_carries_input_and_both_outputs(sdk):
    script = "read line; echo got $line; echo err >&2; sleep 0.1; echo last"
    container = sdk.containers.create(IMAGE, ["sh", "-c", script], stdin_open=True)
    stream = container.attach(stream=True, demux=True)
    raw = container.attach_socket(params={"stdin": 1, "stream": 1})
    container.start()
    raw._sock.sendall(b"this\n")
    out, err = b"", b""
    for one, other in stream:
        out, err = out + (one or b""), err + (other or b"")
    assert (out, err) == (b"got this\nlast\n", b"err\n")
    raw.close()
    assert container.wait()["StatusCode"] == 0
    assert container.logs(stderr=False) == b"got this\nlast\n"


def test_image_archives_tags_and_removal(sdk, images):
    image = sdk.images.get(IMAGE)
    assert IMAGE in image.tags and image.id.startswith("sha256:") and image.history()
    with open(images + "/busybox.tar", "rb") as file:
        loaded = sdk.images.load(file)
    assert [one.id for one in loaded] == [image.id]
    assert image.tag("sdk/tagged", tag="one") is True
    assert sdk.images.get("sdk/tagged:one").id == image.id
    assert [one.id for one in sdk.images.list(name="sdk/tagged")] == [image.id]
    assert sdk.images.list(name="sdk/none") == []
    sdk.images.remove("sdk/tagged:one")
    with pytest.raises(ImageNotFound):
        sdk.images.get("sdk/tagged:one")
    assert sdk.images.get(IMAGE).id == image.id
    with pytest.raises(ImageLoadError):
        sdk.images.load(b"this is no archive")
    with sleeping(sdk), pytest.raises(APIError) as caught:
        sdk.images.remove(IMAGE)
    assert caught.value.status_code == 409


def test_volumes_keep_what_is_written(sdk):
    made = sdk.volumes.create("sdk-volume", labels={"of": "sdk"})
    assert made.name == "sdk-volume" and made.attrs["Labels"] == {"of": "sdk"} and made.attrs["Driver"] == "local"
    mount = {made.name: {"bind": "/m", "mode": "rw"}}
    sdk.containers.run(IMAGE, ["sh", "-c", "echo kept >/m/file"], volumes=mount, remove=True)
    assert sdk.containers.run(IMAGE, ["cat", "/m/file"], volumes=mount, remove=True) == b"kept\n"
    assert [one.name for one in sdk.volumes.list(filters={"label": "of=sdk"})] == ["sdk-volume"]
    nameless = sdk.volumes.create()
    assert sdk.volumes.prune()["VolumesDeleted"] == [nameless.name]
    with sleeping(sdk, volumes={"sdk-busy": {"bind": "/m", "mode": "rw"}}), pytest.raises(APIError) as caught:
        sdk.volumes.get("sdk-busy").remove()
    assert caught.value.status_code == 409
    sdk.volumes.get("sdk-busy").remove()
    made.remove()
    with pytest.raises(NotFound):
        sdk.volumes.get("sdk-volume")


def test_volumes_are_pruned_by_label(sdk):
    kept, gone = sdk.volumes.create(labels={"of": "kept"}), sdk.volumes.create(labels={"of": "gone"})
    assert sdk.volumes.prune(filters={"label": "of=gone"})["VolumesDeleted"] == [gone.name]
    assert [one.name for one in sdk.volumes.list()] == [kept.name]


def test_networks_show_their_containers(sdk):
    assert {"bridge", "host", "none"} <= {one.name for one in sdk.networks.list()}
    bridge = sdk.networks.list(names=["bridge"])[0]
    assert bridge.attrs["Driver"] == "bridge" and sdk.networks.get(bridge.id).name == "bridge"
    with sleeping(sdk, network_mode="bridge") as container:
        container.reload()
        assert container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        bridge.reload()
        assert container in bridge.containers
    bridge.reload()
    assert container not in bridge.containers


def test_events_are_told_as_they_happen_and_later(sdk):
    seen = []
    stream = sdk.events(decode=True, filters={"type": "container", "label": "of=events"})

    def read():
        for event in stream:
            seen.append(event["Action"])
            if event["Action"] == "destroy":
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    began = int(time.time())
    sdk.containers.run(IMAGE, ["true"])
    sdk.containers.run(IMAGE, ["sh", "-c", "exit 0"], labels={"of": "events"}, name="sdk-events")
    sdk.containers.get("sdk-events").remove()
    reader.join(60)
    assert not reader.is_alive(), seen
    stream.close()
    assert [one for one in seen if one in ("create", "start", "die", "destroy")] == ["create", "start", "die", "destroy"]
    past = sdk.events(decode=True, since=began - 1, until=int(time.time()) + 1, filters={"container": "sdk-events"})
    past = [one["Action"] for one in past]
    assert (past[0], past[-1]) == ("create", "destroy")


def test_errors_have_their_types(sdk):
    for call in (
        lambda: sdk.containers.get("no-such"), lambda: sdk.volumes.get("no-such"), lambda: sdk.networks.get("no-such"),
        lambda: sdk.api.exec_inspect("no-such"), lambda: sdk.api.start("no-such"), lambda: sdk.api.logs("no-such"),
    ):
        with pytest.raises(NotFound) as caught:
            call()
        assert "no-such" in caught.value.explanation
    with pytest.raises(ImageNotFound):
        sdk.images.get("no-such")
    with pytest.raises(ImageNotFound):
        sdk.containers.create("no-such:tag", ["true"])
    with pytest.raises(APIError) as caught:
        sdk.containers.run(IMAGE, ["no-such-program"])
    assert caught.value.is_client_error() and "no-such-program" in caught.value.explanation
    with pytest.raises(APIError) as caught:
        sdk.containers.create(IMAGE, ["true"], name="a b")
    assert caught.value.status_code == 400
    with sleeping(sdk, name="sdk-taken") as container:
        for call in (lambda: sdk.containers.create(IMAGE, ["true"], name="sdk-taken"), container.remove):
            with pytest.raises(APIError) as caught:
                call()
            assert caught.value.status_code == 409
    with pytest.raises(NotFound):
        container.exec_run(["true"])


def test_many_clients_at_once_get_their_own_answers(busybox_naru):
    """A client each: the SDK's pool of connections is not safe to share."""
    results = [None] * 16

    def run(number):
        with contextlib.closing(docker.DockerClient(base_url=busybox_naru.host)) as own:
            results[number] = [own.containers.run(IMAGE, ["echo", f"{number} {turn}"], remove=True) for turn in range(3)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[f"{number} {turn}\n".encode() for turn in range(3)] for number in range(len(results))]
