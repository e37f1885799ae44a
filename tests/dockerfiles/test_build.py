"""The corpus on Debian's Docker and on Naru: the same files, owners, modes, links and configuration."""

import gzip
import hashlib
import io
import json
import os
import re
import shlex
import tarfile

import pytest
from corpus import CASES, Link, Script
from testkit.engine import ROOT

CLIENT = "/usr/bin/docker"
CONFIG = ("Env", "Cmd", "Entrypoint", "ExposedPorts", "Volumes", "WorkingDir", "Labels", "User", "StopSignal", "Healthcheck", "Shell", "OnBuild")
# What every container has, and no image.
OWN = re.compile(r"^(dev|proc|sys)(/|$)|^etc/(hosts|hostname|resolv\.conf|mtab)$|^\.dockerenv$")
assert len({case.name for case in CASES}) == len(CASES) >= 60, "two cases have one name"


def write_context(folder, files):
    """A text is a file's content; a dict an archive's members."""
    for path, content in files.items():
        whole = os.path.join(folder, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        if isinstance(content, Link):
            os.symlink(content, whole)
        elif isinstance(content, dict):
            with gzip.GzipFile(whole, "wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
                for name, text in content.items():
                    member = tarfile.TarInfo(name)
                    member.size, member.uid, member.mode = len(text), 11, 0o640
                    archive.addfile(member, io.BytesIO(text.encode()))
        else:
            with open(whole, "w", newline="") as file:
                file.write(content)
            os.chmod(whole, 0o755 if isinstance(content, Script) else 0o644)


def build(engine, case, folder, builder="classic", tag="corpus:x"):
    """Returns the finished client command."""
    os.makedirs(folder, exist_ok=True)
    if not os.path.exists(folder + "/Dockerfile"):
        write_context(folder, {"Dockerfile": case.dockerfile, **case.files})
    kit = "1" if builder == "buildkit" else "0"
    command = f"DOCKER_BUILDKIT={kit} {CLIENT} -H {engine.host} build -t {tag} {case.flags} {shlex.quote(folder)}"
    if "-f " in case.flags:
        command = f"cd {shlex.quote(folder)} && DOCKER_BUILDKIT={kit} {CLIENT} -H {engine.host} build -t {tag} {case.flags} ."
    return engine.scope.shell(command, timeout=100)


def describe(engine, tag="corpus:x"):
    """What the image is: its configuration and its files."""
    docker = f"{CLIENT} -H {engine.host}"
    image = json.loads(engine.scope.shell(f"{docker} image inspect {tag}").stdout)[0]
    config = {key: image["Config"].get(key) or None for key in CONFIG}
    archive = os.path.join(engine.base, "corpus.tar")
    made = engine.scope.shell(f"{docker} create --name corpus {tag} x && {docker} export -o {archive} corpus; {docker} rm corpus")
    assert made.returncode == 0, made.stderr
    files = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.strip("/")
            if OWN.match(name) or not name:
                continue
            content = hashlib.sha256(tar.extractfile(member).read()).hexdigest()[:16] if member.isreg() else None
            files[name] = [member.type.decode(), oct(member.mode & 0o7777), member.uid, member.gid, member.linkname, content]
    os.unlink(archive)
    return {"author": image["Author"], "config": config, "files": by_content(files)}


def by_content(files):
    """Of several hard links any may come first in an archive."""
    groups = {}
    for name, entry in files.items():
        if entry[0] == "1":
            groups.setdefault(entry[4], []).append(name)
    for first, others in groups.items():
        names = sorted([first, *others])
        for name in names:
            files[name] = [*files[first][:4], "linked with " + names[0] if len(names) < 20 else "linked", files[first][5]]
    return files


def reference_of(request, case, tmp_path):
    facts = [case.name, case.dockerfile, case.flags, case.reference, sorted((path, repr(content)) for path, content in case.files.items()), 3]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    path = os.path.join(ROOT, "target", "reference", f"build-{key}.json")
    if os.path.exists(path):
        with open(path) as file:
            return json.load(file)
    engine = request.getfixturevalue("docker")
    built = build(engine, case, str(tmp_path / "reference"), case.reference)
    outcome = {"failed": built.returncode != 0, "said": (built.stdout + built.stderr)[-2000:]}
    if built.returncode == 0:
        outcome["image"] = describe(engine)
        engine.scope.shell(f"{CLIENT} -H {engine.host} rmi -f corpus:x")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        json.dump(outcome, file)
    return outcome


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_case(request, case, build_naru, tmp_path):
    engine = build_naru
    built = build(engine, case, str(tmp_path / "context"))
    said = built.stdout + built.stderr
    if case.fails:
        assert built.returncode != 0 and re.search(case.fails, said), said
    elif case.reference is None:
        assert built.returncode == 0, said
        checked = engine.scope.shell(f"{CLIENT} -H {engine.host} run --rm corpus:x sh -c {shlex.quote(case.holds)}")
        assert checked.returncode == 0, (said, checked.stdout, checked.stderr)
        return
    reference = reference_of(request, case, tmp_path)
    assert reference["failed"] == (built.returncode != 0), (reference["said"], said)
    if case.fails:
        assert re.search(case.fails, reference["said"]), reference["said"]
        return
    subject = json.loads(json.dumps(describe(engine)))
    apart = differences(reference["image"], subject)
    assert not apart, "\n".join(apart)


def differences(reference, subject):
    found = []
    for field in ("author",):
        if reference[field] != subject[field]:
            found.append(f"{field}: docker {reference[field]!r}, naru {subject[field]!r}")
    for part in ("config", "files"):
        for key in sorted(set(reference[part]) | set(subject[part])):
            theirs, ours = reference[part].get(key), subject[part].get(key)
            if theirs != ours:
                found.append(f"{part} {key}: docker {theirs}, naru {ours}")
    return found
