"""Builds golang:1.19, what the guide's Go program is compiled in, from Debian packages alone, and the library it vendors.

The image is debian:test's lowest layer with Go on it. Cached like the images of build.py.
Run as a program it prints the folder's path.
"""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import archive  # noqa: E402
import build  # noqa: E402

GOROOT = "/usr/lib/go-1.19"
CONFIG = {
    "Cmd": ["bash"],
    "Env": [f"PATH=/go/bin:{GOROOT}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOPATH=/go"],
    "WorkingDir": "/go",
}
COMPILER = ["golang-1.19-go", "golang-1.19-src"]
LIBRARY = "golang-github-julienschmidt-httprouter-dev"
MODULES = "# github.com/julienschmidt/httprouter v1.3.0\n## explicit; go 1.7\ngithub.com/julienschmidt/httprouter\n"
# Nothing of this is needed to compile programs. What of the library is not compiled here is when a program wants it, and
# "net" is in any case where there is no C compiler.
UNNEEDED = [
    "usr/share/doc", "usr/share/lintian", "usr/*/go-1.19/api", "usr/*/go-1.19/misc", "usr/*/go-1.19/test",
    "usr/share/go-1.19/src/cmd", "usr/lib/go-1.19/bin/gofmt",
    *(f"usr/lib/go-1.19/pkg/linux_amd64/{name}" for name in (
        "cmd", "go", "net*", "debug", "archive", "image*", "database", "testing*", "index", "html*", "text/template*")),
]
TOOLS = ["asm", "buildid", "compile", "link"]


def golang():
    """Returns the folder with golang.tar and vendor, building what is missing."""
    folder = os.path.join(build.ROOT, "target", "images", "golang-" + content_key())
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(os.path.join(folder, "golang.tar")):
            work = tempfile.mkdtemp(dir=folder)
            try:
                build_all(work, folder)
            finally:
                shutil.rmtree(work)
    return folder


def content_key():
    return hashlib.sha256((build.content_key() + archive.hash_file(os.path.abspath(__file__))).encode()).hexdigest()[:16]


def build_all(work, folder):
    base = os.path.join(work, "base")
    layer = unpack_base(work, base)
    packages = download(base)
    root, library = os.path.join(work, "go"), os.path.join(work, "library")
    for package in packages:
        build.run(["dpkg-deb", "-x", package, library if LIBRARY in package else root])
    remove_unneeded(root)
    own = os.path.join(work, "go.tar")
    archive.write_difference(root, {}, own)
    layers = [layer, archive.Layer(own, "dpkg -x " + " ".join(COMPILER))]
    archive.write_docker_archive(os.path.join(work, "golang.tar"), "golang:1.19", layers, CONFIG)
    shutil.rmtree(os.path.join(folder, "vendor"), ignore_errors=True)
    vendor(library, os.path.join(folder, "vendor"))
    os.rename(os.path.join(work, "golang.tar"), os.path.join(folder, "golang.tar"))


def unpack_base(work, root):
    """debian:test's lowest layer, a bare Debian that knows the way to its packages."""
    path = os.path.join(work, "base.tar")
    with tarfile.open(os.path.join(build.build(), "debian.tar")) as whole:
        lowest = json.load(whole.extractfile("manifest.json"))[0]["Layers"][0]
        with whole.extractfile(lowest) as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    with tarfile.open(path) as layer:
        layer.extraction_filter = lambda member, _: member
        layer.extractall(root, numeric_owner=True)
    return archive.Layer(path, "debootstrap --variant=minbase")


def download(root):
    """By the base's own apt, so that it is the same whatever the machine is."""
    build.chroot(root, "apt-get", "-qq", "update")
    build.chroot(root, "sh", "-c", "cd /tmp && apt-get -qq download " + " ".join([*COMPILER, LIBRARY]))
    return glob.glob(root + "/tmp/*.deb")


def remove_unneeded(root):
    tools = [path for path in glob.glob(f"{root}{GOROOT}/pkg/tool/*/*") if os.path.basename(path) not in TOOLS]
    tests = glob.glob(root + "/usr/share/go-1.19/src/**/*_test.go", recursive=True)
    data = glob.glob(root + "/usr/share/go-1.19/src/**/testdata", recursive=True)
    for path in [*(path for pattern in UNNEEDED for path in glob.glob(os.path.join(root, pattern))), *tools, *tests, *data]:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)


def vendor(library, target):
    """What `go mod vendor` makes of the library."""
    name = "github.com/julienschmidt/httprouter"
    os.makedirs(os.path.join(target, name))
    for path in glob.glob(f"{library}/usr/share/gocode/src/{name}/*.go"):
        if not path.endswith("_test.go"):
            shutil.copyfile(path, os.path.join(target, name, os.path.basename(path)))
    build.write_text(target, "modules.txt", MODULES)


if __name__ == "__main__":
    print(golang())
