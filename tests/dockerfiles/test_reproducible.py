"""Builds that are the same every time, how those that are not are found, and times as they really were."""

import json
import os
import time

from test_promises import build, built, write

B = "FROM busybox:test\n"


def test_a_build_that_is_not_the_same_twice_is_found(build_naru, tmp_path):
    engine = build_naru
    same = write(str(tmp_path / "same"), {"Dockerfile": B + "COPY a /\nRUN mkdir /d && cp /a /d/b && ln -s b /d/c\n", "a": "1"})
    told = build(engine, same, "--check-reproducible", "-t", "twice:x")
    assert told.returncode == 0 and "both builds made the same image" in told.stdout, told.stdout + told.stderr
    assert built(engine, same) == engine.client("image", "inspect", "-f", "{{.Id}}", "twice:x").stdout.strip()
    # Each way to differ, by what no two runs have in common.
    text = B + """COPY a /
RUN --mount=type=cache,id=again%d,target=/c if [ -e /c/x ]; then touch /second; chmod 700 /a; mkdir /k; ln -s 2 /l; chown 5 /bin/busybox; echo two >/long; touch -d @5 /t; \\
    else touch /c/x /first /k; ln -s 1 /l; echo three >/long; touch -d @6 /t; fi; cat /proc/sys/kernel/random/uuid >/id
""" % os.getpid()
    told = build(engine, write(str(tmp_path / "other"), {"Dockerfile": text, "a": "1"}), "--check-reproducible", "-t", "twice:never")
    assert told.returncode == 1 and "not reproducible" in told.stderr, told
    for line in ("/first: only in the first", "/second: only in the second", "/long: 6 bytes and 4", "/id: bytes from ", "/k: another kind of file", "/l: a link to 1 and 2", "/t: time 6 and 5", "/a: only in the second", "/bin/busybox: only in the second"):
        assert "    " + line in told.stderr, (line, told.stderr)
    assert engine.client("image", "inspect", "twice:never").returncode != 0
    engine.client("rmi", "twice:x")


def test_times_are_real_on_request(build_naru, tmp_path):
    engine = build_naru
    folder = write(str(tmp_path / "c"), {"Dockerfile": B + "WORKDIR /w\nCOPY a .\nRUN touch /made\n", "a": "1"}, mtime=1_000_000_000)
    before = int(time.time())

    def times(image):
        shown = engine.client("run", "--rm", image, "stat", "-c", "%Y", "/w/a", "/made", "/w")
        return [int(number) for number in shown.stdout.split()]

    image = built(engine, folder, "--timestamps", "real")
    copied, made, directory = times(image)
    assert copied == 1_000_000_000 and before <= made <= time.time() and before <= directory <= time.time()
    created = json.loads(engine.client("image", "inspect", image).stdout)[0]["Created"]
    assert created[:4] == time.strftime("%Y", time.gmtime()), created
    # The cache answers for files that are as old as they were, and never with those that are not.
    assert times(built(engine, folder, "--timestamps", "real")) == [copied, made, directory]
    assert len(set(times(built(engine, folder)))) == 1
    refused = build(engine, folder, "--timestamps", "real", "--build-arg", "SOURCE_DATE_EPOCH=1")
    assert refused.returncode == 1 and "SOURCE_DATE_EPOCH" in refused.stderr
    assert build(engine, folder, "--timestamps", "some").returncode == 1
