"""Dockerfiles that want more than they may have: the mechanisms of `docs/incidents.md` that concern builds."""

import io
import os
import re
import tarfile

import docker
import pytest
from test_promises import archive_of, build, built, write
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


@pytest.fixture
def outside(tmp_path):
    """A directory of the host's with one file, which must be as it was."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("of the host")
    yield str(folder)
    assert os.listdir(folder) == ["secret"] and (folder / "secret").read_text() == "of the host"
    assert os.stat(folder / "secret").st_nlink == 1


def link(target):
    return {"type": tarfile.SYMTYPE, "linkname": target}


def hard_link(target):
    return {"type": tarfile.LNKTYPE, "linkname": target}


HOSTILE = {
    "dots": lambda out, up: [(up + "/written", b"x"), ("a/../../" + up + "/written", b"x")],
    "a-link": lambda out, up: [("way", link(out)), ("way/written", b"x")],
    "a-link-upwards": lambda out, up: [("way", link(up)), ("way/written", b"x")],
    "a-hard-link": lambda out, up: [("got", hard_link(up + "/secret")), ("got", b"x")],
    "a-hard-link-behind-a-link": lambda out, up: [("way", link(out)), ("got", hard_link("way/secret")), ("got", b"x")],
    "a-link-written-to": lambda out, up: [("got", link(out + "/secret")), ("other", hard_link("got")), ("got", b"x"), ("other", b"x")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_archive_never_leads_to_the_host(build_naru, tmp_path, outside, name):
    """Neither one that `ADD` unpacks, also where a link of the image says so, nor one that is a context."""
    members = HOSTILE[name](outside, "../" * 12 + outside[1:])
    text = f"FROM busybox:test\nRUN ln -s {outside} /into\nADD %s /d/\nADD %s /into/\nRUN cat /d/got /d/other /d/way/secret /into/got; true\n"
    folder = write(str(tmp_path / "c"), {"Dockerfile": text % ("x.tar", "x.tar")})
    with open(folder + "/x.tar", "wb") as file:
        file.write(archive_of(*members))
    assert "of the host" not in said(build(build_naru, folder))
    client = docker.APIClient(base_url=build_naru.host)
    context = archive_of(("Dockerfile", (text % (".", ".")).encode()), *members)
    try:
        assert "of the host" not in str(list(client.build(fileobj=io.BytesIO(context), custom_context=True)))
    except docker.errors.APIError as refused:
        assert refused.status_code == 400, refused
    client.close()


@pytest.mark.parametrize("line", ["COPY --from=made /way/secret /x", "COPY --from=made /up/secret /x", "COPY --from=made /way/ /x/", "RUN --mount=type=bind,from=made,source=/way,target=/m cat /m/secret",
                                  "RUN --mount=type=bind,from=made,source=/up/secret,target=/m cat /m", "ADD --chown=0 /way/secret /x"])
def test_a_stage_never_leads_to_the_host(build_naru, tmp_path, outside, line):
    """Its links mean its own paths, and there are none such in it."""
    text = f"FROM busybox:test AS made\nRUN ln -s {outside} /way && ln -s ../../../../../../..{outside} /up\nFROM busybox:test\n{line}\nRUN cat /x /x/secret\n"
    result = build(build_naru, write(str(tmp_path / "c"), {"Dockerfile": text}))
    assert result.returncode == 1 and "of the host" not in said(result) and re.search("(?i)not found|no such", said(result)), said(result)


@pytest.mark.parametrize("line", ["COPY d /etc/", "ADD x.tar /etc/", "RUN touch /etc/.wh.passwd"])
def test_a_file_cannot_pretend_a_removal(build_naru, tmp_path, line):
    """In a layer this name would mean that /etc/passwd is gone."""
    folder = write(str(tmp_path / "c"), {"Dockerfile": f"FROM busybox:test\n{line}\nRUN ls /etc\n", "d/.wh.passwd": ""})
    with open(folder + "/x.tar", "wb") as file:
        file.write(archive_of((".wh.passwd", b"")))
    result = build(build_naru, folder)
    assert result.returncode == 1 and '"/etc/.wh.passwd" cannot be in an image' in result.stderr, said(result)
    assert re.search("line 2|Dockerfile:2:", result.stderr), said(result)


def test_a_commit_cannot_pretend_a_removal(build_naru):
    client = docker.DockerClient(base_url=build_naru.host)
    container = client.containers.create("busybox:test", ["touch", "/etc/.wh.passwd"])
    try:
        container.start()
        container.wait()
        with pytest.raises(docker.errors.APIError, match=r"/etc/\.wh\.passwd.* cannot be in an image"):
            container.commit("pretends")
        assert "/etc/.wh.passwd" in [change["Path"] for change in container.diff()]
    finally:
        container.remove()
        client.close()
