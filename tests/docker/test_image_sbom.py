"""Packages in an image: what `naru image sbom` lists is what the image's own package managers list, and its SPDX document passes a validator of others."""

import io
import json
import subprocess
import tarfile
import zlib

import pytest
from testkit.engine import NARU

APK = "C:Q1=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\no:musl\n\nP:musl-utils\nV:1.2.5-r0\nA:x86_64\nL:MIT AND BSD-2-Clause\no:musl\n\n"
CRATES = {"packages": [{"name": "serde", "version": "1.0.1", "source": "crates.io"}, {"name": "cc", "version": "1.0.0", "source": "crates.io", "kind": "build"}]}


def program_with_crates(folder):
    """A real program with the section that `cargo auditable` adds."""
    (folder / "list").write_bytes(zlib.compress(json.dumps(CRATES).encode()))
    subprocess.run(["objcopy", "--add-section", f".dep-v0={folder / 'list'}", "/bin/busybox", str(folder / "program")], check=True)
    return (folder / "program").read_bytes()


def import_image(engine, name, folder, files):
    with tarfile.open(folder / "root.tar", "w") as tar:
        for path, contents, mode in files:
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(contents), mode
            tar.addfile(info, io.BytesIO(contents))
    done = engine.client("import", str(folder / "root.tar"), name, program=NARU)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def mixed(busybox_naru, tmp_path):
    """An image with packages of every kind, and some that look like it and are none."""
    module = json.dumps({"name": "@scope/left", "version": "2.0.0", "license": "ISC"}).encode()
    import_image(busybox_naru, "mixed:1", tmp_path, [
        ("etc/os-release", b'ID=alpine\nVERSION_ID="3.20.1"\n', 0o644),
        ("lib/apk/db/installed", APK.encode(), 0o644),
        ("app/node_modules/@scope/left/package.json", module, 0o644),
        ("app/node_modules/@scope/left/test/package.json", b'{"name":"not","version":"1"}', 0o644),
        ("app/package.json", b'{"name":"own","version":"1"}', 0o644),
        ("opt/lib/python3.12/site-packages/Flask_X-3.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: Flask_X\nVersion: 3.0\nLicense: BSD, see file\n\nName: text\n", 0o644),
        ("opt/lib/python3.12/site-packages/broken-1.dist-info/METADATA", b"\xff\xfe\x00Name", 0o644),
        ("usr/local/cargo/.crates2.json", b'{"installs":{"ripgrep 13.0.0 (registry+https://github.com/rust-lang/crates.io-index)":{"bins":["rg"]}}}', 0o644),
        ("usr/bin/program", program_with_crates(tmp_path), 0o755),
    ])
    yield busybox_naru
    busybox_naru.client("rmi", "mixed:1")


def sbom(engine, *words):
    done = engine.client("image", "sbom", *words, program=NARU)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_packages_of_every_kind(mixed):
    found = sbom(mixed, "mixed:1", "--format", "{{.PURL}}").split()
    assert found == [
        "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=alpine-3.20.1", "pkg:apk/alpine/musl-utils@1.2.5-r0?arch=x86_64&distro=alpine-3.20.1",
        "pkg:pypi/flask-x@3.0", "pkg:npm/%40scope/left@2.0.0", "pkg:cargo/ripgrep@13.0.0", "pkg:cargo/serde@1.0.1",
    ]
    assert "NAME" in sbom(mixed, "mixed:1").splitlines()[0]


def test_the_document_is_valid_and_the_same_each_time(mixed, tmp_path):
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    path = tmp_path / "mixed.spdx.json"
    assert sbom(mixed, "-o", str(path), "mixed:1") == ""
    assert path.read_text() == sbom(mixed, "--format", "spdx-json", "mixed:1")
    document = parse_file(str(path))
    assert validate_full_spdx_document(document) == []
    licenses = {package.name: str(package.license_declared) for package in document.packages}
    assert (licenses["musl-utils"], licenses["Flask_X"]) == ("MIT AND BSD-2-Clause", "NOASSERTION")
    contained = [relation for relation in document.relationships if relation.relationship_type.name == "CONTAINS"]
    assert len(contained) == 6


def test_debian_lists_the_same_packages(naru, tmp_path):
    listed = naru.client("run", "--rm", "debian:test", "dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version} ${Architecture}\n").stdout.splitlines()
    wanted = sorted(line.split(" ", 1)[1] for line in listed if line.startswith("installed "))
    packages = [json.loads(line) for line in sbom(naru, "debian:test", "--format", "json").splitlines()]
    found = sorted(f"{one['Name']} {one['Version']} {one['PURL'].split('arch=')[1].split('&')[0]}" for one in packages if one["Type"] == "deb")
    assert found == wanted and len(found) > 50
    # What a build attests of it is the same list.
    (tmp_path / "Dockerfile").write_text("FROM debian:test\nLABEL attested=yes\n")
    built = naru.client("build", "-q", "-t", "attested:debian", "--sbom=true", str(tmp_path), program=NARU)
    assert built.returncode == 0, built.stderr
    document = json.loads(sbom(naru, "attested:debian", "--format", "spdx-json"))
    attested = sorted(f"{one['name']} {one['versionInfo']}" for one in document["packages"] if one["SPDXID"].startswith("SPDXRef-Package-deb-"))
    assert attested == [line.rsplit(" ", 1)[0] for line in wanted] and document["name"] == "attested:debian"
    naru.client("rmi", "attested:debian")


def test_a_missing_image_is_told(busybox_naru):
    done = busybox_naru.client("image", "sbom", "nosuch:1", program=NARU)
    assert done.returncode == 1 and "nosuch" in done.stderr
