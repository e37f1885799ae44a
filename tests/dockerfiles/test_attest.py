"""Attestations of a build: what others' tools read in a registry, in a layout and among files, and what stays out of it."""

import base64
import hashlib
import json
import os

import pytest
from test_build import CLIENT, write_context
from test_sources import Web
from testkit.engine import NARU
from testkit.registry import DebianRegistry

FILE = """FROM busybox:test AS tool
ARG PLAIN=none
RUN --mount=type=secret,id=token,required=true --mount=type=ssh md5sum /run/secrets/token >/sum; echo $PLAIN >/plain
FROM scratch
COPY --from=tool /sum /plain /
COPY status /var/lib/dpkg/status
COPY os-release /etc/os-release
"""
FILES = {
    "Dockerfile": FILE,
    "status": "Package: libx\nStatus: install ok installed\nVersion: 1.2-3\nArchitecture: amd64\n",
    "os-release": 'ID=debian\nVERSION_ID="12"\n',
}
SECRET = "very-secret-word"
SPDX, SLSA, SLSA_1 = "https://spdx.dev/Document", "https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1"


@pytest.fixture
def folder(tmp_path):
    write_context(str(tmp_path / "c"), FILES)
    (tmp_path / "token").write_text(SECRET)
    return str(tmp_path / "c")


def naru_build(engine, folder, *arguments, status=0):
    given = ["--secret", f"id=token,src={folder}/../token", "--build-arg", "PLAIN=plain-word", *arguments, folder]
    done = engine.scope.run(NARU, "-H", engine.host, "build", *given)
    assert done.returncode == status, done.stderr
    return done


def skopeo(engine, *words):
    done = engine.scope.run("skopeo", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def raw(engine, name):
    return skopeo(engine, "inspect", "--raw", "--tls-verify=false", f"docker://{name}")


def statements_of(engine, name, index):
    """As a registry has them: by their predicates' types, each compared with what its descriptors say."""
    image, attesting = index["manifests"]
    assert attesting["platform"] == {"architecture": "unknown", "os": "unknown"} and image["platform"]["os"] == "linux"
    assert attesting["annotations"] == {"vnd.docker.reference.digest": image["digest"], "vnd.docker.reference.type": "attestation-manifest"}
    repository = name.rsplit(":", 1)[0]
    host, path = repository.split("/")
    manifest = json.loads(raw(engine, f"{repository}@{attesting['digest']}"))
    found = {}
    for layer in manifest["layers"]:
        text = engine.scope.shell(f"curl -sfL http://{host}/v2/{path}/blobs/{layer['digest']}").stdout
        assert (layer["mediaType"], layer["digest"]) == ("application/vnd.in-toto+json", "sha256:" + hashlib.sha256(text.encode()).hexdigest())
        statement = json.loads(text)
        assert statement["predicateType"] == layer["annotations"]["in-toto.io/predicate-type"] and SECRET not in text
        found[statement["predicateType"]] = statement
    return found


@pytest.fixture
def registry(build_naru):
    registry = DebianRegistry(build_naru.scope)
    yield registry
    registry.close()


def test_a_registry_has_them_beside_the_image(build_naru, registry, folder, tmp_path):
    name = f"{registry.host}/attest:a"
    asked = ["-t", name, "--sbom=true", "--provenance=mode=max", "--push", "-o", f"type=oci,dest={tmp_path}/layout,tar=false"]
    naru_build(build_naru, folder, *asked)
    index = raw(build_naru, name)
    assert skopeo(build_naru, "inspect", "--raw", f"oci:{tmp_path}/layout") == index
    statements = statements_of(build_naru, name, json.loads(index))
    assert set(statements) == {SPDX, SLSA}
    # What a client that knows nothing of attestations takes is what they speak of.
    skopeo(build_naru, "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"dir:{tmp_path}/copy")
    digest = skopeo(build_naru, "manifest-digest", f"{tmp_path}/copy/manifest.json").strip()
    subject = [{"name": f"pkg:docker/{name.replace(':a', '@a')}?platform=linux%2Famd64", "digest": {"sha256": digest.removeprefix("sha256:")}}]
    assert all(statement["subject"] == subject for statement in statements.values())
    packages = {package["name"]: package["versionInfo"] for package in statements[SPDX]["predicate"]["packages"]}
    assert packages["libx"] == "1.2-3"
    how = statements[SLSA]["predicate"]
    parameters, metadata = how["invocation"]["parameters"], how["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]
    assert parameters["args"] == {"build-arg:PLAIN": "plain-word"} and parameters["secrets"] == [{"id": "token"}] and parameters["ssh"] == [{"id": "default", "optional": True}]
    assert base64.b64decode(metadata["source"]["infos"][0]["data"]).decode() == FILE
    busybox = build_naru.client("image", "inspect", "-f", "{{.Id}}", "busybox:test").stdout.strip()
    assert how["materials"] == [{"uri": "pkg:docker/busybox@test?platform=linux%2Famd64", "digest": {"sha256": busybox.removeprefix("sha256:")}}]
    # Built anew, all of it is the same.
    naru_build(build_naru, folder, *asked[:5], "--no-cache")
    assert raw(build_naru, name) == index
    build_naru.client("rmi", name)


def test_they_stay_with_the_image(build_naru, registry, folder):
    name = f"{registry.host}/attest:kept"
    naru_build(build_naru, folder, "-t", name, "--attest", "type=sbom", "--attest", "type=provenance,mode=min,version=v1,builder-id=https://ci/1")
    client = lambda *words: build_naru.client(*words, program=NARU)
    assert json.loads(client("image", "inspect", name).stdout)[0]["Attestations"] == [SPDX, SLSA_1]
    # Somebody else's client pushes them later; a build that asks for none of the same image leaves them.
    naru_build(build_naru, folder, "-t", name, "--sbom=false", "--provenance=false")
    pushed = build_naru.scope.shell(f"{CLIENT} -H {build_naru.host} push {name}")
    assert pushed.returncode == 0, pushed.stderr
    index = raw(build_naru, name)
    digest = hashlib.sha256(index.encode()).hexdigest()
    assert f"digest: sha256:{digest}" in pushed.stdout
    statements = statements_of(build_naru, name, json.loads(index))
    document, how = statements[SPDX]["predicate"], statements[SLSA_1]["predicate"]
    assert json.loads(client("image", "sbom", "--format", "spdx-json", name).stdout) == document
    assert json.loads(client("image", "provenance", name).stdout) == how
    assert how["runDetails"]["builder"]["id"] == "https://ci/1" and not any(word in json.dumps(how) for word in ("plain-word", "token", "On\""))
    # The whole way back: the engine itself pulls what is for its platform.
    assert client("rmi", name).returncode == 0 and client("pull", "-q", name).returncode == 0
    assert "Attestations" not in json.loads(client("image", "inspect", name).stdout)[0]
    assert client("image", "provenance", name).returncode == 1
    # What is built upon it was made of what its registry has.
    write_context(f"{folder}/next", {"Dockerfile": f"FROM {name}\nLABEL next=yes\n"})
    assert client("build", "-q", "-t", "attest:next", "--provenance=mode=min", f"{folder}/next").returncode == 0
    how = json.loads(client("image", "provenance", "attest:next").stdout)
    assert how["materials"] == [{"uri": f"pkg:docker/{registry.host}/attest@kept?platform=linux%2Famd64", "digest": {"sha256": digest}}]
    client("rmi", "attest:next", name)


def test_among_files_they_speak_of_each(build_naru, folder, tmp_path):
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    out = tmp_path / "out"
    naru_build(build_naru, folder, "--sbom=true", "--provenance=mode=min", "-o", str(out))
    how = json.loads((out / "provenance.json").read_text())
    sums = {one["name"]: one["digest"]["sha256"] for one in how["subject"]}
    assert sums == {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in ("sum", "plain", "var/lib/dpkg/status", "etc/os-release")}
    assert how["predicate"]["invocation"]["parameters"]["args"] == {} and how["predicate"]["metadata"]["completeness"]["parameters"] is False
    statement = json.loads((out / "sbom.spdx.json").read_text())
    (tmp_path / "x.spdx.json").write_text(json.dumps(statement["predicate"]))
    document = parse_file(str(tmp_path / "x.spdx.json"))
    assert validate_full_spdx_document(document) == [] and "libx" in {package.name for package in document.packages}
    # Not asked for, or for images alone: no files.
    naru_build(build_naru, folder, "--provenance=mode=max,inline-only=true", "-o", str(tmp_path / "inline"))
    naru_build(build_naru, folder, "-o", str(tmp_path / "plain"))
    assert not {"provenance.json", "sbom.spdx.json"} & set(os.listdir(tmp_path / "inline") + os.listdir(tmp_path / "plain"))


def test_stages_are_listed_where_the_file_wants_it(build_naru, folder, tmp_path):
    text = "ARG BUILDKIT_SBOM_SCAN_STAGE=tools\nFROM scratch AS tools\nCOPY status /var/lib/dpkg/status\nFROM scratch AS other\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY os-release /\nFROM scratch\nCOPY --from=tools /var/lib/dpkg/status /x\nCOPY --from=other / /\n"
    write_context(folder, {"Dockerfile": text})
    naru_build(build_naru, folder, "--sbom=true", "-o", str(tmp_path / "out"))
    documents = {name: json.loads((tmp_path / "out" / name).read_text())["predicate"] for name in os.listdir(tmp_path / "out") if name.endswith(".json")}
    found = {name: [package["name"] for package in document["packages"]][1:] for name, document in documents.items()}
    assert found == {"sbom.spdx.json": [], "sbom-other.spdx.json": [], "sbom-tools.spdx.json": ["libx"]} and documents["sbom-tools.spdx.json"]["name"] == "tools"


def test_addresses_are_told_without_their_secrets(build_naru, folder, tmp_path):
    """To whoever pulls, and to whoever asks the engine what it keeps or why a build failed."""
    web = Web(build_naru, str(tmp_path / "web"))
    try:
        web.put("file", b"one")
        text = f"FROM scratch\nARG INDEX\nARG MY_TOKEN\nARG AT\nADD {web.url}/file?token=hush-1&v= /a\nADD $AT /b\n"
        write_context(folder, {"Dockerfile": text})
        given = lambda at: ["--build-arg", "INDEX=https://me:hush-2@host/simple", "--build-arg", "MY_TOKEN=hush-3", "--build-arg", f"AT={at}"]
        naru_build(build_naru, folder, *given(f"{web.url}/file?hush-4"), "--provenance=mode=max", "-o", str(tmp_path / "out"))
        how = json.loads((tmp_path / "out/provenance.json").read_text())["predicate"]
        digest = {"sha256": hashlib.sha256(b"one").hexdigest()}
        assert how["materials"] == [{"uri": f"{web.url}/file?{query}", "digest": digest} for query in ("token=xxxxx&v=", "xxxxx")]
        arguments = {"PLAIN": "plain-word", "INDEX": "https://host/simple", "MY_TOKEN": "xxxxx", "AT": f"{web.url}/file?xxxxx"}
        assert how["invocation"]["parameters"]["args"] == {f"build-arg:{name}": value for name, value in arguments.items()}
        assert how["metadata"]["completeness"]["parameters"] is False
        [info] = how["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["source"]["infos"]
        assert base64.b64decode(info["data"]).decode() == text.replace("hush-1", "xxxxx")
        kept = build_naru.client("system", "df", "-v", "--format", "{{json .}}", program=CLIENT).stdout
        assert f"fetched from {web.url}/file?xxxxx" in kept and "hush-4" not in kept
        failed = naru_build(build_naru, folder, *given("http://me:hush-5@host/x?hush-6"), status=1).stderr
        assert "cannot fetch http://host/x?xxxxx" in failed and "hush-5" not in failed and "hush-6" not in failed
    finally:
        web.close()


@pytest.mark.parametrize("asked, words", [("--sbom=generator=x/scan", "x/scan"), ("--provenance=mode=most", "min or max"), ("--attest=type=nosuch", "nosuch"), ("--attest=mode=max", "type")])
def test_what_cannot_be_attested_is_refused(build_naru, folder, asked, words):
    assert words in naru_build(build_naru, folder, "-t", "attest:none", asked, status=1).stderr
    assert build_naru.client("image", "inspect", "attest:none").returncode != 0


ANNOTATED = ["--annotation", "org.opencontainers.image.title=a = b", "--annotation", "index,manifest-descriptor[linux/amd64]:example.place=around"]


def test_annotations_are_beside_the_image(build_naru, registry, folder, tmp_path):
    """In each document that they were asked for, wherever the image goes, and not in the image itself."""
    name = f"{registry.host}/annotated:a"
    identity = lambda: build_naru.client("image", "inspect", "-f", "{{.Id}}", name).stdout
    naru_build(build_naru, folder, "-t", name, "--push")
    plain, image = json.loads(raw(build_naru, name)), identity()
    naru_build(build_naru, folder, "-t", name, "--push", *ANNOTATED[:2])
    manifest = json.loads(raw(build_naru, name))
    assert manifest["annotations"] == {"org.opencontainers.image.title": "a = b"} and manifest["mediaType"].startswith("application/vnd.oci.image.manifest")
    assert identity() == image and [layer["digest"] for layer in manifest["layers"]] == [layer["digest"] for layer in plain["layers"]]
    # With an index there is more to annotate; an archive has it too, and another client's push of the same image.
    naru_build(build_naru, folder, "-t", name, *ANNOTATED, "--provenance=mode=min", "-o", "type=image", "-o", f"type=oci,dest={tmp_path}/layout,tar=false,annotation-index-descriptor.example.list=yes")
    assert build_naru.scope.shell(f"{CLIENT} -H {build_naru.host} push {name}").returncode == 0
    index = json.loads(raw(build_naru, name))
    assert (index["annotations"], index["manifests"][0]["annotations"]) == ({"example.place": "around"}, {"example.place": "around"})
    inner = json.loads(raw(build_naru, f"{name.removesuffix(':a')}@{index['manifests'][0]['digest']}"))
    assert inner == manifest
    with open(f"{tmp_path}/layout/index.json") as file:
        listed = json.load(file)["manifests"][0]
    assert listed["digest"] == "sha256:" + hashlib.sha256(raw(build_naru, name).encode()).hexdigest() and listed["annotations"]["example.list"] == "yes"
    # Other annotations take their place; what is pulled keeps its own.
    naru_build(build_naru, folder, "-t", f"{name}b", "--push", "--annotation", "manifest:other=1")
    assert json.loads(raw(build_naru, f"{name}b"))["manifests"][0]["digest"] != index["manifests"][0]["digest"]
    build_naru.client("rmi", "-f", image.strip())
    assert build_naru.client("pull", "-q", name).returncode == 0
    assert build_naru.client("save", "-o", f"{tmp_path}/saved.tar", name).returncode == 0
    assert json.loads(skopeo(build_naru, "inspect", "--raw", f"oci-archive:{tmp_path}/saved.tar:a")) == manifest
    build_naru.client("rmi", name)


@pytest.mark.parametrize("asked, words", [
    (["--annotation=index:a=b"], "--provenance"), (["--annotation=a"], "KEY=VALUE"), (["--annotation=nosuch:a=b"], "index-descriptor"),
    (["--annotation=manifest[linux/s390x]:a=b"], "linux/s390x"), (["--annotation=a=b", "-o", "files"], "type=image"),
])
def test_an_annotation_without_a_place_is_refused(build_naru, folder, asked, words):
    assert words in naru_build(build_naru, folder, "-t", "annotated:none", *asked, status=1).stderr
    assert build_naru.client("image", "inspect", "annotated:none").returncode != 0
