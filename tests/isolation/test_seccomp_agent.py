"""System calls decided by an agent outside the container."""

import errno
import os

import pytest
from testkit.seccomp_agent import Agent
from testkit.engine import NEWEST_DOCKER

CLI = NEWEST_DOCKER
IMAGE = "busybox:test"


@pytest.fixture
def agent(tmp_path):
    agent = Agent(str(tmp_path / "agent"), errno.ENOMEDIUM)
    yield agent
    agent.close()


def run(engine, profile, tmp_path, *command):
    path = tmp_path / "profile.json"
    path.write_text(profile)
    return engine.client("run", "--rm", "--name", "asked", "--security-opt", f"seccomp={path}", IMAGE, *command, program=CLI)


pytestmark = pytest.mark.skipif(os.environ.get("NARU_TEST_ENGINE") == "docker", reason="Docker 20.10 reads no listenerPath")


def test_an_agent_decides_calls_and_is_told_of_the_container(busybox_naru, agent, tmp_path):
    result = run(busybox_naru, agent.profile(listenerMetadata="mine"), tmp_path, "sh", "-c", "mkdir /x; echo still here")
    assert result.stdout == "still here\n" and "No medium found" in result.stderr
    (state,) = agent.states
    assert state["metadata"] == "mine" and state["fds"] == ["seccompFd"] and len(state["state"]["id"]) == 64
    assert state["pid"] > 1 and len(agent.calls) == 1


def test_processes_started_later_ask_too(busybox_naru, agent, tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(agent.profile())
    docker = lambda *arguments: busybox_naru.client(*arguments, program=CLI)
    name = docker("run", "-d", "--security-opt", f"seccomp={path}", IMAGE, "sleep", "60").stdout.strip()
    pid = int(docker("inspect", "-f", "{{.State.Pid}}", name).stdout)
    result = docker("exec", name, "mkdir", "/x")
    assert "No medium found" in result.stderr
    first, second = agent.states
    assert first["pid"] == pid and second["pid"] > pid and first["state"]["id"] == second["state"]["id"] == name
    busybox_naru.remove_all_containers()


def test_a_profile_without_an_agent_is_refused(busybox_naru, agent, tmp_path):
    for profile, words in [
        (agent.profile(listenerPath=str(tmp_path / "nobody")), "no such file or directory"),
        (agent.profile(names=["sendmsg"]), "cannot be used for sendmsg"),
        (agent.profile().replace("listenerPath", "otherPath"), "needs a listenerPath"),
    ]:
        result = run(busybox_naru, profile, tmp_path, "true")
        assert result.returncode in (125, 127) and words in result.stderr, result.stderr
