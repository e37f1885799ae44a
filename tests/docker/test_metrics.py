"""Metrics for Prometheus and the daemon's own log, held against Debian's dockerd where it has the same."""

import json
import os
import re
import time

import pytest
from testkit.engine import NARU, DebianDocker, Naru

ADDRESS = "127.0.0.1:9323"
DOCKER = "/usr/bin/docker"
# Families of dockerd's that say something of what runs; its others are of its parts (etcd, Go, its functions).
SHARED = re.compile(r"(engine_daemon_(engine_(info|cpus_cpus|memory_bytes)|(container|network)_(states|actions)_.*|events_.*total|health_checks_.*total)|builder_builds_.*_total)$")


def scrape(engine, path="/metrics"):
    return engine.scope.run("curl", "-s", "-w", "\n%{http_code}", f"http://{ADDRESS}{path}").stdout


def samples(text):
    """Sample lines by name and labels."""
    found = {}
    for line in text.splitlines():
        if match := re.fullmatch(r'([a-z_]+)(?:\{(.*)\})? (\S+)', line):
            labels = tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(2) or "")))
            found[match.group(1), labels] = float(match.group(3))
    return found


def families(text):
    """Type and label names of each family that both engines have."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    shapes = {}
    for (name, labels), _ in samples(text).items():
        family = re.sub(r"_(bucket|sum|count)$", "", name) if name not in kinds else name
        if SHARED.match(family):
            names = {label for label, _ in labels} - {"os_version"}
            shapes.setdefault((family, kinds.get(family)), set()).update(names | {value for label, value in labels if label in ("action", "state", "le")})
    return shapes


@pytest.fixture(scope="module")
def engines(images):
    if not os.path.exists(NARU):
        pytest.skip(f"{NARU} is not built")
    both = [Naru(options=["--metrics-addr", ADDRESS, "--log-format", "json"]), DebianDocker(options=["--metrics-addr", ADDRESS, "--experimental"])]
    for engine in both:
        engine.start()
        engine.load(images + "/busybox.tar")
    yield both
    for engine in both:
        engine.close()


@pytest.fixture(autouse=True)
def nothing_left(engines):
    """A test that failed leaves none of its names to the next, or to its own second try."""
    yield
    for engine in engines:
        engine.remove_all_containers()


def test_the_same_families_as_dockerd(engines):
    shapes = []
    for engine in engines:
        result = engine.client("run", "--name", "one", "busybox:test", "true", program=DOCKER)
        assert result.returncode == 0, result.stderr
        engine.client("rm", "one", program=DOCKER)
        shapes.append(families(scrape(engine)))
    naru, docker = shapes
    assert {("engine_daemon_container_states_containers", "gauge"), ("engine_daemon_container_actions_seconds", "histogram")} <= set(docker)
    assert naru == docker


def test_numbers_follow_what_happens(engines):
    naru = engines[0]
    before = samples(scrape(naru))
    options = ["--health-cmd", "exit 1", "--health-interval", "200ms", "-m", "64m"]
    assert naru.client("run", "-d", "--name", "busy", *options, "busybox:test", "sh", "-c", "while :; do :; done", program=DOCKER).returncode == 0
    assert naru.client("run", "-d", "--name", "idle", "busybox:test", "sleep", "60", program=DOCKER).returncode == 0
    assert naru.client("pause", "idle", program=DOCKER).returncode == 0
    started = ("engine_daemon_container_actions_seconds_count", (("action", "start"),))
    failed = ("engine_daemon_health_checks_failed_total", ())

    def state(found, name):
        return found["engine_daemon_container_states_containers", (("state", name),)]

    deadline = time.monotonic() + 20
    while (after := samples(scrape(naru)))[failed] == before[failed]:
        assert time.monotonic() < deadline, "no health check was counted"
        time.sleep(0.05)
    assert after[started] == before[started] + 2
    assert after["engine_daemon_health_check_start_duration_seconds_count", ()] > before["engine_daemon_health_check_start_duration_seconds_count", ()]
    assert (state(after, "running"), state(after, "paused")) == (state(before, "running") + 1, state(before, "paused") + 1)
    assert after["engine_daemon_events_total", ()] > before["engine_daemon_events_total", ()]

    def own(found, family, container):
        return [value for (name, labels), value in found.items() if name == family and ("name", container) in labels]

    assert own(after, "naru_container_memory_limit_bytes", "busy") == [64 << 20]
    assert own(after, "naru_container_memory_limit_bytes", "idle") == []
    assert own(after, "naru_container_processes", "idle") == [1]
    assert own(after, "naru_container_cpu_seconds_total", "busy")[0] > own(after, "naru_container_cpu_seconds_total", "idle")[0]
    naru.client("rm", "-f", "busy", "idle", program=DOCKER)
    assert own(samples(scrape(naru)), "naru_container_processes", "idle") == []


def test_images_networks_builds_and_what_the_host_is_asked_are_counted(engines, tmp_path):
    naru = engines[0]

    def counts():
        found = samples(scrape(naru))
        values = {(re.sub("engine_daemon_|_seconds_count", "", name), *(value for _, value in labels)): number for (name, labels), number in found.items()
                  if name.endswith(("actions_seconds_count", "functions_seconds_count")) or name.startswith("builder_")}
        assert all(found[name.replace("_count", "_sum"), labels] > 0 for (name, labels), number in found.items() if name.endswith("_seconds_count") and number)
        return values

    before = counts()
    for text in ("FROM busybox:test\n", "FROM busybox:test\nNOSUCH\n", "FROM busybox:test\nRUN false\n"):
        (tmp_path / "Dockerfile").write_text(text)
        naru.client("build", "--network", "none", "-t", "counted", str(tmp_path), program=DOCKER)
    for words in (("rmi", "counted"), ("rmi", "nosuch"), ("run", "--rm", "busybox:test", "true"), ("run", "--rm", "--network", "none", "busybox:test", "true"), ("network", "create", "counted"), ("run", "--rm", "--network", "counted", "busybox:test", "true"), ("network", "rm", "counted"), ("info",), ("version",)):
        naru.client(*words, program=DOCKER)
    # A place on a network is let go when the removed container is; the default one's is made before it is asked for.
    deadline = time.monotonic() + 20
    while (after := counts())["network_actions", "release"] < before["network_actions", "release"] + 2:
        assert time.monotonic() < deadline, "the network was not let go"
        time.sleep(0.02)
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert {name: number for name, number in grown.items() if name[0] in ("image_actions", "network_actions", "builder_builds_failed_total", "builder_builds_triggered_total")} == {
        ("image_actions", "delete"): 1, ("network_actions", "allocate"): 2, ("network_actions", "connect"): 1, ("network_actions", "release"): 2, ("builder_builds_triggered_total",): 3,
        ("builder_builds_failed_total", "dockerfile_syntax_error"): 1, ("builder_builds_failed_total", "error_processing_commands_error"): 1}
    assert grown["host_info_functions", "system_info"] >= 1 and grown["host_info_functions", "system_version"] >= 1


def test_nothing_but_metrics_is_served(engines):
    naru = engines[0]
    assert scrape(naru, "/containers/json").endswith("404 page not found\n\n404")
    answer = naru.scope.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", f"http://{ADDRESS}/metrics")
    assert answer.stdout == "405"


def test_the_daemon_s_log_is_an_object_a_line(engines):
    with open(engines[0].log_path) as file:
        lines = [json.loads(line) for line in file.read().splitlines()]
    assert any(line["message"] == "ready" and line["level"] == "INFO" and "timestamp" in line for line in lines), lines


def test_what_cannot_be_is_refused_by_name(tmp_path):
    engine = Naru()
    try:
        for words, told in ((["--metrics-addr", "0.0.0.0:9323"], "open to everyone"), (["--log-format", "xml"], "invalid log format"), (["--log-level", "loud"], "unable to parse logging level")):
            result = engine.scope.run(NARU, "daemon", "--exec-root", str(tmp_path / "e"), "--data-root", str(tmp_path / "d"), *words)
            assert result.returncode == 1 and told in result.stderr, result
        config = tmp_path / "daemon.json"
        config.write_text(json.dumps({"metrics-addr": "192.0.2.1:1"}))
        result = engine.scope.run(NARU, "daemon", "--exec-root", str(tmp_path / "e"), "--config-file", str(config))
        assert result.returncode == 1 and "192.0.2.1:1" in result.stderr, result
    finally:
        engine.close()
