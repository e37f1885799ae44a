"""The product's own command line beside Docker's, on one engine: listings in every form, completion, manual pages."""

import os
import re
import shutil
import subprocess

import pytest
from harness import CLIENTS
from testkit.engine import NARU

DOCKER = CLIENTS["cli28"]
needs_docker = pytest.mark.skipif(not os.path.exists(DOCKER), reason="Docker's client 28 is not here")


@pytest.fixture(scope="module")
def engine(naru):
    for words in (["volume", "create", "--label", "a=b", "listed"], ["run", "-d", "--name", "runs", "-p", "18555:80", "-v", "listed:/v", "--label", "x=y", "busybox:test", "sleep", "1000"],
                  ["create", "--name", "made", "--network", "none", "busybox:test", "sh", "-c", "echo a long command line that is cut"], ["tag", "busybox:test", "second/name:v1"]):
        assert naru.client(*words).returncode == 0
    yield naru
    naru.client("rmi", "second/name:v1")
    naru.remove_all_containers()
    naru.client("volume", "rm", "-f", "listed")


LISTINGS = [
    (["ps", "-a"], "{{.ID}} {{.Names}}\\t{{.Image}}\\t{{.Ports}}"), (["ps", "-a", "--no-trunc"], "{{.Command}} {{.Labels}} {{.Mounts}} {{.LocalVolumes}} {{.Networks}}"), (["ps", "-as"], "{{.Names}} {{.Size}}"),
    (["images"], "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}"), (["images", "--no-trunc", "--digests"], "{{.ID}} {{.Digest}}"), (["volume", "ls"], "{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}}"),
    (["history", "busybox:test"], "{{.ID}} {{.Size}} {{.CreatedBy}}"), (["history", "--no-trunc", "debian:test"], "{{.CreatedBy}} {{.Comment}}"),
    (["system", "df"], "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}"), (["top", "runs"], None), (["port", "runs"], None),
]


def words_of(listing, form):
    words, template = listing
    if form == "plain":
        return words
    if template is None:
        pytest.skip("it has no formats")
    return [*words, "--format", {"json": "json", "json function": "{{json .}}", "template": template, "table": "table " + template}[form]]


def dockers_part(text):
    """Without where the disk's space goes, which Docker does not tell (tests/docker/test_disk.py)."""
    own = text.find("\n\nData root ")
    return text if own < 0 else text[:own] + "\n"


@needs_docker
@pytest.mark.parametrize("form", ["plain", "json", "json function", "template", "table"])
@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: "_".join(listing[0]))
def test_listings_are_dockers_in_every_form(engine, listing, form):
    words = words_of(listing, form)
    # Naru's client speaks the newest version, which counts an image's containers; Docker's 28.2 the one before.
    environment = {**engine.environment(), "DOCKER_API_VERSION": "1.50"}
    theirs, mine = (engine.scope.run(program, "-H", engine.host, *words, env=environment) for program in (DOCKER, NARU))
    assert (mine.returncode, settled(dockers_part(mine.stdout))) == (theirs.returncode, settled(theirs.stdout)), mine.stderr


@needs_docker
@pytest.mark.parametrize("words", [["system", "df", "-v"], ["system", "df", "-v", "--format", "{{range .Images}}{{.Repository}} {{.UniqueSize}}\n{{end}}{{range .Volumes}}{{.Name}} {{.Links}}{{end}}"]], ids=["tables", "template"])
def test_disk_usage_one_by_one(engine, words):
    theirs, mine = (engine.client(*words, program=program) for program in (DOCKER, NARU))
    assert settled(dockers_part(mine.stdout)) == settled(theirs.stdout), mine.stderr
    assert "listed" in mine.stdout


def settled(text):
    """Ages change from one call to the next; columns shift with them."""
    text = re.sub(r"(Up )?(About an?|Less than a|\d+) (second|minute|hour|day|week|month|year)s?( ago)?", "<age>", text)
    # The names of one image come in any order.
    return sorted(re.sub(r" {2,}", "  ", text).splitlines())


SHELL = 'source <(%s completion bash); COMP_WORDS=(naru %s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _naru_complete; printf "%%s\\n" "${COMPREPLY[@]}"'


@pytest.mark.parametrize("line,expected", [
    ("unpa", {"unpause"}), ("container re", {"rename", "restart"}), ("stop ru", {"runs"}), ("stop ''", {"runs", "made"}), ("run --rm second/", {"second/name:v1"}), ("volume rm li", {"listed"}),
    ("run --cap-", {"--cap-add", "--cap-drop"}), ("network inspect br", {"bridge"}), ("completion ''", set()),
])
def test_bash_completes_commands_options_and_names(engine, line, expected):
    environment = {"DOCKER_HOST": engine.host, "PATH": f"{os.path.dirname(NARU)}:{os.environ['PATH']}"}
    result = engine.scope.run("bash", "--norc", "-c", SHELL % (NARU, line), env=environment)
    assert set(result.stdout.split()) == expected, result


def test_completion_starts_no_daemon(tmp_path):
    """It is asked for with every key: where nobody listens it says nothing."""
    script = f"mount -t tmpfs tmpfs /run && {NARU} __complete -- stop '' ; ls /run"
    result = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
    assert result.stdout == "", result


def test_zsh_and_fish_have_scripts():
    for shell, mark in (("zsh", "#compdef naru"), ("fish", "complete -c naru")):
        assert mark in subprocess.run([NARU, "completion", shell], capture_output=True, text=True).stdout
    assert subprocess.run([NARU, "completion", "cmd"], capture_output=True).returncode == 1


def test_manual_pages_are_whole(tmp_path):
    assert subprocess.run([NARU, "man", "--output", tmp_path / "man1"]).returncode == 0
    pages = {path.name for path in (tmp_path / "man1").iterdir()}
    assert {"naru.1", "naru-container-run.1", "naru-context-use.1"} <= pages and not any("__" in page for page in pages)
    page = subprocess.run([NARU, "man", "run"], capture_output=True, text=True).stdout
    assert page == (tmp_path / "man1" / "naru-container-run.1").read_text() and "\\-\\-publish" in page
    if shutil.which("groff"):
        checked = subprocess.run(["groff", "-man", "-Tutf8", "-ww", *sorted((tmp_path / "man1").iterdir())], capture_output=True, text=True)
        assert checked.stderr == "" and "naru-container-run" in checked.stdout
    assert subprocess.run([NARU, "man", "frobnicate"], capture_output=True).returncode == 1


def test_a_closed_standard_error_is_no_fault(engine):
    """What nobody reads is not told; the exit code is as ever."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(engine.scope.command(NARU, "-H", engine.host, "rm", "nosuch"), stderr=writer, stdin=subprocess.DEVNULL, timeout=60)
    finally:
        os.close(writer)
    assert done.returncode == 1
