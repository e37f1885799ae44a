"""Programs other than Docker's own: docker-compose 1.29, dockerode, aiodocker, testcontainers. Each runs on Debian's Docker first."""

import asyncio
import json
import os
import shutil
import tempfile

import pytest
import world
from testkit.engine import ROOT
from world import IMAGE, differences, prove, run

HERE = os.path.dirname(os.path.abspath(__file__))
PORT = "18430"


def scenario_dockerode(world):
    node = shutil.which("node")
    result = world.engine.scope.run(node, HERE + "/node/dockerode.js", world.engine.socket, ROOT + "/target/node/node_modules")
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


class Compose:
    """The program with a copy of the project, since it looks for its files around itself."""

    def __init__(self, world):
        self.world = world
        self.folder = tempfile.mkdtemp(prefix="naru-t-compose-", dir="/tmp")
        shutil.copytree(HERE + "/compose", self.folder + "/app")

    def close(self):
        self("down", "-v", "-t", "0")
        shutil.rmtree(self.folder)

    def __call__(self, *arguments):
        # The client beside it is for `exec` and `run`, which it hands over to `docker`.
        environment = {**os.environ, "DOCKER_HOST": self.world.engine.host, "PORT": PORT, "COMPOSE_PROJECT_NAME": "app", "COMPOSE_HTTP_TIMEOUT": "60", "HOME": self.folder}
        folder = self.folder + "/app"
        result = self.world.engine.scope.run("env", "-C", folder, "/usr/bin/docker-compose", "--ansi", "never", *arguments, env=environment)
        return result.returncode, result.stdout, result.stderr

    def must(self, *arguments):
        code, out, err = self(*arguments)
        assert code == 0, f"{arguments}: {out}{err}"
        return out


def scenario_docker_compose(world):
    compose = Compose(world)
    facts = {}

    def states():
        return sorted((one["Names"][0], one["State"]) for one in world.api.containers(all=True))

    try:
        compose.must("config", "-q")
        compose.must("up", "-d", "-t", "0")
        facts["up"] = states()
        facts["networks"] = sorted(one["Name"] for one in world.api.networks() if one["Name"].startswith("app_"))
        facts["page"] = world.engine.scope.run("curl", "-s", "-m", "5", f"http://127.0.0.1:{PORT}/").stdout
        facts["ps"] = compose.must("ps", "-q").count("\n")
        facts["services"] = sorted(compose.must("ps", "--services").split())
        facts["port"] = compose.must("port", "web", "80").strip()
        # Of the soft limit runc is not always of one mind: its own runtime raises it.
        facts["exec"] = compose.must("exec", "-T", "db", "sh", "-c", "cat /data/state /etc/app/app.conf; touch /x 2>&1; ulimit -Hn")
        facts["names"] = compose.must("exec", "-T", "web", "sh", "-c", "getent hosts db >/dev/null 2>&1 || nslookup db 2>&1 | grep -c 'Address.*10.66.0'").strip() != "0"
        facts["run"] = compose.must("run", "--rm", "-T", "--no-deps", "web", "echo", "ran").strip()
        facts["top"] = "sleep 1000" in compose.must("top", "worker")
        facts["images"] = compose.must("images", "-q", "db").count("\n")
        facts["logs"] = compose("logs", "--no-color", "db")[0]
        # Nothing has changed, so nothing is made anew.
        before = sorted(one["Id"] for one in world.api.containers())
        compose.must("up", "-d", "-t", "0")
        facts["again"] = before == sorted(one["Id"] for one in world.api.containers())
        compose.must("up", "-d", "-t", "0", "--scale", "worker=3")
        facts["scaled"] = sum("worker" in name for name, _ in states())
        compose.must("pause", "worker")
        facts["paused"] = states()
        compose.must("unpause", "worker")
        compose.must("restart", "-t", "0", "web")
        compose.must("stop", "-t", "0", "web")
        compose.must("start", "web")
        compose.must("kill", "worker")
        compose.must("rm", "-f", "worker")
        facts["after"] = states()
        # A change of one service makes that one anew, with its volume.
        with open(compose.folder + "/app/docker-compose.override.yml", "w") as file:
            file.write('version: "2.4"\nservices: {db: {environment: {NEW: "1"}}}\n')
        compose.must("up", "-d", "-t", "0", "db")
        facts["changed"] = compose.must("exec", "-T", "db", "sh", "-c", "echo $NEW").strip()
        compose.must("down", "-v", "-t", "0")
        facts["down"] = [states(), sorted(one["Name"] for one in world.api.networks() if one["Name"].startswith("app_")), world.api.volumes()["Volumes"] or []]
    finally:
        compose.close()
    return facts


def scenario_aiodocker(world):
    import aiodocker

    async def whole():
        facts = {}
        async with aiodocker.Docker(url="unix://" + world.engine.socket) as docker:
            facts["info"] = (await docker.system.info())["OSType"]
            events = docker.events.subscribe()
            container = await docker.containers.create_or_replace("aio", {"Image": IMAGE, "Cmd": ["cat"], "OpenStdin": True, "StdinOnce": True, "AttachStdin": True,
                                                                         "AttachStdout": True, "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "18440"}]}},
                                                                         "ExposedPorts": {"80/tcp": {}}})
            async with container.attach(stdin=True, stdout=True, stderr=True) as stream:
                await container.start()
                await stream.write_in(b"there and back\n")
                facts["attach"] = (await stream.read_out()).data.decode()
            # Its input has ended with the stream.
            await container.wait(timeout=10)
            await container.start()
            web = await container.websocket(stdin=True, stdout=True, stream=True)
            await web.send_bytes(b"by web\n")
            facts["websocket"] = (await web.receive()).data.decode()
            await web.close()
            await container.wait(timeout=10)
            await container.delete(force=True)
            facts["event"] = (await asyncio.wait_for(events.get(), 10))["Action"]
            container = await docker.containers.run({"Image": IMAGE, "Cmd": ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"]}, name="aio-two")
            facts["port"] = await container.port("80")
            while len(await container.log(stdout=True, stderr=True)) < 2:
                await asyncio.sleep(0.05)
            facts["log"] = [await container.log(stdout=True), await container.log(stderr=True)]
            execution = await container.exec(["sh", "-c", "read x; echo got $x; exit 4"], stdin=True)
            async with execution.start() as stream:
                await stream.write_in(b"this\n")
                facts["exec"] = (await stream.read_out()).data.decode()
                assert await stream.read_out() is None
            facts["code"] = (await execution.inspect())["ExitCode"]
            execution = await container.exec(["stty", "size"], tty=True)
            facts["stats"] = sorted((await container.stats(stream=False))[0].keys() & {"cpu_stats", "networks", "memory_stats"})
            await container.put_archive("/tmp", world_tar())
            facts["archive"] = (await container.get_archive("/tmp/sent")).getnames()
            await container.rename("aio-three")
            await container.pause()
            await container.unpause()
            await container.commit(repository="aio", tag="one")
            facts["images"] = [one["RepoTags"] for one in await docker.images.list(filters={"reference": ["aio"]})]
            async with docker.images.export_image("aio:one") as archive:
                data = b"".join([part async for part in archive.iter_chunked(65536)])
            await docker.images.delete("aio:one")
            facts["load"] = [line["stream"].strip() for line in await docker.images.import_image(data) if "Loaded image" in line.get("stream", "")]
            network = await docker.networks.create({"Name": "aio"})
            await network.connect({"Container": "aio-three"})
            facts["network"] = [one["Name"] for one in (await network.show())["Containers"].values()]
            await network.disconnect({"Container": "aio-three", "Force": True})
            await network.delete()
            volume = await docker.volumes.create({"Name": "aio"})
            facts["volume"] = (await volume.show())["Driver"]
            await volume.delete()
            await container.restart(t=0)
            await container.stop(t=0)
            facts["wait"] = (await container.wait())["StatusCode"]
            with pytest.raises(aiodocker.DockerError) as caught:
                await docker.containers.get("nosuch")
            facts["missing"] = caught.value.status
            await container.delete(v=True)
        return facts

    return asyncio.run(whole())


def world_tar():
    from sdk_containers import tar_of
    return tar_of("sent", b"there")


def scenario_testcontainers(world):
    """As its users write it; the helper that reaps containers is told not to, since it would come from Docker Hub."""
    os.environ.update(DOCKER_HOST=world.engine.host, TESTCONTAINERS_RYUK_DISABLED="true", TC_HOST="127.0.0.1")
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy
    testcontainers_config.ryuk_disabled = True
    facts = {}
    try:
        with Network() as network:
            server = DockerContainer(IMAGE).with_command(["sh", "-c", "echo ready; exec busybox httpd -f -p 80 -h /"]).with_exposed_ports(80).with_env("A", "1")
            server = server.with_network(network).with_network_aliases("server").with_volume_mapping(HERE, "/here", "ro").waiting_for(LogMessageWaitStrategy("ready"))
            with server as running:
                port = running.get_exposed_port(80)
                facts["port"] = int(port) > 0
                facts["page"] = world.engine.scope.run("curl", "-s", "-m", "5", f"http://127.0.0.1:{port}/here/node/dockerode.js").stdout.splitlines()[1]
                facts["exec"] = [running.exec(["sh", "-c", "echo $A; exit 2"]).exit_code, running.exec("echo hi").output.decode()]
                facts["logs"] = running.get_logs()[0].decode()
                facts["status"] = running.get_wrapped_container().status
            facts["gone"] = world.api.containers(all=True) == []
    finally:
        del os.environ["DOCKER_HOST"]
    return facts


SCENARIOS = [value for name, value in list(globals().items()) if name.startswith("scenario_")]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__.removeprefix("scenario_"))
def test_client(scenario, client_world, reference_world):
    sources = [__file__, world.__file__, HERE + "/node/dockerode.js", HERE + "/compose/docker-compose.yml"]
    proved = prove(scenario, sources, reference_world)
    apart = differences(proved, json.loads(json.dumps(run(scenario, client_world))))
    assert not apart, json.dumps(apart, indent=1)
