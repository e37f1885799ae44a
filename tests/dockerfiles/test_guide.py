"""The examples of `docs/guide/build.md`, built and run as they stand there."""

import os
import re
import shlex
import shutil
import time

import golang
import pytest
from test_not_cached import causes
from testkit.engine import NARU, ROOT

WHEELS = os.path.join(ROOT, "target", "wheels")


@pytest.fixture(scope="module")
def engine(build_naru, images):
    build_naru.load(images + "/debian.tar")
    return build_naru


@pytest.fixture
def guide(tmp_path):
    """Its files, in a folder, and its commands by the name of the image that they build."""
    with open(os.path.join(ROOT, "docs", "guide", "build.md")) as file:
        text = file.read()
    for name, content in re.findall(r"^`([^`]+)`:\n\n```[a-z]*\n(.*?)^```$", text, re.M | re.S):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    commands = re.findall(r"^naru build -t (\S+) (.*)$", text, re.M)
    assert {name for name, _ in commands} == {entry.name for entry in tmp_path.iterdir() if entry.is_dir()}
    return str(tmp_path), dict(commands)


def told(engine, guide, name, *flags):
    """What came of the guide's command."""
    folder, commands = guide
    command = f"cd {shlex.quote(folder)} && {NARU} -H {engine.host} build {' '.join(flags)} -t {name} {commands[name]}"
    result = engine.scope.shell(command, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def built(engine, guide, name, *flags):
    return re.search(r"Successfully built (\w+)", told(engine, guide, name, *flags).stdout).group(1)


def served(engine, name, url, *options):
    """What its container answers, once it does."""
    started = engine.client("run", "-d", "--name", "guide", *options, name)
    assert started.returncode == 0, started.stderr
    try:
        deadline = time.monotonic() + 60
        script = f"import urllib.request as r; print(r.urlopen({url!r}).read().decode())"
        asked = ["wget", "-qO-", url] if name != "django" else ["python3", "-c", script]
        while True:
            answer = engine.client("exec", "guide", *asked)
            if answer.returncode == 0:
                return answer.stdout.strip()
            assert time.monotonic() < deadline, answer.stderr + engine.client("logs", "guide").stderr
            time.sleep(0.1)
    finally:
        engine.client("rm", "-f", "guide")


@pytest.mark.seconds(300)
def test_a_django_application(engine, guide):
    if not os.path.isdir(WHEELS):
        pytest.skip("target/wheels is made by `cargo xtask setup`")
    os.symlink(WHEELS, os.path.join(guide[0], "wheels-of-the-setup"))
    guide[1]["django"] = guide[1]["django"].replace("wheels=wheels", "wheels=wheels-of-the-setup")
    first = built(engine, guide, "django")
    assert served(engine, "django", "http://localhost:8000", "-e", "SECRET_KEY=x") == "hello from Django"
    engine.client("builder", "prune", "-af")
    assert built(engine, guide, "django") == first


def test_pythons_compiled_files_stay_right(engine, tmp_path):
    """Their sources' times are normalised, and so are those in them: Python takes them, and they are the same every time."""
    folder = tmp_path / "pyc"
    folder.mkdir()
    (folder / "copied.py").write_text("a = 1\n")
    (folder / "Dockerfile").write_text("""FROM debian:test
COPY copied.py /app/
RUN mkdir -p /app/package && touch /app/package/__init__.py && echo 'b = 1' >/app/package/made.py && cd /app && python3 -c 'import copied, package.made'
RUN cd /app && echo 'c = 1' >later.py && python3 -m compileall -q . && python3 -m compileall -bq later.py
""")
    command = f"{NARU} -H {engine.host} build -t pyc --check-reproducible {folder}"
    result = engine.scope.shell(command, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    shown = engine.client("run", "--rm", "-w", "/app", "pyc", "python3", "-v", "-c", "import copied, package.made, later")
    for name in ("copied", "package/made", "later"):
        assert re.search(rf"\.pyc matches /app/{name}\.py", shown.stderr), shown.stderr[:5000]
    assert "bytecode is stale" not in shown.stderr and "wrote" not in shown.stderr
    engine.client("rmi", "pyc")


def test_a_configuration_from_variables(engine, guide):
    built(engine, guide, "config")
    assert served(engine, "config", "http://localhost:8080") == "hello from the image"
    assert served(engine, "config", "http://localhost:8080", "-e", "GREETING=from outside") == "from outside"
    refused = engine.client("run", "--rm", "-e", "GREETING=", "config")
    assert refused.returncode != 0 and "say what to greet with" in refused.stderr


def test_made_in_one_stage_and_shipped_in_another(engine, guide):
    built(engine, guide, "pages")
    page = served(engine, "pages", "http://localhost:8080/first.html")
    assert page == "<h1>first</h1><p>The image that is shipped has no Python in it.</p>"
    assert engine.client("run", "--rm", "pages", "sh", "-c", "command -v python3").returncode != 0


@pytest.fixture
def greeter(engine, guide):
    """The Go program's folder, whole, and the compiler's image for as long as it is used."""
    made = golang.golang()
    engine.load(made + "/golang.tar")
    folder = os.path.join(guide[0], "greeter")
    shutil.copytree(made + "/vendor", folder + "/vendor")
    yield folder
    engine.client("rmi", "golang:1.19")


@pytest.mark.seconds(300)
def test_a_go_program_compiled_and_shipped_alone(engine, guide, greeter):
    """Only what changed is compiled again; and without the cache it is the same image, to the bit."""
    first = built(engine, guide, "greeter")
    assert greeted(engine) == "hello guide\n"
    with open(greeter + "/main.go") as file:
        source = file.read()
    with open(greeter + "/main.go", "w") as file:
        file.write(source.replace('"hello %s', '"good day, %s'))
    steps = causes(told(engine, guide, "greeter"))
    assert steps == ["-", "-", "-", "main.go changed", "line 7 was made anew", "what it brings changed"], "\n".join(steps)
    assert greeted(engine) == "good day, guide\n"
    with open(greeter + "/main.go", "w") as file:
        file.write(source)
    assert built(engine, guide, "greeter", "--no-cache") == first
    assert int(engine.client("image", "inspect", "-f", "{{.Size}}", "greeter").stdout) < 6_000_000


def greeted(engine):
    """What its container answers over its published port, as nobody; its health check agrees."""
    started = engine.client("run", "-d", "--name", "guide", "-p", "127.0.0.1:18480:8080", "--read-only", "greeter")
    assert started.returncode == 0, started.stderr
    try:
        deadline = time.monotonic() + 60
        while (answer := engine.scope.run("curl", "-sf", "http://127.0.0.1:18480/hello/guide")).returncode:
            assert time.monotonic() < deadline, answer.stderr + engine.client("logs", "guide").stderr
            time.sleep(0.05)
        checked = engine.client("exec", "guide", "/greeter", "check")
        assert checked.returncode == 0, checked.stderr
        assert engine.client("top", "guide", "-eo", "pid,user").stdout.split()[-1] == "nobody"
        return answer.stdout
    finally:
        engine.client("rm", "-f", "guide")
