"""Runs a row of the table, a small shell script, against an engine and makes its outcome comparable.

In a row's script `docker` is the client under test, `$B` and `$D` the two images, `$N` a name prefix of the row's
own, `$W` an empty folder on the host, `with_terminal` a terminal around a command.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile

import build
from testkit.engine import NARU, ROOT

CLIENTS = {
    "cli20": "/usr/bin/docker",
    "cli28": "/usr/local/bin/docker",
    "naru": NARU,
}

PRELUDE = r"""
with_terminal() { script -qec "$*" /dev/null; }
until_true() { for _ in $(seq 100); do eval "$@" >/dev/null 2>&1 && return; sleep 0.05; done; echo "never: $*"; }
running() { until_true "docker exec $1 true"; }
"""


class Row:
    """One promise. `error` must be found in the standard error of both engines; `differs` says why outcomes may differ,
    and `expect` is then what Naru's standard output must match. Naru's own client does as Docker's of version 28; where
    that `is_newer` than 20.10, it is not measured against the older one."""

    def __init__(self, name, script, error=None, differs=None, expect=None, clients=None, is_newer=False):
        self.name = name
        self.script = script
        self.error = error
        self.differs = differs
        self.expect = expect
        self.clients = clients
        self.is_newer = is_newer

    def key(self, client, images):
        facts = [self.script, client, client_version(client), os.path.basename(images), PRELUDE]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


# How often each engine has run each row with each client.
TRIES = {}


def name_prefix(engine, client, row):
    """Returns a prefix for names, and the one that the outcome is to show. No try sees what another has left, its events
    least of all: `t-`, then `u-` and so on, of one length and order."""
    shown = "t-" + re.sub("[^a-z0-9]+", "-", row.name.lower())
    tries = TRIES[id(engine), client, row.name] = TRIES.get((id(engine), client, row.name), -1) + 1
    return "tuvwxyz"[tries % 7] + shown[1:], shown


def show_prefix(text, prefix, shown):
    """Names the row's things as its first try does, in names of variables too."""
    for used, wanted in ((prefix, shown), (as_variable(prefix), as_variable(shown))):
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(used)}", wanted, text)
    return text


def as_variable(name):
    return name.upper().replace("-", "_")


def client_version(client):
    path = CLIENTS[client]
    return str(os.path.getsize(path)) if os.path.exists(path) else ""


def run_row(engine, client, row):
    """Returns the row's normalised outcome on this engine."""
    work = tempfile.mkdtemp(prefix="naru-row-", dir="/tmp")
    prefix, shown_prefix = name_prefix(engine, client, row)
    try:
        os.mkdir(work + "/bin")
        os.mkdir(work + "/work")
        with open(work + "/bin/docker", "w") as file:
            file.write(f'#!/bin/sh\nexec {CLIENTS[client]} -H {engine.host} "$@"\n')
        os.chmod(work + "/bin/docker", 0o755)
        environment = {
            "PATH": f"{work}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": work, "LC_ALL": "C.UTF-8", "TERM": "xterm", "IMAGES": build.build(), "HOST": engine.host, "SOCKET": engine.socket,
            "B": "busybox:test", "D": "debian:test", "N": prefix, "W": work + "/work",
        }
        result = engine.scope.shell(PRELUDE + row.script, env=environment, timeout=150)
        outcome = {"exit": result.returncode, "stdout": result.stdout, "stderr": result.stderr}
        for name in ("stdout", "stderr"):
            outcome[name] = normalise(show_prefix(outcome[name].replace(work, "<row>"), prefix, shown_prefix), engine)
        return outcome
    finally:
        engine.remove_all_containers()
        shutil.rmtree(work, ignore_errors=True)


def normalise(text, engine):
    # `script` leaves a zero byte of its own where its input ended.
    text = text.replace(engine.base, "<engine>").replace(engine.exec_root, "<engine>/exec").replace("\0", "").replace("^@", "")
    text = re.sub(r"\b[0-9a-f]{64}\b", "<id>", text)
    text = re.sub(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{12}\b", "<id>", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d( [A-Z]+)?))?", "<time>", text)
    return text


def reference_outcome(request, images, client, row, anew=False):
    """Returns what Debian's Docker does, from the cache, or by running it now if that lacks it or if told to."""
    folder = os.path.join(ROOT, "target", "reference")
    path = os.path.join(folder, row.key(client, images) + ".json")
    if os.path.exists(path) and not anew:
        with open(path) as file:
            outcome = json.load(file)
        return {**outcome, "stdout": outcome["stdout"].replace("\0", "").replace("^@", "")}
    outcome = run_row(request.getfixturevalue("docker"), client, row)
    os.makedirs(folder, exist_ok=True)
    with open(path, "w") as file:
        json.dump(outcome, file)
    return outcome


def compare(row, client, reference, subject):
    """Returns the differences, in words. Standard error is compared only by the row's pattern: its wording is each engine's own."""
    found = []
    for field in ("exit", "stdout"):
        if reference[field] != subject[field] and not row.differs:
            found.append(f"{field}: docker {reference[field]!r}, naru {subject[field]!r} (naru's stderr: {subject['stderr'][-600:]!r})")
    for name, outcome in (("docker", reference), ("naru", subject)):
        if row.error and not re.search(row.error, outcome["stderr"], re.I):
            found.append(f"{name}'s stderr lacks {row.error!r}: {outcome['stderr'][-600:]!r}")
        if not row.error and not row.differs and outcome["stderr"].strip() and not reference["stderr"].strip():
            found.append(f"{name} wrote to stderr: {outcome['stderr'][-600:]!r}")
    if row.expect and not re.search(row.expect, subject["stdout"]):
        found.append(f"stdout lacks {row.expect!r}: {subject['stdout']!r}, stderr {subject['stderr'][-600:]!r}")
    return found
