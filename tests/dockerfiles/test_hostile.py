"""Dockerfiles that want more than they may have: the mechanisms of `docs/incidents.md` that concern builds."""

import os
import re

import docker
import pytest
from test_promises import build, built, write
from test_sources import said, shown


def test_a_cache_never_leads_to_the_host(build_naru, tmp_path):
    """CVE-2024-23651: a link that one step leaves in a cache, and another step's mount below it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of the host")
    cache = f"--mount=type=cache,id=h{os.getpid()},target=/c"
    text = f"""FROM busybox:test AS made
RUN ln -s {outside} /way && ln -s ../../../../../../../..{outside} /up
FROM busybox:test
RUN {cache} ln -s {outside} /c/way && ln -s ../../../../../../../..{outside} /c/up
RUN {cache} --mount=type=tmpfs,target=/c/way/below ls -R /c /c/way/
RUN {cache} cat /c/way/secret /c/up/secret; true
RUN --mount=type=cache,id=i{os.getpid()},from=made,source=/,target=/d cat /d/way/secret /d/up/secret; true
"""
    result = build(build_naru, write(str(tmp_path / "c"), {"Dockerfile": text}))
    assert "of the host" not in said(result) and os.listdir(outside) == ["secret"], said(result)
    for mount in ("source=/c,target=/e", "from=made,source=/way,target=/e", "from=made,source=/up/secret,target=/e"):
        one = text.splitlines()[:2] + ["FROM busybox:test", f"RUN --mount=type=cache,id=j{os.getpid()},{mount} cat /e/secret /e"]
        result = build(build_naru, write(str(tmp_path / re.sub(r"\W", "", mount)), {"Dockerfile": "\n".join(one) + "\n"}))
        assert result.returncode == 1 and "of the host" not in said(result), said(result)


def test_nothing_is_cleaned_up_through_a_link(build_naru, tmp_path):
    """CVE-2024-23652: a step that puts a link in the place of what its mounts were made in."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "stub").write_text("")
    text = f"""FROM busybox:test
RUN --mount=type=tmpfs,target=/a/b/stub --mount=type=cache,id=k{os.getpid()},target=/a/c/stub mv /a /moved; rm -rf /a; ln -s {outside} /a; true
RUN --mount=type=tmpfs,target=/x/stub mkdir /y && mv /x /y/x; ln -s {outside} /x; ls -ld /x
"""
    result = build(build_naru, write(str(tmp_path / "c"), {"Dockerfile": text}))
    assert os.listdir(outside) == ["stub"], said(result)


@pytest.mark.parametrize("flag,reason", [("--security=insecure", "insecure"), ("--device=/dev/null", "device"), ("--network=host", "network.host|--network host")])
def test_no_step_gets_more_rights(build_naru, tmp_path, flag, reason):
    """CVE-2024-23653: what a Dockerfile asks for is not what its user allowed."""
    folder = write(str(tmp_path / "c"), {"Dockerfile": f"FROM busybox:test\nRUN {flag} ls /sys/class/net\n"})
    result = build(build_naru, folder)
    assert result.returncode == 1 and re.search(reason, said(result)) and "line 2" in said(result), said(result)
    if flag == "--network=host":
        assert build(build_naru, folder, "--network", "host").returncode == 0


def test_an_image_made_to_look_like_a_step_is_none(build_naru, tmp_path):
    """CVE-2024-24557: an image whose history says that it is a step's result."""
    engine = build_naru
    step = "RUN echo real >/x"
    assert engine.client("run", "--name", "poison", "busybox:test", "sh", "-c", "echo poisoned >/x").returncode == 0
    client = docker.APIClient(base_url=engine.host)
    made = client.commit("poison", repository="poisoned", conf={"Cmd": ["/bin/sh", "-c", "echo real >/x"]}, message="naru.dockerfile", changes=["HEALTHCHECK NONE"])
    engine.client("rm", "poison")
    image = built(engine, write(str(tmp_path / "c"), {"Dockerfile": f"FROM busybox:test\n{step}\nHEALTHCHECK NONE\n"}))
    assert image != made["Id"] and shown(engine, image, "cat /x") == "real\n"
    client.remove_image("poisoned")
    client.close()
