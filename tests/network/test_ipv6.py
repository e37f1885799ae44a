"""IPv6 on networks, by three clients: Docker's CLI 20.10 and 28, and Naru's own."""

import ipaddress
import json
import subprocess
import time

import pytest
from testkit.engine import DOCKER_20, NARU, NEWEST_DOCKER, Naru

CLIENTS = {"cli20": DOCKER_20, "newest": NEWEST_DOCKER, "naru": None}
SLEEP = ["sleep", "300"]
SERVER = (
    "import socket, threading\n"
    "s = socket.socket(socket.AF_INET6)\n"
    "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
    "s.bind(('::', 80)); s.listen()\n"
    "while True:\n"
    "    c, a = s.accept(); c.sendall(a[0].encode()); c.close()\n")
ASK = "import socket,sys; s=socket.create_connection((sys.argv[1], int(sys.argv[2])), 3); print(s.recv(99).decode())"


def load(engine, images):
    for name in ("busybox", "debian-oci"):
        engine.load(f"{images}/{name}.tar")


@pytest.fixture(scope="module")
def naru(images):
    engine = Naru(label="6")
    engine.start()
    load(engine, images)
    yield engine
    engine.close()


@pytest.fixture(params=CLIENTS)
def docker(request, naru):
    def run(*arguments, check=True):
        result = naru.client(*arguments, program=CLIENTS[request.param], timeout=60)
        if not check:
            return result
        assert result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    yield run
    naru.remove_all_containers()
    naru.client("network", "prune", "-f", program=NEWEST_DOCKER)


def ask(engine, address, port):
    """From the host: the address that the server saw, or None."""
    result = engine.scope.run("python3", "-c", ASK, address, str(port))
    return result.stdout.strip() or None


def until(check, seconds=40):
    deadline = time.monotonic() + seconds
    while not (result := check()):
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.05)
    return result


def endpoint(docker, container, network):
    return json.loads(docker("inspect", container))[0]["NetworkSettings"]["Networks"][network]


def test_a_network_with_two_families(docker):
    docker("network", "create", "--ipv6", "--subnet", "10.66.0.0/24", "--subnet", "fd00:66::/64", "--gateway", "fd00:66::f", "six")
    network = json.loads(docker("network", "inspect", "six"))[0]
    assert network["EnableIPv6"] is True
    assert [one["Subnet"] for one in network["IPAM"]["Config"]] == ["10.66.0.0/24", "fd00:66::/64"]
    assert network["IPAM"]["Config"][1]["Gateway"] == "fd00:66::f"
    docker("run", "-d", "--name", "db", "--network", "six", "--ip", "10.66.0.9", "--ip6", "fd00:66::99", "debian:test", *SLEEP)
    docker("run", "-d", "--name", "web", "--network", "six", "debian:test", *SLEEP)
    place = endpoint(docker, "db", "six")
    assert (place["GlobalIPv6Address"], place["GlobalIPv6PrefixLen"], place["IPv6Gateway"]) == ("fd00:66::99", 64, "fd00:66::f")
    assert place["IPAMConfig"]["IPv6Address"] == "fd00:66::99"
    web = endpoint(docker, "web", "six")["GlobalIPv6Address"]
    members = json.loads(docker("network", "inspect", "six"))[0]["Containers"].values()
    assert {one["IPv6Address"] for one in members} == {"fd00:66::99/64", web + "/64"}
    # Names have both addresses, also backwards, and the hosts file too.
    found = docker("exec", "web", "python3", "-c", "import socket; print(*sorted({a[4][0] for a in socket.getaddrinfo('db', 80)}))")
    assert found == "10.66.0.9 fd00:66::99"
    reverse = docker("exec", "web", "python3", "-c", "import socket; print(socket.gethostbyaddr('fd00:66::99')[0])")
    assert reverse == "db.six"
    assert f"{web}\t" in docker("exec", "web", "cat", "/etc/hosts")
    routes = docker("exec", "web", "cat", "/proc/net/ipv6_route")
    assert routes.startswith("0" * 32 + " 00") or "\n" + "0" * 32 + " 00" in routes
    docker("exec", "-d", "db", "python3", "-c", SERVER)
    until(lambda: docker("exec", "web", "python3", "-c", ASK, "db", "80", check=False).stdout.strip() == web)
    # It is off where the network has none.
    assert docker("run", "--rm", "debian:test", "cat", "/proc/net/if_inet6") == ""


def test_a_range_is_found_where_none_is_named(docker):
    docker("network", "create", "--ipv6", "six")
    config = json.loads(docker("network", "inspect", "six"))[0]["IPAM"]["Config"]
    subnet = ipaddress.ip_network(config[1]["Subnet"])
    assert subnet.prefixlen == 64 and subnet.subnet_of(ipaddress.ip_network("fd00::/8"))
    docker("run", "-d", "--name", "web", "--network", "six", "busybox:test", *SLEEP)
    assert ipaddress.ip_address(endpoint(docker, "web", "six")["GlobalIPv6Address"]) in subnet


def test_ports_are_published_on_both_families(docker, naru):
    docker("network", "create", "--ipv6", "--subnet", "fd00:66::/64", "six")
    own = "2001:db8:66::1"
    naru.scope.run("ip", "addr", "replace", own + "/64", "dev", "lo", "nodad")
    docker(
        "run", "-d", "--name", "web", "--network", "six", "-p", "8080:80", "-p", f"[{own}]:8081:80", "-p", "0.0.0.0:8082:80",
        "debian:test", "python3", "-c", SERVER)
    until(lambda: ask(naru, own, 8080))
    ports = json.loads(docker("inspect", "web"))[0]["NetworkSettings"]["Ports"]["80/tcp"]
    assert {(one["HostIp"], one["HostPort"]) for one in ports} == {
        ("0.0.0.0", "8080"), ("::", "8080"), (own, "8081"), ("0.0.0.0", "8082")}
    listed = docker("ps", "--format", "{{.Ports}}")
    assert "0.0.0.0:8080->80/tcp" in listed and (":::8080->80/tcp" in listed or "[::]:8080->80/tcp" in listed), listed
    for address, port in ((own, 8080), (own, 8081), ("127.0.0.1", 8080), ("127.0.0.1", 8082)):
        assert ask(naru, address, port), (address, port)
    assert ask(naru, own, 8082) is None
    # `localhost` may mean ::1 first: refused at once, a client goes on to 127.0.0.1.
    began = time.monotonic()
    assert ask(naru, "localhost", 8080) and time.monotonic() - began < 2
    taken = docker("run", "-d", "--network", "six", "-p", "[::]:8080:81", "busybox:test", *SLEEP, check=False)
    assert taken.returncode == 125 and "port is already allocated" in taken.stderr
    docker("rm", "-f", "web")
    assert ask(naru, own, 8080) is None


def test_networks_are_kept_apart_and_routes_follow(docker):
    for number, name in ((6, "six"), (7, "seven")):
        docker("network", "create", "--ipv6", "--subnet", f"fd00:6{number}::/64", name)
    docker("run", "-d", "--name", "server", "--network", "six", "debian:test", "python3", "-c", SERVER)
    docker("run", "-d", "--name", "client", "--network", "seven", "debian:test", *SLEEP)
    server = endpoint(docker, "server", "six")["GlobalIPv6Address"]

    def reach():
        return docker("exec", "client", "python3", "-c", ASK, server, "80", check=False).stdout.strip()

    assert reach() == ""
    docker("network", "connect", "--ip6", "fd00:66::77", "six", "client")
    assert until(reach) == "fd00:66::77"
    docker("network", "disconnect", "six", "client")
    assert reach() == ""
    assert set(json.loads(docker("inspect", "client"))[0]["NetworkSettings"]["Networks"]) == {"seven"}


def test_nonsense_is_refused(docker):
    def refused(*arguments):
        result = docker(*arguments, check=False)
        assert result.returncode != 0, arguments
        return result.stderr

    create = ("network", "create", "--ipv6", "--subnet")
    assert "invalid" in refused(*create, "fd00::1/129", "bad").lower()
    assert "containers cannot have such addresses" in refused(*create, "fe80::/64", "bad")
    docker(*create, "fd00:66::/64", "six")
    assert "Pool overlaps" in refused(*create, "fd00:66::/80", "bad")
    run = ("run", "-d", "--network", "six", "--ip6")
    assert "does not belong to" in refused(*run, "fd00:99::1", "busybox:test", *SLEEP)
    assert "invalid" in refused(*run, "fd00:xx::1", "busybox:test", *SLEEP).lower()
    docker("run", "-d", "--network", "six", "--ip6", "fd00:66::5", "busybox:test", *SLEEP)
    assert "Address already in use" in refused(*run, "fd00:66::5", "busybox:test", *SLEEP)
    docker("network", "create", "plain")
    assert "user configured subnets" in refused("run", "-d", "--network", "plain", "--ip6", "fd00:66::6", "busybox:test", *SLEEP)
    assert "no IPv6 address" in refused("run", "-d", "-p", "[::]:8090:80", "busybox:test", *SLEEP)
    assert "publish on 127.0.0.1" in refused("run", "-d", "--network", "six", "-p", "[::1]:8090:80", "busybox:test", *SLEEP)


def test_the_default_bridge_has_ipv6_when_the_daemon_is_told_so(images):
    """The range is remembered, published ports outlive the daemon, and rules can be left to somebody else."""
    engine = Naru(label="6d", options=["--ipv6"])
    try:
        engine.start()
        load(engine, images)

        def docker(*arguments):
            result = engine.client(*arguments, program=NEWEST_DOCKER, timeout=60)
            assert result.returncode == 0, result.stderr
            return result.stdout.strip()

        docker("run", "-d", "--name", "web", "-p", "8080:80", "debian:test", "python3", "-c", SERVER)
        settings = json.loads(docker("inspect", "web"))[0]["NetworkSettings"]
        config = json.loads(docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"]
        assert ipaddress.ip_address(settings["GlobalIPv6Address"]) in ipaddress.ip_network(config[1]["Subnet"])
        assert settings["IPv6Gateway"] == config[1]["Gateway"]
        own = "2001:db8:66::1"
        engine.scope.run("ip", "addr", "replace", own + "/64", "dev", "lo", "nodad")
        until(lambda: ask(engine, own, 8080))
        engine.kill9()
        assert ask(engine, own, 8080)
        engine.start()
        assert ask(engine, own, 8080)
        assert json.loads(docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"] == config
        assert docker("run", "--rm", "debian:test", "python3", "-c", ASK, settings["GlobalIPv6Address"], "80")
    finally:
        engine.close()


@pytest.mark.parametrize("options, reason", [
    (["--fixed-cidr-v6", "fd00::/64"], "--fixed-cidr-v6 needs --ipv6"),
    (["--ipv6", "--bip6", "fd00::/64"], "invalid --bip6"),
    (["--ipv6", "--fixed-cidr-v6", "fe80::/64"], "containers cannot have such addresses"),
])
def test_wrong_options_of_the_daemon_are_refused(options, reason):
    result = subprocess.run([NARU, "daemon", *options], capture_output=True, text=True)
    assert result.returncode != 0 and reason in result.stderr
