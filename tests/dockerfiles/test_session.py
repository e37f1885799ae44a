"""Builds in the session form that Debian's client speaks with DOCKER_BUILDKIT=1: the same images, and only what changed travels."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from corpus import CASES
from test_build import CLIENT, build, write_context
from testkit.engine import NARU

B = "FROM busybox:test\n"


def session_build(engine, folder, *arguments, before="", **options):
    """Debian's client with its plain progress; everything it says is in `stderr`."""
    command = " ".join(["DOCKER_BUILDKIT=1", CLIENT, "-H", engine.host, "build", "--progress=plain", *arguments, str(folder)])
    return engine.scope.shell(f"{before} {command}", timeout=100, **options)


def context(tmp_path, files, name="context"):
    folder = str(tmp_path / name)
    write_context(folder, files)
    return folder


def image_of(path):
    with open(path) as file:
        return file.read()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_both_protocols_make_the_same_image(build_naru, case, tmp_path):
    """The same digest, whichever way the context came and whatever was cached."""
    folder, outcomes = str(tmp_path / "context"), {}
    for builder in ("classic", "buildkit"):
        case_flags, iidfile = case.flags, str(tmp_path / builder)
        case.flags = f"{case_flags} --no-cache --iidfile {iidfile}"
        try:
            built = build(build_naru, case, folder, builder=builder, tag=f"protocol:{builder}")
        finally:
            case.flags = case_flags
        said = built.stdout + built.stderr
        outcomes[builder] = image_of(iidfile) if built.returncode == 0 else None
        assert (built.returncode != 0) == bool(case.fails), said
        if case.fails:
            assert re.search(case.fails, said), said
    assert outcomes["classic"] == outcomes["buildkit"]


def sent(result):
    """The bytes of content that travelled, as the client shows them: of the Dockerfile's directory, of the context."""
    units = {"B": 1, "kB": 1000, "MB": 1_000_000}
    steps = dict(re.findall(r"#(\d+) \[internal\] (load .*)", result.stderr))
    found = {}
    for step, number, unit in re.findall(r"#(\d+) transferring:? ?([\d.]*)(B|kB|MB)? ", result.stderr):
        found[steps[step]] = float(number or 0) * units.get(unit, 0)
    return found


def test_only_what_changed_travels(build_naru, tmp_path):
    files = {"Dockerfile": B + "COPY . /c\nRUN cat /c/*/* | md5sum >/sum\n", **{f"d{n % 7}/f{n}": str(n) * 1000 for n in range(100)}}
    folder, ids = context(tmp_path, files), []

    def built():
        result = session_build(build_naru, folder, "--iidfile", str(tmp_path / "iid"))
        assert result.returncode == 0, result.stderr
        ids.append(image_of(tmp_path / "iid"))
        return result

    first = built()
    assert sent(first)["load build context"] > 100_000, first.stderr
    again = built()
    assert sent(again)["load build context"] == 0, again.stderr
    assert len(re.findall(r"CACHED", again.stderr)) == 2, again.stderr
    with open(folder + "/d1/f1", "w") as file:
        file.write("x" * 500)
    changed = built()
    assert 0 < sent(changed)["load build context"] < 1000, changed.stderr
    os.unlink(folder + "/d1/f1")
    os.symlink("/etc/passwd", folder + "/d1/f1")
    os.rename(folder + "/d2", folder + "/e2")
    built()
    # What is kept is what the client has: the same as without.
    clean = session_build(build_naru, folder, "--no-cache", "--iidfile", str(tmp_path / "iid"), before=f"cp -a {folder} {folder}2;").returncode
    assert clean == 0 and image_of(tmp_path / "iid") == ids[-1]
    result = session_build(build_naru, folder + "2", "--no-cache", "--iidfile", str(tmp_path / "iid"))
    assert result.returncode == 0 and image_of(tmp_path / "iid") == ids[-1], result.stderr
    assert ids[0] == ids[1] and len(set(ids)) == 3


def test_a_context_is_asked_for_only_where_it_is_needed(build_naru, tmp_path):
    folder = context(tmp_path, {"Dockerfile": B + "RUN true\n", "big": "x" * 100_000})
    result = session_build(build_naru, folder)
    assert result.returncode == 0 and "load build context" not in result.stderr, result.stderr


def test_ignore_files_are_the_dockerfiles_own_first(build_naru, tmp_path):
    files = {"Dockerfile": B + "COPY . /c\nRUN cd /c && find . | sort | tr '\\n' ' '\n", ".dockerignore": "a*\n!ab\n", "other": B + "COPY . /c\nRUN cd /c && find . | sort | tr '\\n' ' '\n", "other.dockerignore": "b\n*ock*\n",
             "aa": "", "ab": "", "b": "", "sub/aa": ""}
    folder = context(tmp_path, files)
    plain, own = session_build(build_naru, folder, "--no-cache"), session_build(build_naru, folder, "--no-cache", "-f", folder + "/other")
    assert ". ./.dockerignore ./Dockerfile ./ab ./b ./other ./other.dockerignore ./sub ./sub/aa" in plain.stderr, plain.stderr
    assert ". ./aa ./ab ./other ./sub ./sub/aa" in own.stderr, own.stderr


def test_dockerfiles_and_contexts_come_from_everywhere(build_naru, tmp_path):
    folder = context(tmp_path, {"a": "1", "own/File": B + "COPY a /\nRUN echo from its own folder\n"})
    outside = tmp_path / "Outside"
    outside.write_text(B + "COPY a /b\nRUN echo from outside\n")
    assert "from outside" in session_build(build_naru, folder, "--no-cache", "-f", str(outside)).stderr
    assert "from its own folder" in session_build(build_naru, folder, "--no-cache", "-f", folder + "/own/File").stderr
    text = "FROM busybox:test\\nRUN echo from stdin\\n"
    assert "from stdin" in session_build(build_naru, "-", "--no-cache", before=f"printf '{text}' |").stderr
    text = "FROM busybox:test\\nCOPY a /a\\nRUN echo with $(cat /a)\\n"
    assert "with 1" in session_build(build_naru, folder, "--no-cache", "-f", "-", before=f"printf '{text}' |").stderr
    packed = session_build(build_naru, "-", "--no-cache", "-f", "own/File", before=f"tar -C {folder} -cz . |")
    assert packed.returncode == 0 and "from its own folder" in packed.stderr, packed.stderr
    missing = session_build(build_naru, folder, "-f", folder + "/nosuch")
    assert missing.returncode != 0 and "no such file" in missing.stderr


def test_the_image_is_told_and_named(build_naru, tmp_path):
    folder = context(tmp_path, {"Dockerfile": B + "ARG A\nRUN echo $A >/a\n"})
    quiet = session_build(build_naru, folder, "-q", "-t", "session:a", "-t", "session:b", "--build-arg", "A=1", "--label", "k=v")
    image = json.loads(build_naru.scope.shell(f"{CLIENT} -H {build_naru.host} image inspect session:b").stdout)[0]
    assert quiet.stdout.strip() == image["Id"] and set(image["RepoTags"]) == {"session:a", "session:b"} and image["Config"]["Labels"] == {"k": "v"}
    build_naru.client("rmi", "session:a", "session:b")


def test_secrets_and_agents_are_asked_of_the_client(build_naru, tmp_path):
    """A step's ssh-add speaks with the agent that the client forwards; a secret is shown to its step alone."""
    folder = context(tmp_path, {"Dockerfile": B + "RUN --mount=type=secret,id=s,required cat /run/secrets/s | md5sum\nCOPY root /\nRUN --mount=type=ssh ssh-add -l || true\n"})
    libraries = re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", "/usr/bin/ssh-add"], capture_output=True, text=True, check=True).stdout)
    for path in ("/usr/bin/ssh-add", *libraries):
        os.makedirs(os.path.dirname(folder + "/root" + path), exist_ok=True)
        shutil.copy(path, folder + "/root" + path)
    (tmp_path / "secret").write_text("words nobody sees\n")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of the test", "-f", str(key)], check=True)
    agent = f"eval $(ssh-agent) >/dev/null; trap 'kill $SSH_AGENT_PID' EXIT; ssh-add -q {key};"
    given = session_build(build_naru, folder, "--no-cache", "-t", "asked:x", f"--secret id=s,src={tmp_path}/secret", "--ssh default", before=agent)
    assert given.returncode == 0, given.stderr
    assert hashlib.md5(b"words nobody sees\n").hexdigest() in given.stderr and "of the test (ED25519)" in given.stderr, given.stderr
    # Naru's client lends its agent too, over connections of its own.
    own = f"{NARU} -H {build_naru.host} build --no-cache --secret id=s,src={tmp_path}/secret"
    lent = build_naru.scope.shell(f"{agent} {own} --ssh other=$SSH_AUTH_SOCK --ssh default {folder}")
    assert lent.returncode == 0 and "of the test (ED25519)" in lent.stdout, lent
    assert "ED25519" not in build_naru.scope.shell(f"{agent} {own} --ssh other {folder}").stdout
    for wrong, words in (("default", "SSH_AUTH_SOCK is not set"), (f"x={key}", "not the socket of an agent"), ("x=/nosuch", "/nosuch")):
        refused = build_naru.scope.shell(f"unset SSH_AUTH_SOCK; {own} --ssh {wrong} {folder}")
        assert refused.returncode == 1 and words in refused.stderr, refused
    saved = build_naru.scope.shell(f"{CLIENT} -H {build_naru.host} save asked:x | grep -c 'words nobody'")
    assert saved.stdout.strip() == "0"
    missing = session_build(build_naru, folder, "--no-cache")
    assert missing.returncode != 0 and "secret s" in missing.stderr, missing.stderr
    build_naru.client("rmi", "asked:x")


def test_a_failed_step_is_named(build_naru, tmp_path):
    folder = context(tmp_path, {"Dockerfile": B + "RUN echo its words; exit 7\n"})
    result = session_build(build_naru, folder)
    assert result.returncode != 0
    for words in ("its words", "code: 7", "RUN echo its words"):
        assert words in result.stderr, result.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_client_that_leaves_ends_its_build(build_naru, tmp_path, how):
    engine = build_naru
    folder = context(tmp_path, {"Dockerfile": B + "RUN echo begun; sleep 1000\n"})
    client = subprocess.Popen(engine.scope.command(CLIENT, "-H", engine.host, "build", "--progress=plain", folder), stderr=subprocess.PIPE, text=True, env={**os.environ, "DOCKER_BUILDKIT": "1"})
    assert any("begun" in line and "RUN" not in line for line in client.stderr)
    os.kill(client.pid, how)
    client.wait()
    client.stderr.close()
    deadline = time.monotonic() + 20
    while engine.client("ps", "-aq").stdout or os.listdir(engine.data_root + "/builds/running"):
        assert time.monotonic() < deadline, "the step's container is still there"
        time.sleep(0.05)


def test_what_cannot_be_done_is_refused(build_naru, tmp_path):
    folder = context(tmp_path, {"Dockerfile": B})
    for flags, words in (("--squash", "squash"), ("-o type=nosuch,dest=" + str(tmp_path / "out"), "type=nosuch"), ("--platform no/such/thing/x", "(?i)platform|unknown operating system")):
        result = session_build(build_naru, folder, flags)
        assert result.returncode != 0 and re.search(words, result.stderr), (flags, result.stderr)
    result = session_build(build_naru, "http://127.0.0.1:1/x.git")
    assert result.returncode != 0 and "127.0.0.1" in result.stderr, result.stderr


def test_two_builds_of_one_directory_go_on_side_by_side(build_naru, tmp_path):
    """Each waits for the other through a cache mount; both read the same kept files."""
    folder = context(tmp_path, {"one": B + "COPY one /\nRUN --mount=type=cache,target=/pair touch /pair/one; until [ -e /pair/two ]; do sleep 0.1; done\n",
                                "two": B + "COPY two /\nRUN --mount=type=cache,target=/pair touch /pair/two; until [ -e /pair/one ]; do sleep 0.1; done\n"})
    clients = [subprocess.Popen(build_naru.scope.command(CLIENT, "-H", build_naru.host, "build", "--no-cache", "-f", f"{folder}/{name}", folder), env={**os.environ, "DOCKER_BUILDKIT": "1"}, stderr=subprocess.DEVNULL) for name in ("one", "two")]
    assert [client.wait(60) for client in clients] == [0, 0]


@pytest.mark.parametrize("kit,words", [("0", "Step 3/4"), ("1", "load build context")])
def test_docker_compose_builds_both_ways(build_naru, tmp_path, kit, words):
    program = "/usr/bin/docker-compose"
    if not os.path.exists(program):
        pytest.skip(f"{program} is not here")
    folder = context(tmp_path, {"app/Dockerfile": B + "ARG A\nCOPY f /f\nRUN echo $A >>/f\n", "app/f": "file\n", "docker-compose.yml": "version: '3.4'\nservices:\n  one:\n    image: composed:x\n    build:\n      context: app\n      args: {A: argument}\n"})
    variables = f"DOCKER_HOST={build_naru.host} DOCKER_BUILDKIT={kit} COMPOSE_DOCKER_CLI_BUILD={kit} PATH=/usr/bin:/bin"
    built = build_naru.scope.shell(f"cd {folder} && {variables} {program} build 2>&1")
    assert built.returncode == 0 and words in built.stdout, built.stdout
    shown = build_naru.client("run", "--rm", "composed:x", "cat", "/f")
    assert shown.stdout == "file\nargument\n", shown
    build_naru.client("rmi", "composed:x")
