"""What builds keep: told by `system df` as every client reads it, and pruned as asked, never from under a build."""

import glob
import json
import os
import re
import subprocess
import time
from urllib.parse import quote

import pytest
from test_build import CLIENT, write_context
from testkit.api import Api
from testkit.engine import NARU, NEWEST_DOCKER

CLIENTS = (CLIENT, NEWEST_DOCKER, NARU)


@pytest.fixture
def api(build_naru):
    client = Api(build_naru.socket)
    yield client
    client.close()


def build(engine, folder, *arguments, **options):
    result = engine.client("build", "-q", *arguments, folder, program=NARU, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def entries(api, name):
    """The entries that speak of a name, by their types."""
    caches = api.call("GET", "/system/df")["BuildCache"]
    return {cache["Type"]: cache for cache in caches if name in cache["Description"]}


def prune(api, query="", **filters):
    return api.call("POST", f"/build/prune?{query}&filters={quote(json.dumps(filters))}")


def test_the_cache_is_accounted_and_pruned(build_naru, api, tmp_path):
    write_context(tmp_path, {"Dockerfile": "FROM busybox:test\nRUN --mount=type=cache,id=accounted,target=/c dd if=/dev/zero of=/c/x bs=1k count=100 2>/dev/null; dd if=/c/x of=/accounted bs=1k 2>/dev/null\n"})
    build(build_naru, tmp_path, "-t", "accounted:1")
    first = entries(api, "accounted")
    step, mount = first["regular"], first["exec.cachemount"]
    assert (step["Shared"], step["InUse"], step["UsageCount"], step["Size"] >= 102_400) == (True, False, 1, True), step
    assert (mount["Shared"], mount["InUse"], mount["UsageCount"], mount["Size"]) == (False, False, 1, 102_400), mount
    assert build(build_naru, tmp_path) and entries(api, "accounted")["regular"]["UsageCount"] == 2
    for program in CLIENTS:
        shown = build_naru.client("system", "df", "-v", program=program).stdout
        assert re.search(rf"(?m)^{mount['ID'][:12]}\S* +exec.cachemount +102kB +.*false", shown), shown
        assert re.search(r"(?m)^Build Cache +\d+ +0 +", build_naru.client("system", "df", program=program).stdout)
    # What an image has too is passed over; a bound that is kept already takes nothing.
    assert not prune(api, id=[step["ID"]])["CachesDeleted"] and not prune(api, "keep-storage=1000000000000", id=[mount["ID"]])["CachesDeleted"]
    assert not prune(api, type=["source.local"], id=[mount["ID"]])["CachesDeleted"] and not prune(api, id=[mount["ID"]], until=["1h"])["CachesDeleted"]
    pruned = build_naru.client("builder", "prune", "-f", "--filter", f"id={mount['ID']}", "--filter", "type=exec.cachemount", program=CLIENT).stdout
    assert mount["ID"] in pruned and "Total reclaimed space: 102.4kB" in pruned, pruned
    build_naru.client("rmi", "accounted:1")
    step = entries(api, "accounted")["regular"]
    assert not step["Shared"]
    pruned = build_naru.client("builder", "prune", "-f", "--max-used-space", "1", "--reserved-space", "0", "--filter", f"id={step['ID']}", program=NARU).stdout
    assert step["ID"] in pruned and "Total reclaimed space: 10" in pruned and list(entries(api, "accounted")) == ["source.local"], pruned
    for query, filters in (("keep-storage=-1", {}), ("", {"nosuch": ["1"]}), ("", {"id": ["("]}), ("", {"until": ["1h", "2h"]})):
        status, _ = api.request("POST", f"/build/prune?{query}&filters={quote(json.dumps(filters))}")
        assert status == 400, (query, filters)


def test_pruning_leaves_a_running_build_what_it_needs(build_naru, api, tmp_path):
    write_context(tmp_path, {"Dockerfile": "FROM busybox:test\nRUN echo held >/held\nFROM busybox:test\nCOPY --from=0 /held /\nRUN --mount=type=cache,id=held,target=/c touch /c/begun; until test -e /c/go; do sleep 0.02; done; cp /held /held2\nRUN cmp /held /held2\n"})
    running = subprocess.Popen(build_naru.scope.command(NARU, "-H", build_naru.host, "build", "-q", str(tmp_path)), stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (begun := glob.glob(build_naru.data_root + "/builds/mounts/*/begun")):
        assert time.monotonic() < deadline and running.poll() is None, "the step does not begin"
        time.sleep(0.02)
    mount = os.path.dirname(begun[0])
    assert entries(api, "id \"held\"")["exec.cachemount"]["InUse"]
    assert os.path.basename(mount) not in prune(api, "all=1")["CachesDeleted"]
    open(mount + "/go", "w").close()
    image = running.communicate(timeout=60)[0].strip()
    assert running.returncode == 0 and image.startswith("sha256:")
    assert os.path.basename(mount) in prune(api, "all=1")["CachesDeleted"] and not os.path.exists(mount)
    build_naru.client("rmi", image)
