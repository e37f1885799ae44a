"""Docker's SDK for Python against the product: what programs, rather than people, do with an engine."""

import threading
import time

import docker
import pytest


@pytest.fixture
def sdk(naru):
    client = docker.DockerClient(base_url=naru.host, version="auto", timeout=120)
    yield client
    client.close()
    naru.remove_all_containers()


def test_run_returns_output_and_raises_on_failure(sdk):
    assert sdk.containers.run("busybox:test", ["echo", "hi"], remove=True) == b"hi\n"
    with pytest.raises(docker.errors.ContainerError) as failure:
        sdk.containers.run("busybox:test", ["sh", "-c", "echo why >&2; exit 3"], remove=True)
    assert (failure.value.exit_status, failure.value.stderr) == (3, b"why\n")
    with pytest.raises(docker.errors.ImageNotFound):
        sdk.api.create_container("nosuch:image", "true")
    assert sdk.containers.list(all=True) == []


def test_exec_gives_code_and_both_streams(sdk):
    container = sdk.containers.run("busybox:test", "sleep 60", detach=True)
    code, (out, err) = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True)
    assert (code, out, err) == (4, b"out\n", b"err\n")
    assert container.exec_run("pwd", workdir="/tmp", user="1000", environment={"A": "1"}).output == b"/tmp\n"
    code, output = container.exec_run("no-such")
    assert code == 126 and b"executable file not found" in output
    chunks = list(container.exec_run(["sh", "-c", "echo a; sleep 0.2; echo b"], stream=True).output)
    assert b"".join(chunks) == b"a\nb\n"
    # A socket of its own: what is written there is the process's input.
    _, raw = container.exec_run(["sh", "-c", "read line; echo got $line"], stdin=True, socket=True, tty=True)
    raw._sock.sendall(b"hello\n")
    assert b"got hello" in read_to_end(raw._sock)


def read_to_end(connection):
    received = b""
    while chunk := connection.recv(4096):
        received += chunk
    return received


def test_logs_are_whole_and_can_be_followed(sdk):
    container = sdk.containers.run("busybox:test", ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done; echo e >&2"], detach=True)
    assert list(container.logs(stream=True, follow=True)) == [b"1\n", b"2\n", b"3\n", b"e\n"]
    assert container.wait()["StatusCode"] == 0
    # The last lines are counted over both streams.
    assert container.logs(stderr=False, tail=3) == b"2\n3\n"
    assert container.logs(stdout=False) == b"e\n"
    assert b"Z 1\n" in container.logs(timestamps=True, stderr=False).splitlines(keepends=True)[0]


def test_attach_carries_input_and_output(sdk):
    container = sdk.containers.create("busybox:test", ["sh", "-c", "read line; echo got $line"], stdin_open=True, tty=True)
    raw = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    container.start()
    raw._sock.sendall(b"hello\n")
    assert b"got hello" in read_to_end(raw._sock)
    assert container.wait()["StatusCode"] == 0
    streamed = sdk.containers.create("busybox:test", ["sh", "-c", "echo a; echo b"])
    output = streamed.attach(stream=True)
    streamed.start()
    assert b"".join(output) == b"a\nb\n"


def test_images_load_tag_and_remove(sdk, images):
    with open(images + "/busybox.tar", "rb") as archive:
        loaded = sdk.images.load(archive.read())
    assert loaded[0].tags == ["busybox:test"]
    assert loaded[0].tag("sdk-test", "one")
    assert [image["RepoTags"] for image in sdk.api.images("sdk-test")] == [["sdk-test:one"]]
    assert sdk.images.get("sdk-test:one").id == loaded[0].id
    sdk.images.remove("sdk-test:one")
    with pytest.raises(docker.errors.ImageNotFound):
        sdk.images.get("sdk-test:one")
    assert sdk.images.get("busybox:test").history()[0]["Tags"] == ["busybox:test"]


def test_volumes_keep_what_containers_write(sdk):
    volume = sdk.volumes.create("sdk-volume", labels={"a": "1"})
    mount = {"sdk-volume": {"bind": "/m", "mode": "rw"}}
    sdk.containers.run("busybox:test", ["sh", "-c", "echo kept >/m/file"], volumes=mount, remove=True)
    read_only = {"sdk-volume": {"bind": "/m", "mode": "ro"}}
    assert sdk.containers.run("busybox:test", ["cat", "/m/file"], volumes=read_only, remove=True) == b"kept\n"
    with pytest.raises(docker.errors.ContainerError):
        sdk.containers.run("busybox:test", ["touch", "/m/other"], volumes=read_only, remove=True)
    assert [one.name for one in sdk.volumes.list(filters={"label": "a=1"})] == ["sdk-volume"]
    holder = sdk.containers.create("busybox:test", "true", volumes=mount)
    with pytest.raises(docker.errors.APIError, match="in use"):
        volume.remove()
    borrowed = sdk.containers.run("busybox:test", ["cat", "/m/file"], volumes_from=[holder.id + ":ro"], remove=True)
    assert borrowed == b"kept\n"
    holder.remove()
    volume.remove()
    with pytest.raises(docker.errors.NotFound):
        sdk.volumes.get("sdk-volume")


def test_attributes_follow_the_container(sdk):
    container = sdk.containers.run("busybox:test", "sleep 60", detach=True, name="sdk-life", labels={"tier": "one"}, mem_limit="64m", ports={"80/tcp": 8191})
    container.reload()
    assert (container.status, container.name, container.labels["tier"]) == ("running", "sdk-life", "one")
    assert container.ports["80/tcp"][0] == {"HostIp": "0.0.0.0", "HostPort": "8191"}
    assert [one.id for one in sdk.containers.list(filters={"label": "tier=one"})] == [container.id]
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.rename("sdk-renamed")
    container.update(mem_limit="32m", memswap_limit="32m")
    container.reload()
    assert (container.name, container.attrs["HostConfig"]["Memory"]) == ("sdk-renamed", 32 << 20)
    stats = container.stats(stream=False)
    assert stats["memory_stats"]["limit"] == 32 << 20 and stats["pids_stats"]["current"] == 1
    lines = container.stats(decode=True)
    assert next(lines)["name"] == next(lines)["name"] == "/sdk-renamed"
    lines.close()
    assert container.top()["Processes"][0][-1] == "sleep 60"
    container.kill()
    assert container.wait()["StatusCode"] == 137
    container.remove()
    with pytest.raises(docker.errors.NotFound):
        container.reload()


def test_events_arrive_while_they_happen(sdk):
    stream = sdk.events(decode=True, filters={"type": "container"})
    timer = threading.Timer(0.2, lambda: sdk.containers.run("busybox:test", "true", name="sdk-events", remove=True))
    timer.start()
    seen = []
    began = time.monotonic()
    for event in stream:
        seen.append(event["Action"])
        if event["Action"] == "destroy" or time.monotonic() - began > 20:
            break
    stream.close()
    timer.join()
    assert [action for action in seen if action != "attach"] == ["create", "start", "die", "destroy"]


def test_engine_describes_itself(sdk):
    assert sdk.ping()
    info = sdk.info()
    assert (info["OSType"], info["Driver"], info["Swarm"]["LocalNodeState"]) == ("linux", "overlay2", "inactive")
    assert sdk.version()["ApiVersion"] >= "1.41"
    assert {network.name for network in sdk.networks.list()} == {"bridge", "host", "none"}
    assert sdk.df()["Images"]
