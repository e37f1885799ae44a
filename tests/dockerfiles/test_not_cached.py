"""Each step says whether it was cached, and if not, what changed since it was last made."""

import os
import re

from test_build import CLIENT
from test_promises import build, write
from test_session import session_build

TEXT = "FROM busybox:test\nARG VERSION\nARG A_TOKEN=1\nCOPY . /app\nRUN echo $VERSION >/v\nCOPY one /\nRUN true\n"


def causes(result):
    """Of each step that could be cached: `-` where it was, else why not."""
    assert result.returncode == 0, result.stdout + result.stderr
    return ["-" if "Using cache" in line else line.partition("Not cached: ")[2] for line in re.findall(r"^ ---> (?:Using cache|Not cached).*", result.stdout, re.M)]


def test_what_changed_is_told(build_naru, tmp_path):
    folder = write(str(tmp_path / "c"), {"Dockerfile": TEXT, "one": "1", "src/main.rs": "1", **{f"many/{number}": "" for number in range(5)}})
    options = ["-t", f"why:{os.getpid()}", "--build-arg", "VERSION=1"]

    def told():
        return causes(build(build_naru, folder, *options))

    def change(path, text):
        with open(f"{folder}/{path}", "w") as file:
            file.write(text)

    assert told() == ["never built before"] * 4
    assert told() == ["-"] * 4
    change("src/main.rs", "2")
    assert told() == ["src/main.rs changed", "line 4 was made anew", "line 5 was made anew", "line 6 was made anew"]
    options[-1] = "VERSION=2"
    assert told() == ["-", "ARG VERSION was 1, is 2", "line 5 was made anew", "ARG VERSION was 1, is 2"]
    options += ["--build-arg", "A_TOKEN=hidden"]
    assert told()[1] == "ARG A_TOKEN changed"
    for number in range(5):
        os.unlink(f"{folder}/many/{number}")
    change("new", "")
    assert told()[0] == "many/0 is gone, many/1 is gone, many/2 is gone, and 3 more"
    os.chmod(folder + "/one", 0o755)
    assert told()[2] == "one changed"
    change("Dockerfile", TEXT.replace("true", "false || true"))
    assert told() == ["Dockerfile changed", "line 4 was made anew", "line 5 was made anew", "the instruction was RUN true"]
    # Names are those of images, whatever their tags; Docker's client tells the same, and so does the session.
    change("one", "3")
    options[1] = "why:other"
    assert causes(build(build_naru, folder, *options, program=CLIENT))[0] == "one changed"
    change("one", "4")
    assert "not cached: one changed" in session_build(build_naru, folder, *options).stderr
    assert build_naru.client("builder", "prune", "-af").returncode == 0
    assert told()[0] == "never built before"


def test_a_changed_base_is_told(build_naru, tmp_path):
    engine, base, name = build_naru, write(str(tmp_path / "base"), {"Dockerfile": "FROM busybox:test\nRUN echo 1 >/x\n"}), f"base{os.getpid()}"
    folder = write(str(tmp_path / "c"), {"Dockerfile": f"FROM {name} AS one\nRUN true\nFROM one\nRUN echo\n"})
    assert build(engine, base, "-t", name).returncode == 0
    assert causes(build(engine, folder, "-t", "onbase")) == ["never built before"] * 2
    write(str(tmp_path / "base2"), {"Dockerfile": "FROM busybox:test\nRUN echo 2 >/x\n"})
    assert build(engine, str(tmp_path / "base2"), "-t", name).returncode == 0
    assert causes(build(engine, folder, "-t", "onbase")) == [f"base {name} changed", "base one changed"]
    engine.client("rmi", "onbase", name)
