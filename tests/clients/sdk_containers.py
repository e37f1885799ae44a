"""Scenarios: containers, their streams and what is executed in them."""

import io
import socket
import tarfile

import docker
import pytest
from docker.errors import APIError, ContainerError, NotFound
from world import IMAGE, shape, until


def read_to_end(raw):
    plain = getattr(raw, "_sock", raw)
    plain.settimeout(10)
    whole = b""
    while data := plain.recv(4096):
        whole += data
    return whole


def is_refused(call):
    """With which status depends on Docker's version: old ones take some wrong filters for failures of their own."""
    try:
        call()
    except APIError:
        return True
    return False


def tar_of(name, data):
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return output.getvalue()


def scenario_low_level_life(world):
    api = world.api
    host = api.create_host_config(
        mem_reservation=32 << 20, mem_limit="64m", port_bindings={80: ("127.0.0.1", 18401)}, restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
        cap_drop=["NET_RAW"], dns=["10.9.8.7"], extra_hosts={"far": "10.1.1.1"}, ulimits=[docker.types.Ulimit(name="nofile", soft=200, hard=300)],
        tmpfs={"/t": "size=1m"}, pids_limit=40, init=True, shm_size="1m", log_config=docker.types.LogConfig(type="json-file", config={"max-size": "1m"}))
    config = api.create_container_config(
        IMAGE, ["sleep", "1000"], hostname="here", user="7", environment={"A": "1"}, labels={"of": "low"}, ports=[80], working_dir="/tmp",
        host_config=host, healthcheck=docker.types.Healthcheck(test=["CMD", "true"], interval=10**9), stop_signal="SIGINT")
    made = api.create_container_from_config(config, name="low")
    assert set(made) >= {"Id", "Warnings"}
    container = made["Id"]
    created = api.inspect_container(container)
    assert created["State"]["Status"] == "created" and created["Config"]["Hostname"] == "here" and created["HostConfig"]["Memory"] == 64 << 20
    api.start(container)
    assert api.port(container, 80) == [{"HostIp": "127.0.0.1", "HostPort": "18401"}]
    until(lambda: api.inspect_container(container)["State"]["Health"]["Status"] == "healthy")
    api.pause(container)
    assert api.inspect_container(container)["State"]["Paused"]
    api.unpause(container)
    api.rename(container, "lower")
    api.update_container("lower", mem_limit="48m", memswap_limit="96m", cpu_shares=100, restart_policy={"Name": "no"})
    changed = api.inspect_container("lower")["HostConfig"]
    assert (changed["Memory"], changed["CpuShares"], changed["RestartPolicy"]["Name"]) == (48 << 20, 100, "no")
    api.restart("lower", timeout=0)
    first = api.top("lower")
    assert "sleep 1000" in str(first["Processes"]) and api.top("lower", "-o pid,cmd")["Titles"] == ["PID", "CMD"]
    reading = api.stats("lower", stream=False)
    assert reading["memory_stats"]["limit"] == 48 << 20
    one = api.stats("lower", stream=False, one_shot=True)
    assert one["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    listed = api.containers(filters={"label": "of=low"})
    assert [entry["Names"] for entry in listed] == [["/lower"]]
    api.kill("lower", signal="KILL")
    assert api.wait("lower")["StatusCode"] == 137
    api.start("lower")
    api.stop("lower", timeout=0)
    with pytest.raises(APIError) as caught:
        api.remove_container(container[:3] + "zz")
    assert caught.value.status_code == 404
    api.remove_container("lower", v=True, force=True)
    assert api.containers(all=True) == []
    # Nothing that Docker tells of a container is left out, but what newer versions no longer have.
    for gone in ("KernelMemory", "KernelMemoryTCP"):
        created["HostConfig"].pop(gone, None)
    del created["GraphDriver"]["Data"]
    return {"shape of inspect": shape(created), "shape of stats": shape(reading), "warnings": made["Warnings"] or [], "shape of an entry": shape(listed)}


def scenario_attach_in_every_form(world):
    api = world.api
    both = api.create_container(IMAGE, ["sh", "-c", "sleep 0.3; echo out; echo err >&2"])["Id"]
    stream = api.attach(both, stdout=True, stderr=True, stream=True, demux=True)
    api.start(both)
    parts = list(stream)
    assert (b"".join(out or b"" for out, _ in parts), b"".join(err or b"" for _, err in parts)) == (b"out\n", b"err\n")
    until(lambda: sorted(api.attach(both, stdout=True, stderr=True, logs=True, stream=False).split()) == [b"err", b"out"])
    typed = api.create_container(IMAGE, ["sh", "-c", "read line; echo got $line"], stdin_open=True, tty=True, host_config=api.create_host_config())["Id"]
    raw = api.attach_socket(typed, params={"stdin": 1, "stdout": 1, "stream": 1})
    api.start(typed)
    api.resize(typed, height=40, width=100)
    raw._sock.sendall(b"hello\n")
    assert b"got hello" in read_to_end(raw)
    raw.close()
    assert api.wait(typed)["StatusCode"] == 0


def scenario_attach_by_websocket(world):
    api = world.api
    made = api.create_container(IMAGE, ["sh", "-c", "read line; echo got $line"], stdin_open=True, tty=True)["Id"]
    api.start(made)
    url = api._url("/containers/{0}/attach/ws", made)
    import websocket
    plain = socket.socket(socket.AF_UNIX)
    plain.settimeout(10)
    plain.connect(world.engine.socket)
    web = websocket.create_connection("ws://engine" + url[url.index("/v1."):] + "?stdin=1&stdout=1&stderr=1&stream=1", socket=plain)
    web.send_binary(b"hello\n")
    whole = b""
    while b"got hello" not in whole:
        data = web.recv()
        whole += data if isinstance(data, bytes) else data.encode()
    web.close()
    assert api.wait(made)["StatusCode"] == 0


def scenario_exec_at_low_level(world):
    api = world.api
    container = world.sleeping(environment={"OF": "run"}).id
    made = api.exec_create(container, ["sh", "-c", "echo out; echo err >&2; exit 4"])["Id"]
    assert sorted(api.exec_start(made).split()) == [b"err", b"out"]
    told = api.exec_inspect(made)
    assert (told["ExitCode"], told["Running"], told["ProcessConfig"]["entrypoint"]) == (4, False, "sh")
    terminal = api.exec_create(container, ["sh", "-c", "read x; stty size"], stdin=True, tty=True)["Id"]
    raw = api.exec_start(terminal, tty=True, socket=True)
    until(lambda: api.exec_inspect(terminal)["Running"])
    api.exec_resize(terminal, height=33, width=77)
    raw._sock.sendall(b"\n")
    assert b"33 77" in read_to_end(raw)
    raw.close()
    gone = api.exec_create(container, ["sleep", "0.2"])["Id"]
    assert api.exec_start(gone, detach=True) in ("", b"")
    until(lambda: not api.exec_inspect(gone)["Running"])
    for wrong, status in ((lambda: api.exec_inspect("nosuch"), 404), (lambda: api.exec_start("nosuch"), 404), (lambda: api.exec_create(container, []), 400)):
        with pytest.raises(APIError) as caught:
            wrong()
        assert caught.value.status_code == status
    return {"shape": shape(told)}


def scenario_files_and_differences(world):
    api = world.api
    container = api.create_container(IMAGE, ["sh", "-c", "echo 1 >/made; rm /bin/busybox"])["Id"]
    assert api.put_archive(container, "/tmp", tar_of("sent", b"there"))
    chunks, stat = api.get_archive(container, "/tmp/sent")
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        assert tar.extractfile("sent").read() == b"there"
    assert (stat["name"], stat["size"]) == ("sent", 5)
    api.start(container)
    api.wait(container)
    differences = {(one["Path"], one["Kind"]) for one in api.diff(container)}
    assert {("/made", 1), ("/tmp/sent", 1), ("/bin/busybox", 2)} <= differences
    with tarfile.open(fileobj=io.BytesIO(b"".join(api.export(container)))) as tar:
        assert {"made", "tmp/sent"} <= set(tar.getnames()) and "bin/busybox" not in tar.getnames()
    for wrong in (lambda: api.get_archive(container, "/nosuch"), lambda: api.put_archive(container, "/nosuch", tar_of("a", b"")), lambda: api.diff("nosuch")):
        with pytest.raises(NotFound):
            wrong()
    done = api.commit(container, repository="sdk-commit", tag="one", message="why", author="who", changes=["ENV X=1", "CMD [\"true\"]"])
    told = api.inspect_image(done["Id"])
    assert (told["Author"], told["Comment"], told["Config"]["Cmd"]) == ("who", "why", ["true"]) and "X=1" in told["Config"]["Env"]
    return sorted(differences)


def scenario_model_of_a_container(world):
    containers = world.client.containers
    container = containers.create(IMAGE, ["sh", "-c", "echo out; echo err >&2; sleep 1000"], name="model", labels={"of": "model"}, tty=False, ports={"80/tcp": 18402})
    assert container.status == "created" and len(container.short_id) == 12 and container.id == containers.get("model").id
    container.start()
    container.reload()
    assert (container.name, container.status, container.labels["of"], container.health) == ("model", "running", "model", "unknown")
    assert container.image.tags == [IMAGE] and container.ports["80/tcp"][0]["HostPort"] == "18402"
    until(lambda: len(container.logs()) == 8)
    # The SDK itself may lose what arrives together with the answer's head.
    until(lambda: container.attach(stdout=True, stderr=False, logs=True, stream=False) == b"out\n")
    raw = container.attach_socket()
    raw.close()
    container.resize(10, 20)
    assert container.exec_run(["true"]).exit_code == 0
    assert container.put_archive("/tmp", tar_of("a", b"1"))
    assert container.get_archive("/tmp/a")[1]["size"] == 1
    assert {"Path": "/tmp/a", "Kind": 1} in container.diff()
    assert sum(map(len, container.export())) > 100_000
    assert container.stats(stream=False)["pids_stats"]["current"] >= 1
    assert container.top()["Processes"]
    image = container.commit("sdk-model", "one", conf={"Labels": {"made": "here"}})
    assert image.labels["made"] == "here"
    container.pause()
    container.unpause()
    container.rename("renamed")
    container.update(cpu_shares=99)
    container.restart(timeout=0)
    container.kill()
    assert container.wait()["StatusCode"] == 137
    container.start()
    container.stop(timeout=0)
    assert [one.id for one in containers.list(all=True, filters={"status": "exited"})] == [container.id]
    assert containers.prepare_model(container.attrs).id == container.id
    container.remove(v=True)
    assert containers.run(IMAGE, ["echo", "ran"], remove=True) == b"ran\n"
    with pytest.raises(ContainerError):
        containers.run(IMAGE, ["false"], remove=True)
    containers.run(IMAGE, ["true"])
    pruned = containers.prune()
    assert len(pruned["ContainersDeleted"]) == 1 and containers.list(all=True) == []


def scenario_logs_by_every_choice(world):
    api = world.api
    container = api.create_container(IMAGE, ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 1.1; done; echo e >&2"])["Id"]
    api.start(container)
    assert list(api.logs(container, stream=True, follow=True)) == [b"1\n", b"2\n", b"3\n", b"e\n"]
    assert api.wait(container)["StatusCode"] == 0
    assert api.logs(container, stderr=False) == b"1\n2\n3\n" and api.logs(container, stdout=False) == b"e\n"
    assert api.logs(container, tail=2) == b"3\ne\n" and api.logs(container, tail=0) == b""
    stamped = api.logs(container, timestamps=True).splitlines()
    assert all(b"Z " in line for line in stamped)
    import datetime
    second = datetime.datetime.fromisoformat(stamped[1].split()[0].decode()[:19])
    assert api.logs(container, since=second) == b"2\n3\ne\n" and api.logs(container, until=second) == b"1\n"
    with pytest.raises(APIError):
        api.logs(container, stdout=False, stderr=False)


def scenario_lists_filter(world):
    """Each filter of the list, by itself."""
    api = world.api
    api.create_network("listed")
    api.create_volume("listed")
    host = api.create_host_config(binds=["listed:/m"], port_bindings={81: 18403}, network_mode="listed")
    first = api.create_container(IMAGE, ["sleep", "1000"], name="first", labels={"a": "1", "b": "2"}, ports=[81, (82, "udp")], host_config=host,
                                 healthcheck=docker.types.Healthcheck(test=["CMD", "true"], interval=10**8))["Id"]
    second = api.create_container(IMAGE, ["sh", "-c", "exit 3"], name="second", labels={"a": "2"})["Id"]
    third = api.create_container(IMAGE, ["true"], name="third")["Id"]
    api.start(first)
    api.start(second)
    api.wait(second)
    until(lambda: api.inspect_container(first)["State"]["Health"]["Status"] == "healthy")
    names = {first: "first", second: "second", third: "third"}

    def found(**filters):
        return sorted(names[one["Id"]] for one in api.containers(all=True, filters=filters))

    facts = {}
    for filters in (
        {"ancestor": IMAGE}, {"ancestor": "nosuch"}, {"before": "second"}, {"since": "second"}, {"exited": 3}, {"exited": 0}, {"expose": "81"}, {"expose": "80-90/udp"},
        {"publish": "18403"}, {"publish": "18403/tcp"}, {"publish": "1-2"}, {"health": "healthy"}, {"health": "none"}, {"is-task": "false"},
        {"is-task": "true"}, {"label": "a"}, {"label": "a=1"}, {"label": ["a", "b"]}, {"name": "^/f"}, {"name": "first"}, {"name": ["first", "third"]},
        {"network": "listed"}, {"network": "bridge"}, {"status": "created"}, {"status": ["exited", "running"]}, {"status": "dead"}, {"volume": "listed"},
        {"volume": "/m"}, {"volume": "/n"}, {"isolation": "default"}, {"expose": "81/tcp"}, {"expose": "82"},
    ):
        facts[str(filters)] = found(**filters)
    facts["id"] = found(id=first[:20])
    facts["network's id"] = found(network=api.inspect_network("listed")["Id"])
    facts["before and since"] = found(since="first", before="third")
    for filters in ({"status": "nosuch"}, {"exited": "x"}, {"nosuch": "1"}, {"health": "nosuch"}, {"is-task": "x"}, {"publish": "x"}, {"expose": "99999"}, {"before": "nosuch"}):
        facts[f"{filters} is refused"] = is_refused(lambda filters=filters: api.containers(all=True, filters=filters))
    facts["limit"] = [names[one["Id"]] for one in api.containers(limit=2)]
    facts["latest"] = [names[one["Id"]] for one in api.containers(latest=True)]
    facts["sizes"] = sorted(api.containers(size=True)[0].keys() & {"SizeRw", "SizeRootFs"})
    facts["prune"] = [names[one] for one in sorted(api.prune_containers({"label": ["a=2"]})["ContainersDeleted"] or [])]
    facts["left"] = found()
    return facts
