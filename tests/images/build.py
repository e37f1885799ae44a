"""Builds the images the tests run: busybox:test and debian:test, from Debian packages alone.

Results are cached under target/images in a folder named after everything they are made from.
Run as a program it prints the folder's path.
"""

import fcntl
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import archive  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SUITE = "bookworm"

BUSYBOX_CONFIG = {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
DEBIAN_CONFIG = {
    "Cmd": ["bash"],
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GREETING=hello from the image"],
    "ExposedPorts": {"8000/tcp": {}},
    "Labels": {"maintainer": "naru tests"},
    "Volumes": {"/srv/data": {}},
    "WorkingDir": "/srv",
}

SERVER = '''"""Serves one line on port 8000."""
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (os.environ.get("GREETING", "") + " " + self.path + "\\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, form, *args):
        print("served", self.path, flush=True)
print("ready", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
'''


def build():
    """Returns the folder with busybox.tar, debian.tar, debian-oci.tar and debian-zstd.tar, building what is missing."""
    folder = os.path.join(ROOT, "target", "images", content_key())
    os.makedirs(folder, exist_ok=True)
    # Who runs tests beside these waits until they are whole.
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(os.path.join(folder, "busybox.tar")):
            build_busybox(folder)
        if not os.path.exists(os.path.join(folder, "debian-zstd.tar")):
            build_debian(folder)
    return folder


def content_key():
    key = hashlib.sha256()
    for name in ("build.py", "archive.py"):
        with open(os.path.join(HERE, name), "rb") as file:
            key.update(file.read())
    key.update(archive.hash_file("/bin/busybox").encode())
    return key.hexdigest()[:16]


def build_busybox(folder):
    with tempfile.TemporaryDirectory(dir=folder) as work:
        root = os.path.join(work, "root")
        for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr/bin", "var"):
            os.makedirs(os.path.join(root, name))
        os.chmod(os.path.join(root, "tmp"), 0o1777)
        shutil.copy("/bin/busybox", os.path.join(root, "bin/busybox"))
        applets = subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout
        for applet in applets.split():
            if applet != "busybox":
                os.link(os.path.join(root, "bin/busybox"), os.path.join(root, "bin", applet))
        write_text(root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/home:/bin/false\n")
        write_text(root, "etc/group", "root:x:0:\naudio:x:29:nobody\nnogroup:x:65534:\n")
        layer_path = os.path.join(work, "layer.tar")
        archive.write_difference(root, {}, layer_path)
        layers = [archive.Layer(layer_path, "busybox-static")]
        partial = os.path.join(work, "busybox.tar")
        archive.write_docker_archive(partial, "busybox:test", layers, BUSYBOX_CONFIG)
        os.rename(partial, os.path.join(folder, "busybox.tar"))


def build_debian(folder):
    work = tempfile.mkdtemp(dir=folder)
    try:
        root = os.path.join(work, "root")
        layers, before = [], {}
        for number, (created_by, step) in enumerate(DEBIAN_STEPS):
            step(root)
            path = os.path.join(work, f"layer{number}.tar")
            before = archive.write_difference(root, before, path)
            layers.append(archive.Layer(path, created_by))
        for name, compression in (("debian-oci.tar", "gzip"), ("debian-zstd.tar", "zstd")):
            archive.write_oci_layout(
                os.path.join(work, name), "debian:test", layers, DEBIAN_CONFIG, compression, work)
        archive.write_docker_archive(os.path.join(work, "debian.tar"), "debian:test", layers, DEBIAN_CONFIG)
        for name in ("debian.tar", "debian-oci.tar", "debian-zstd.tar"):
            os.rename(os.path.join(work, name), os.path.join(folder, name))
    finally:
        shutil.rmtree(work)


def bootstrap(root):
    cache = os.path.join(ROOT, "target", "images", "packages")
    os.makedirs(cache, exist_ok=True)
    run(["debootstrap", "--variant=minbase", "--cache-dir=" + cache, SUITE, root, debian_mirror()])
    # The machine's own way to its mirror, taken away again with the package lists.
    for path in copied_apt_configuration():
        shutil.copy(path, root + path)


def copied_apt_configuration():
    return [path for path in glob.glob("/etc/apt/apt.conf.d/*") if re.search(r"Proxy|CaInfo", open(path).read())]


def install(*packages):
    def step(root):
        chroot(root, "apt-get", "-qq", "update")
        chroot(root, "apt-get", "-qq", "install", "-y", "--no-install-recommends", *packages)
        chroot(root, "apt-get", "clean")
    return step


def clean(root):
    """Leaves whiteouts in the next layer, of files and of whole folders."""
    for path in copied_apt_configuration():
        os.remove(root + path)
    shutil.rmtree(os.path.join(root, "var/lib/apt/lists"))
    shutil.rmtree(os.path.join(root, "usr/share/doc"))
    write_text(root, "etc/apt/sources.list", "")
    for path in glob.glob(os.path.join(root, "var/log/*.log")) + glob.glob(os.path.join(root, "usr/share/locale/*/LC_MESSAGES/*.mo")):
        os.remove(path)


def add_program(root):
    chroot(root, "useradd", "--uid", "1000", "--create-home", "app")
    chroot(root, "usermod", "--append", "--groups", "audio,video", "app")
    write_text(root, "srv/server.py", SERVER)
    write_text(root, "srv/data/seed", "from the image\n")
    os.chown(os.path.join(root, "srv/data"), 1000, 1000)
    os.chown(os.path.join(root, "srv/data/seed"), 1000, 1000)
    shutil.copy(os.path.join(root, "usr/bin/sleep"), os.path.join(root, "srv/with-capability"))
    # cap_net_raw=ep in the kernel's revision 2 form: magic, permitted low, inheritable low, permitted and inheritable high.
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(os.path.join(root, "srv/with-capability"), "security.capability", capability)


def replace_folder_by_file(root):
    shutil.rmtree(os.path.join(root, "media"))
    write_text(root, "media", "a file where a folder was\n")
    os.symlink("server.py", os.path.join(root, "srv/link.py"))
    os.link(os.path.join(root, "srv/server.py"), os.path.join(root, "srv/hard.py"))


DEBIAN_STEPS = [
    ("debootstrap --variant=minbase", bootstrap),
    ("apt-get install python3", install("python3")),
    ("apt-get install curl iproute2 procps strace libcap2-bin", install("curl", "ca-certificates", "iproute2", "procps", "strace", "libcap2-bin")),
    ("apt-get install perl git", install("perl", "git")),
    ("apt-get clean", clean),
    ("COPY server.py /srv", add_program),
    ("RUN replace /media", replace_folder_by_file),
]


def debian_mirror():
    """Reads the mirror from the machine's own apt configuration, so that its host is written nowhere else."""
    for path in sorted(glob.glob("/etc/apt/sources.list.d/*.sources")):
        for stanza in open(path).read().split("\n\n"):
            address = re.search(r"^URIs:\s*(\S+)", stanza, re.M)
            if address and re.search(rf"^Suites:.*\b{SUITE}(\s|$)", stanza, re.M):
                return address.group(1)
    for path in ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*.list"))]:
        if os.path.exists(path):
            if line := re.search(rf"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{SUITE}\s", open(path).read(), re.M):
                return line.group(1)
    raise SystemExit(f"no Debian mirror for {SUITE} in /etc/apt")


def chroot(root, *command):
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    for name in ("http_proxy", "https_proxy"):
        if name in os.environ:
            environment[name] = os.environ[name]
    resolver = os.path.join(root, "etc/resolv.conf")
    hosts = os.path.join(root, "etc/hosts")
    for name in (resolver, hosts):
        if os.path.exists("/etc/" + os.path.basename(name)):
            shutil.copy("/etc/" + os.path.basename(name), name)
    run(["chroot", root, *command], env=environment)
    for name in (resolver, hosts):
        if os.path.exists(name):
            os.remove(name)


def run(command, **options):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout[-3000:]}")


def write_text(root, path, text):
    os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
    with open(os.path.join(root, path), "w") as file:
        file.write(text)


if __name__ == "__main__":
    print(build())
