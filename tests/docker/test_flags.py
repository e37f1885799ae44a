"""Every command and flag of Docker's two command lines is one of Naru's, or is named here with its reason."""

import os
import re
import subprocess

import pytest
from testkit.engine import NARU

PROGRAMS = [path for path in ("/usr/bin/docker", "/usr/local/bin/docker") if os.path.exists(path)]

# Left out on purpose: whole groups and commands.
SWARM = {"swarm", "node", "service", "stack", "config", "secret"}
NO_COMMANDS = {
    **dict.fromkeys(SWARM, "an engine here is no part of a swarm"),
    "plugin": "Docker's managed plugins are containers with rights on the host",
    "trust": "Docker Content Trust is being shut down by Docker itself",
    "checkpoint": "experimental in Docker too",
    "buildx": "a plugin of Docker's; it speaks to the engine's API",
    "compose": "a plugin of Docker's; it speaks to the engine's API",
}
# Left out on purpose: flags, by command; the last word of a command is enough.
KUBERNETES = "Kubernetes left Docker's command line with version 21"
NO_FLAGS = {
    ("context create", "kubernetes"): KUBERNETES,
    ("context create", "default-stack-orchestrator"): KUBERNETES,
    ("context update", "kubernetes"): KUBERNETES,
    ("context update", "default-stack-orchestrator"): KUBERNETES,
    ("context export", "kubeconfig"): KUBERNETES,
    ("version", "kubeconfig"): KUBERNETES,
    ("update", "kernel-memory"): "the kernel has dropped it, and Docker's command line with it",
    ("build", "isolation"): "Windows alone",
    ("build", "security-opt"): "Windows alone",
    ("build", "squash"): "experimental, and without effect in BuildKit",
    ("build", "disable-content-trust"): "Docker Content Trust is being shut down by Docker itself",
    **{(f"completion {shell}", "no-descriptions"): "the scripts ask for descriptions where the shell shows them"
       for shell in ("bash", "zsh", "fish", "powershell")},
}


def run(program, *words):
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "DOCKER_HOST": "unix:///nonexistent/engine.sock", "DOCKER_BUILDKIT": "0"}
    return subprocess.run([program, *words], capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, timeout=60)


def help_of(program, *words):
    result = run(program, *words, "--help")
    return result.stdout + result.stderr


def flags(text):
    """Long flags with the short form that stands before each."""
    return {long: short for short, long in re.findall(r"^ +(?:-(\w), )?--([a-z0-9-]+)", text, re.M)}


def commands(program):
    found = []
    for name in re.findall(r"^  ([a-z-]+)\*? +\S", help_of(program), re.M):
        if name in NO_COMMANDS:
            continue
        below = re.search(r"^Commands:\n((?:  .*\n)+)", help_of(program, name), re.M)
        if below:
            found += [f"{name} {word}" for word in re.findall(r"^  ([a-z-]+) ", below.group(1), re.M)]
        else:
            found.append(name)
    return sorted(set(found) - set(NO_COMMANDS))


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_of_docker_is_known(program):
    missing = []
    known = commands(program)
    assert len(known) > 80, known
    for command in known:
        ours_text = help_of(NARU, *command.split())
        if not ours_text.startswith("Usage:"):
            missing.append(f"{command}: no such command: {ours_text.splitlines()[0]}")
            continue
        ours, theirs = flags(ours_text), flags(help_of(program, *command.split()))
        shorts = set(ours.values())
        for long, short in theirs.items():
            if long == "help" or is_excepted(command, long):
                continue
            if long not in ours:
                missing.append(f"{command} --{long}")
            # `-t` of `stop` belonged to `--time` once and belongs to `--timeout` now.
            elif short and short not in shorts:
                missing.append(f"{command} -{short} (--{long})")
    assert missing == []


def is_excepted(command, flag):
    words = command.split()
    return any((" ".join(words[at:]), flag) in NO_FLAGS for at in range(len(words)))


def test_no_exception_is_out_of_date():
    """What is excepted is in one of Docker's command lines, and not in ours."""
    seen = {(command, flag) for program in PROGRAMS for command in commands(program) for flag in flags(help_of(program, *command.split()))}
    for command, flag in NO_FLAGS:
        assert any(theirs.endswith(command) and flag == known for theirs, known in seen), f"{command} --{flag} is in no Docker here"
        ours = [theirs for theirs, known in seen if theirs.endswith(command) and known == flag]
        assert all(flag not in flags(help_of(NARU, *theirs.split())) for theirs in ours), (command, flag)


# What a mistake is answered with: exit code and first line, which Docker's two command lines agree on.
MISTAKES = [
    ["run", "--nosuch", "x"], ["ps", "--nosuch"], ["--nosuch", "ps"], ["volume", "ls", "-z"], ["run", "-itz", "x"], ["ps", "--filter"],
    ["container", "--nosuch"], ["run", "--memory=abc", "x"], ["ps", "-n", "x"], ["ps", "--all=perhaps"], ["ps", "--filter", "x"],
    ["run", "-e"], ["--tls=perhaps", "ps"],
]
# Here the two differ in their words: the exit code, and a word that must be named.
UNKNOWN = [(["nosuch"], "nosuch"), (["container", "nosuch"], "nosuch"), (["run"], "at least 1 argument"), (["rm"], "at least 1 argument"),
           (["ps", "x"], "accepts no arguments"), (["tag", "x"], "exactly 2 arguments"), (["volume", "create", "a", "b"], "at most 1 argument")]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_wrong_flag_is_answered_as_docker_does(program, words):
    theirs, ours = run(program, *words), run(NARU, *words)
    assert (ours.returncode, ours.stdout) == (theirs.returncode, ""), (ours, theirs)
    assert ours.stderr.splitlines()[0] == theirs.stderr.splitlines()[0]
    assert "--help" in ours.stderr


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("words,named", UNKNOWN, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_wrong_word_is_answered_as_docker_does(program, words, named):
    theirs, ours = run(program, *words), run(NARU, *words)
    assert ours.returncode == theirs.returncode, (ours, theirs)
    assert named in ours.stderr and "--help" in ours.stderr, ours
