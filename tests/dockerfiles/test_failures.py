"""What a build that cannot be done tells: where, what was meant, and where to look around."""

import re

import pytest
from test_build import CLIENT
from test_promises import NARU, build, write
from test_session import session_build
from test_sources import said

B = "FROM busybox:test\n"


@pytest.mark.parametrize("text,place,words", [
    (B + "\n  COPPY a b\n", "3:3", "COPY"),
    (B + "COPY --form=x \\\n  a b\n", "2:6", "did you mean from"),
    (B + "RUN true\nCOPY \\\n  nosuch /\n", "4:3", "not found"),
    (B.replace("\n", " AS made\n") + B + "COPY --from=mdae /etc /x\n", "3:13", "did you mean made"),
    (B.replace("\n", " AS made\n") + "FROM mdae\n", "2:6", "did you mean made"),
    (B + "ENV A=${NAME:?nothing}\n", "2:15", "nothing"),
    ("ARG NAME\nFROM $NAME\n", "2:7", "blank"),
])
def test_an_error_names_its_place(build_naru, tmp_path, text, place, words):
    folder = write(str(tmp_path / "c"), {"Dockerfile": text})
    result = build(build_naru, folder)
    marked = re.search(r"--> Dockerfile:(\S+)\n.*\^", said(result), re.S)
    assert result.returncode == 1 and marked and marked[1] == place and words in said(result), said(result)


def test_a_failed_command_can_be_looked_at(build_naru, tmp_path):
    """By every client; what it left is kept where that was asked for, and goes with the next success."""
    engine = build_naru
    text = "FROM busybox:test AS made\nARG V=1\nENV E=2\nWORKDIR /w\nRUN echo before >/b\nRUN \\\n echo $V >left; seq 1 30; echo why >&2; exit 7\n"
    folder = write(str(tmp_path / "c"), {"Dockerfile": text})
    result = build(engine, folder)
    assert "returned a non-zero code: 7\n  --> Dockerfile:6:1\n" in result.stderr and "    30\n    why\n" in result.stderr and "    21\n" not in result.stderr, result.stderr
    session = session_build(engine, folder)
    assert "Dockerfile:6:1" in session.stderr.split("ERROR")[-1] + session.stderr.split("failed")[-1] and "naru run" in session.stderr, session.stderr

    def look(failed, words, client=NARU):
        image = re.search(f"in what it {words}: naru run --rm -it (\\w+)", failed.stderr)
        shell = f"echo 'cat /b; ls; echo $E $V $PWD' | {client} -H {engine.host} run --rm -i {image[1]}" if image else "false"
        return engine.scope.shell(shell).stdout.split()

    assert look(result, "ran on") == look(session, "ran on", CLIENT) == ["before", "2", "1", "/w"]
    entered = build(engine, folder, "--enter")
    assert look(entered, "ran on") == ["before", "2", "1", "/w"]
    assert look(entered, "left") == ["before", "left", "2", "1", "/w"]
    # In a terminal the shell comes by itself.
    command = f"echo 'ls -l /w; exit' | script -qec '{NARU} -H {engine.host} build --enter {folder}' /dev/null"
    shown = engine.scope.shell(command)
    assert shown.returncode == 1 and re.search(r"-rw-r--r--.*left", shown.stdout), shown
    with open(folder + "/Dockerfile", "w") as file:
        file.write(text.replace("exit 7", "exit 0"))
    assert build(engine, folder).returncode == 0
    assert look(entered, "ran on") == look(entered, "left") == []


def test_checks_tell_what_is_probably_not_meant(build_naru, tmp_path):
    """Without building anything; a build tells the same, and fails of it where the file says so."""
    engine = build_naru
    text = "from busybox:test AS Made\nENV A 1\nCOPY left.md /\nENV B=$PATH:$NOSUCH\nMAINTAINER me\n"
    folder = write(str(tmp_path / "c"), {"Dockerfile": text, "left.md": "", ".dockerignore": "*.md\n"})
    rules = ["ConsistentInstructionCasing", "FromAsCasing", "StageNameCasing", "LegacyKeyValueFormat", "CopyIgnoredFile", "UndefinedVar", "MaintainerDeprecated"]
    for flags in (["--check"], ["--call", "check"]):
        checked = build(engine, folder, *flags)
        assert checked.returncode == 1 and re.findall(r"^warning: (\w+): .*\n  --> Dockerfile:\d+:\d+$", checked.stdout, re.M) == rules, checked
    assert "Step" not in checked.stdout and "7 warnings found" in checked.stdout
    skipped = build(engine, folder, "--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all")
    assert skipped.returncode == 0 and "no warnings" in skipped.stdout, skipped
    typed = engine.scope.shell(f"printf 'FROM x\\nMAINTAINER y\\n' | {NARU} -H {engine.host} build --check -")
    assert typed.returncode == 1 and "MaintainerDeprecated" in typed.stdout, typed
    twice = write(str(tmp_path / "twice"), {"Dockerfile": "FROM busybox:test AS one\nFROM one AS one\nENV A=last\nFROM one\nENV B=$A.\n"})
    built = build(engine, twice, "-t", "twice:x")
    assert built.returncode == 0 and "Dockerfile:2: DuplicateStageName: " in built.stdout + built.stderr, built
    assert "B=last." in engine.client("image", "inspect", "twice:x").stdout
    engine.client("rmi", "twice:x")
    wrong = build(engine, write(str(tmp_path / "d"), {"Dockerfile": "FROM x\nRUM y\n"}), "--check")
    assert wrong.returncode == 1 and "did you mean RUN" in wrong.stderr and "Dockerfile:2:1" in wrong.stderr, wrong
    text = "FROM busybox:test AS Made\nENV A 1\n"
    folder = write(str(tmp_path / "e"), {"Dockerfile": text})
    for told in (said(build(engine, folder, program=CLIENT)), said(session_build(engine, folder))):
        assert "Dockerfile:1: StageNameCasing" in told and "Dockerfile:2: LegacyKeyValueFormat" in told, told
    folder = write(str(tmp_path / "f"), {"Dockerfile": "# check=skip=StageNameCasing;error=true\n" + text})
    for refused in (build(engine, folder, program=CLIENT), session_build(engine, folder)):
        assert refused.returncode != 0 and "LegacyKeyValueFormat" in refused.stderr and "StageNameCasing" not in refused.stderr, refused
