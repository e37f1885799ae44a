"""Publishing, the ways between containers and host, and life beside Debian's Docker."""

import subprocess
import time

import pytest
from testkit.api import Api, ApiError
from testkit.engine import DebianDocker, Naru

SERVE = ["sh", "-c", "echo served >/index; httpd -f -p 80 -h /"]
ECHO_UDP = (
    "import socket\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.bind(('0.0.0.0', 53))\n"
    "while True:\n"
    "    data, address = s.recvfrom(999)\n"
    "    s.sendto(data.upper(), address)\n"
)
ASK_UDP = (
    "import socket, sys\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.settimeout(0.5)\n"
    "for _ in range(10):\n"
    "    try:\n"
    "        s.sendto(b'ping', (sys.argv[1], int(sys.argv[2])))\n"
    "        print(s.recv(99).decode())\n"
    "        break\n"
    "    except OSError: pass\n"
)


@pytest.fixture
def api(naru):
    client = Api(naru.socket)
    yield client
    client.close()
    naru.remove_all_containers()


def publish(port, container_port="80/tcp", address=""):
    return {"PortBindings": {container_port: [{"HostIp": address, "HostPort": str(port)}]}}


def run(api, command, name=None, image="busybox:test", host=None, ports=("80/tcp",)):
    container = api.create(command, image=image, name=name, host=host, **({"ExposedPorts": {port: {} for port in ports}} if ports else {}))
    api.start(container)
    return container


def fetch(engine, port, address="127.0.0.1", tries=20):
    for _ in range(tries):
        result = engine.scope.run("curl", "-s", "-m", "2", f"http://{address}:{port}/index")
        if result.returncode == 0:
            return result.stdout
        time.sleep(0.05)
    return f"curl ended with {result.returncode}"


def address_of(api, container):
    return api.inspect(container)["NetworkSettings"]["IPAddress"]


def test_tcp_port_on_loopback_bridge_and_own_address(naru, api):
    container = run(api, SERVE, host=publish(18090))
    assert fetch(naru, 18090) == "served\n"
    gateway = api.inspect(container)["NetworkSettings"]["Gateway"]
    assert fetch(naru, 18090, gateway) == "served\n"


def test_published_port_from_another_container_and_from_itself(naru, api):
    container = run(api, SERVE, name="server", host=publish(18091))
    assert fetch(naru, 18091) == "served\n"
    gateway = api.inspect(container)["NetworkSettings"]["Gateway"]
    other = run(api, ["sleep", "100"])
    ask = ["timeout", "3", "wget", "-qO-", f"http://{gateway}:18091/index"]
    assert api.exec(other, ask) == (b"served\n", 0)
    assert api.exec(container, ask) == (b"served\n", 0), "a container cannot reach itself by its published port"


def test_udp_port(naru, api):
    run(api, ["python3", "-c", ECHO_UDP], image="debian:test", host=publish(18092, "53/udp"), ports=("53/udp",))
    assert naru.scope.run("python3", "-c", ASK_UDP, "127.0.0.1", "18092").stdout == "PING\n"


def test_udp_port_after_its_container_is_replaced(naru, api):
    for _ in range(2):
        container = run(api, ["python3", "-c", ECHO_UDP], image="debian:test", host=publish(18093, "53/udp"), ports=("53/udp",))
        assert naru.scope.run("python3", "-c", ASK_UDP, "127.0.0.1", "18093").stdout == "PING\n"
        api.remove(container)


def test_port_bound_to_loopback_is_not_on_the_bridge(naru, api):
    container = run(api, SERVE, host=publish(18094, address="127.0.0.1"))
    assert fetch(naru, 18094) == "served\n"
    gateway = api.inspect(container)["NetworkSettings"]["Gateway"]
    assert fetch(naru, 18094, gateway, tries=1).startswith("curl ended")


def test_loopback_of_the_host_is_not_reachable_from_outside(naru, api):
    """route_localnet lets a neighbour reach what listens on 127.0.0.1 unless it is dropped (CVE-2020-8558)."""
    server = subprocess.Popen(
        naru.scope.command("python3", "-m", "http.server", "--bind", "127.0.0.1", "18095"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        container = run(api, ["sleep", "100"], host={"CapAdd": ["NET_ADMIN"]})
        gateway = api.inspect(container)["NetworkSettings"]["Gateway"]
        steps = f"ip route add 127.0.0.1/32 via {gateway} table local 2>&1; ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via {gateway}; timeout 2 wget -qO- http://127.0.0.1:18095/"
        output, code = api.exec(container, ["sh", "-c", steps])
        assert code != 0, output
        honest = naru.scope.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:18095/")
        assert honest.stdout == "200"
    finally:
        server.kill()
        server.wait()


def test_range_is_published_port_by_port(naru, api):
    bindings = {f"{80 + n}/tcp": [{"HostPort": str(18100 + n)}] for n in range(5)}
    command = ["sh", "-c", "echo served >/index; for p in 80 81 82 83 84; do httpd -p $p -h /; done; sleep 100"]
    run(api, command, host={"PortBindings": bindings}, ports=tuple(bindings))
    assert [fetch(naru, 18100 + n) for n in range(5)] == ["served\n"] * 5


def test_port_in_use_is_refused_and_free_again_after_removal(naru, api):
    first = run(api, SERVE, host=publish(18110))
    second = api.create(SERVE, host=publish(18110), ExposedPorts={"80/tcp": {}})
    with pytest.raises(ApiError) as caught:
        api.start(second)
    assert caught.value.status == 500 and "already allocated" in str(caught.value)
    assert fetch(naru, 18110) == "served\n"
    api.remove(first)
    api.start(second)
    assert fetch(naru, 18110) == "served\n"


def test_port_of_a_host_program_is_refused(naru, api):
    listener = subprocess.Popen(
        naru.scope.command("python3", "-c", "import socket; s = socket.create_server(('0.0.0.0', 18111)); print(1, flush=True); s.accept()"),
        stdout=subprocess.PIPE)
    try:
        listener.stdout.readline()
        container = api.create(SERVE, host=publish(18111), ExposedPorts={"80/tcp": {}})
        with pytest.raises(ApiError) as caught:
            api.start(container)
        assert "in use" in str(caught.value) or "already allocated" in str(caught.value)
    finally:
        listener.kill()
        listener.wait()


def test_ports_survive_the_daemon(fresh_naru):
    api = Api(fresh_naru.socket)
    run(api, SERVE, host=publish(18120))
    run(api, SERVE, host={"PortBindings": {"80/tcp": [{"HostPort": ""}]}}, name="chosen")
    chosen = api.inspect("chosen")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    api.close()
    fresh_naru.kill9()
    assert fetch(fresh_naru, 18120) == "served\n"
    assert fetch(fresh_naru, chosen) == "served\n"
    fresh_naru.start()
    assert fetch(fresh_naru, 18120) == "served\n"
    assert api.inspect("chosen")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"] == chosen
    fresh_naru.stop()
    assert fetch(fresh_naru, 18120) == "served\n"
    api.close()


def test_container_to_container(naru, api):
    server = run(api, SERVE)
    address = address_of(api, server)
    other = run(api, ["sleep", "100"])
    for _ in range(100):
        output, code = api.exec(other, ["timeout", "2", "wget", "-qO-", f"http://{address}/index"])
        if code == 0:
            break
        time.sleep(0.05)
    assert (output, code) == (b"served\n", 0)


def test_outgoing_traffic_is_masqueraded(naru, api):
    naru.scope.shell(
        "ip netns add naru-far; ip link add near type veth peer name far netns naru-far; ip addr add 198.51.100.1/24 dev near; "
        "ip link set near up; ip -n naru-far addr add 198.51.100.2/24 dev far; ip -n naru-far link set far up; ip -n naru-far link set lo up")
    try:
        # The far side has no route back to the bridge: an answer proves that the source was rewritten.
        container = run(api, ["sleep", "100"])
        assert api.exec(container, ["ping", "-c1", "-W2", "198.51.100.2"])[1] == 0
    finally:
        naru.scope.shell("ip link del near; ip netns del naru-far")


def test_addresses_are_reused_and_unique(api):
    seen = set()
    containers = [run(api, ["sleep", "100"]) for _ in range(10)]
    for container in containers:
        seen.add(address_of(api, container))
    assert len(seen) == 10
    for container in containers:
        api.remove(container)


def test_network_container_shares_and_survives(naru, api):
    run(api, SERVE, name="owner")
    guest = run(api, ["sleep", "100"], host={"NetworkMode": "container:owner"}, ports=())
    output, code = api.exec(guest, ["sh", "-c", "for i in $(seq 100); do wget -qO- http://127.0.0.1/index && exit 0; sleep 0.1; done; exit 1"])
    assert (output[-7:], code) == (b"served\n", 0)


def test_beside_docker_in_one_namespace(images):
    """Docker's FORWARD chain drops by policy; Naru's containers must still reach the outside, and Docker's too."""
    docker = DebianDocker()
    naru = None
    try:
        # Docker drops by policy only where it is the one to turn forwarding on; a new namespace has the host's setting.
        docker.scope.shell("echo 0 >/proc/sys/net/ipv4/ip_forward")
        docker.start()
        docker.load(images + "/busybox.tar")
        naru = Naru(scope=docker.scope)
        naru.start()
        naru.load(images + "/busybox.tar")
        assert "policy DROP" in docker.scope.run("iptables", "-L", "FORWARD").stdout or "DROP" in docker.scope.run("iptables", "-S", "FORWARD").stdout
        check_both(docker, naru)
        # A host's firewall reloads: the accept comes back, without a restart of anything.
        docker.scope.shell("iptables -F DOCKER-USER; iptables -A DOCKER-USER -j RETURN")
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            try:
                check_both(docker, naru)
                break
            except AssertionError:
                time.sleep(0.5)
        check_both(docker, naru)
        rules = docker.scope.run("iptables", "-S").stdout
        assert "DOCKER-USER" in rules, "iptables can no longer print its own rules"
        naru.remove_all_containers()
        naru.stop()
        after = docker.scope.run("iptables", "-S", "DOCKER-USER").stdout
        assert "naru" not in after and after.count("-A") <= 1, after
    finally:
        if naru:
            naru.close()
        docker.close()


@pytest.mark.parametrize("kind", [DebianDocker, Naru], ids=lambda kind: kind.name)
def test_a_host_that_begins_to_forward_routes_for_nobody_else(images, kind):
    """Neighbours on two other networks of the host reach a published port, and not each other through the host."""
    engine = kind()
    neighbours = {"naru-left": 1, "naru-right": 2}
    try:
        # A new namespace has the host's setting.
        engine.scope.shell("echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding")
        for name, number in neighbours.items():
            made = engine.scope.shell(
                f"set -e; ip netns add {name}; ip link add near{number} type veth peer name far netns {name}; ip link set near{number} up; "
                f"ip addr add 10.66.{number}.1/24 dev near{number}; ip -n {name} addr add 10.66.{number}.2/24 dev far; ip -n {name} link set far up; "
                f"ip -n {name} link set lo up; ip -n {name} route add default via 10.66.{number}.1; ip addr add fd66:{number}::1/64 dev near{number} nodad; "
                f"ip -n {name} addr add fd66:{number}::2/64 dev far nodad; ip -n {name} route add default via fd66:{number}::1")
            assert made.returncode == 0, made.stderr
        engine.start()
        engine.load(images + "/busybox.tar")
        assert engine.scope.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "1\n"
        run = engine.client("run", "-d", "--name", "server", "-p", "18133:80", "busybox:test", *SERVE)
        assert run.returncode == 0, run.stderr
        assert fetch(engine, 18133) == "served\n"

        def reaches(name, address):
            return engine.scope.run("ip", "netns", "exec", name, "busybox", "ping", "-c1", "-W1", address).returncode == 0

        assert reaches("naru-left", "10.66.1.1") and reaches("naru-right", "10.66.2.1")
        assert engine.scope.run("ip", "netns", "exec", "naru-right", "curl", "-s", "-m", "5", "http://10.66.2.1:18133/index").stdout == "served\n"
        assert engine.client("exec", "server", "ping", "-c1", "-W2", "10.66.1.2").returncode == 0
        assert not reaches("naru-left", "10.66.2.2") and not reaches("naru-right", "10.66.1.2")
        # Where a user accepts it, it passes: the drop is a policy, not the last word.
        assert engine.scope.run("iptables", "-A", "FORWARD", "-i", "near+", "-o", "near+", "-j", "ACCEPT").returncode == 0
        assert reaches("naru-left", "10.66.2.2")
        if kind is DebianDocker:
            # Without its experimental --ip6tables it leaves IPv6 alone.
            return
        forwarding = "/proc/sys/net/ipv6/conf/all/forwarding"
        assert engine.scope.run("cat", forwarding).stdout == "0\n"
        for words in (["network", "create", "--ipv6", "--subnet", "fd00:77::/64", "six"], ["network", "connect", "six", "server"]):
            made = engine.client(*words)
            assert made.returncode == 0, made.stderr
        assert engine.scope.run("cat", forwarding).stdout == "1\n"
        assert reaches("naru-left", "fd66:1::1") and reaches("naru-right", "fd66:2::1")
        assert engine.client("exec", "server", "ping", "-c1", "-W2", "fd66:1::2").returncode == 0
        assert not reaches("naru-left", "fd66:2::2")
        assert engine.scope.run("ip6tables", "-A", "FORWARD", "-i", "near+", "-o", "near+", "-j", "ACCEPT").returncode == 0
        assert reaches("naru-left", "fd66:2::2")
    finally:
        for name in neighbours:
            engine.scope.shell(f"ip netns del {name}")
        engine.close()


def check_both(docker, naru):
    for engine, port in ((docker, 18130), (naru, 18131)):
        engine.client("rm", "-fv", "server")
        made = engine.client("run", "-d", "--name", "server", "-p", f"{port}:80", "busybox:test", *SERVE)
        assert made.returncode == 0, made.stderr
        assert fetch(engine, port) == "served\n", engine.name
        address = engine.client("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "server").stdout.strip()
        result = engine.client("run", "--rm", "busybox:test", "timeout", "3", "wget", "-qO-", f"http://{address}/index")
        assert result.stdout == "served\n", f"{engine.name}: container to container: {result.stderr}"


def test_two_engines_share_a_namespace(images):
    first = second = None
    try:
        first = Naru()
        first.start()
        first.load(images + "/busybox.tar")
        second = Naru(scope=first.scope)
        second.start()
        second.load(images + "/busybox.tar")
        for engine, port in ((first, 18140), (second, 18141)):
            assert engine.client("run", "-d", "--name", "server", "-p", f"{port}:80", "busybox:test", *SERVE).returncode == 0
        assert fetch(first, 18140) == fetch(second, 18141) == "served\n"
        second.remove_all_containers()
        second.stop()
        assert fetch(first, 18140) == "served\n"
    finally:
        for engine in (second, first):
            if engine:
                engine.close()


def test_engine_refuses_an_open_tcp_port(images):
    engine = Naru()
    try:
        result = engine.scope.run(*engine.daemon_command(), "-H", "tcp://127.0.0.1:2375", timeout=60)
        assert result.returncode != 0
        assert "tls" in (result.stderr + result.stdout).lower()
    finally:
        engine.close()


def test_no_abstract_sockets(naru):
    """An abstract socket is reachable from any container on the host's network (CVE-2020-15257)."""
    with open(f"/proc/{naru.process.pid}/net/unix") as file:
        abstract = [line.split()[-1] for line in file if "@" in line]
    assert [name for name in abstract if "naru" in name] == []
