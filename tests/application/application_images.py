"""Builds the images of the application, web:test, db:test and cache:test, from Debian packages alone.

They share one layer, what debian:test begins with made small. Cached like the images of tests/images/build.py.
Run as a program it prints the archive's path.
"""

import concurrent.futures
import glob
import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "images"))
import archive  # noqa: E402
import build  # noqa: E402

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNNEEDED = [
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/lib/apt/lists", "var/cache/apt",
    # The compiler that PostgreSQL may use and is told not to; most of its package.
    "usr/lib/postgresql/*/lib/bitcode", "usr/lib/x86_64-linux-gnu/libLLVM*", "usr/lib/x86_64-linux-gnu/libz3*",
    "usr/lib/llvm-*",
    # What Debian's wrappers around PostgreSQL are written in; the image calls PostgreSQL itself.
    "usr/share/perl", "usr/lib/x86_64-linux-gnu/perl", "usr/share/i18n",
]


def image_archive():
    """Returns the path of the archive with the three images, building it if it is missing."""
    folder = os.path.join(build.ROOT, "target", "images", "application-" + content_key())
    path = os.path.join(folder, "application.tar")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        work = tempfile.mkdtemp(dir=folder)
        try:
            os.rename(build_archive(work), path)
        finally:
            shutil.rmtree(work)
    return path


def content_key():
    key = hashlib.sha256(build.content_key().encode())
    for path in [os.path.join(HERE, "application_images.py"), *sorted(glob.glob(HERE + "/programs/*"))]:
        key.update(archive.hash_file(path).encode())
    return key.hexdigest()[:16]


def build_archive(work):
    base = os.path.join(work, "base")
    layer = build_base(base, os.path.join(work, "base.tar"))
    # At once, because most of the time goes in waiting for packages.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        layers = list(pool.map(lambda image: build_layer(work, base, *image[:3]), IMAGES))
    images = [(image[0], [layer, own], image[3]) for image, own in zip(IMAGES, layers)]
    target = os.path.join(work, "application.tar")
    write_images(target, images)
    return target


def build_base(root, path):
    """Unpacks debian:test's lowest layer, a bare Debian, and leaves out what no container needs."""
    with tarfile.open(os.path.join(build.build(), "debian.tar")) as whole:
        manifest = json.load(whole.extractfile("manifest.json"))[0]
        with tarfile.open(fileobj=whole.extractfile(manifest["Layers"][0])) as layer:
            # Owners, modes and devices as they are; this is how Python is told so whatever its version.
            layer.extraction_filter = lambda member, _: member
            layer.extractall(root, numeric_owner=True)
    for name in build.copied_apt_configuration():
        os.remove(root + name)
    remove_unneeded(root)
    install_program(root, "visitor.sh", "usr/local/bin/visitor")
    archive.write_difference(root, {}, path)
    return archive.Layer(path, "debian, made small")


def build_layer(work, base, name, packages, finish):
    root = os.path.join(work, name)
    build.run(["cp", "-a", base, root])
    before = archive.list_tree(root)
    hold_daemons(root)
    for path in build.copied_apt_configuration():
        shutil.copy(path, root + path)
    os.makedirs(root + "/var/cache/apt/archives/partial")
    os.makedirs(root + "/var/lib/apt/lists/partial")
    build.install(*packages)(root)
    for path in build.copied_apt_configuration():
        os.remove(root + path)
    os.remove(root + "/usr/sbin/policy-rc.d")
    remove_unneeded(root)
    finish(root)
    layer = os.path.join(work, name + ".tar")
    archive.write_difference(root, before, layer)
    shutil.rmtree(root)
    return archive.Layer(layer, "apt-get install " + " ".join(packages))


def hold_daemons(root):
    """No package starts its daemon or makes a database while it is installed."""
    build.write_text(root, "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")
    os.chmod(root + "/usr/sbin/policy-rc.d", 0o755)
    build.write_text(root, "etc/postgresql-common/createcluster.conf", "create_main_cluster = false\n")


def remove_unneeded(root):
    for pattern in UNNEEDED:
        for path in glob.glob(os.path.join(root, pattern)):
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.remove(path)


def install_program(root, name, target):
    shutil.copy(os.path.join(HERE, "programs", name), os.path.join(root, target))
    os.chmod(os.path.join(root, target), 0o755)


def finish_web(root):
    install_program(root, "web.py", "srv/web.py")


def finish_database(root):
    install_program(root, "database.sh", "usr/local/bin/database")
    make_owned(root, "var/lib/postgresql/data", "postgres")


def finish_cache(root):
    make_owned(root, "var/lib/redis/data", "redis")


def make_owned(root, path, user):
    """A volume that is mounted there the first time becomes this user's too."""
    os.makedirs(os.path.join(root, path), mode=0o700)
    build.chroot(root, "chown", f"{user}:{user}", "/" + path)


IMAGES = [
    ("web", ["python3", "python3-psycopg2", "python3-redis"], finish_web, {
        "Cmd": ["python3", "/srv/web.py"], "Env": [PATH], "ExposedPorts": {"8000/tcp": {}}, "User": "nobody"}),
    ("db", ["postgresql-15"], finish_database, {
        "Cmd": ["database"], "Env": [PATH], "ExposedPorts": {"5432/tcp": {}}, "User": "postgres", "StopSignal": "SIGINT",
        "Volumes": {"/var/lib/postgresql/data": {}}}),
    ("cache", ["redis-server"], finish_cache, {
        "Cmd": ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/var/lib/redis/data",
                "--appendonly", "yes", "--appendfsync", "always"],
        "Env": [PATH], "ExposedPorts": {"6379/tcp": {}}, "User": "redis", "Volumes": {"/var/lib/redis/data": {}}}),
]


def write_images(target, images):
    """Writes what `docker save` writes for several images; a layer that two of them have is there once."""
    manifest, written = [], set()
    with tarfile.open(target, "w") as tar:
        for name, layers, config in images:
            body = archive.image_config(layers, config)
            config_name = hashlib.sha256(body).hexdigest() + ".json"
            archive.add_bytes(tar, config_name, body)
            files = [layer.diff_id.removeprefix("sha256:") + "/layer.tar" for layer in layers]
            for layer, file in zip(layers, files):
                if file not in written:
                    tar.add(layer.path, arcname=file, filter=archive.plain_owner)
                    written.add(file)
            manifest.append({"Config": config_name, "RepoTags": [name + ":test"], "Layers": files})
        archive.add_bytes(tar, "manifest.json", json.dumps(manifest).encode())


if __name__ == "__main__":
    print(image_archive())
