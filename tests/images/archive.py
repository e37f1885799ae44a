"""Writes image archives: layer tars, docker-archive files and OCI layouts.

Knows nothing of where files come from and never runs a program except zstd.
Everything written is deterministic: the same tree gives the same digests.
"""

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile

CREATED = "2025-01-01T00:00:00Z"


class Layer:
    """One uncompressed layer tar on disk and its digest."""

    def __init__(self, path, created_by):
        self.path = path
        self.created_by = created_by
        self.diff_id = "sha256:" + hash_file(path)


def hash_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def list_tree(root):
    """Returns path -> facts for every entry below root, without following links."""
    facts = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            state = os.lstat(path)
            link = os.readlink(path) if stat.S_ISLNK(state.st_mode) else ""
            facts[os.path.relpath(path, root)] = (
                state.st_mode, state.st_uid, state.st_gid, state.st_rdev, link,
                0 if stat.S_ISDIR(state.st_mode) else state.st_size,
                0 if stat.S_ISDIR(state.st_mode) else state.st_mtime_ns,
                0 if stat.S_ISDIR(state.st_mode) else state.st_ino,
            )
    return facts


def write_difference(root, before, target):
    """Writes what changed below root since `before` as a layer tar, and returns the tree as it now is."""
    after = list_tree(root)
    removed = [path for path in before if path not in after]
    # A whiteout of a folder hides all below it, so its children need none of their own.
    removed = [path for path in removed if os.path.dirname(path) not in removed]
    changed = {path for path in after if before.get(path) != after[path]}
    for path in list(changed) + removed:
        while path := os.path.dirname(path):
            changed.add(path)
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        linked = {}
        for path in sorted(changed):
            add_entry(tar, root, path, linked)
        for path in sorted(removed):
            folder, name = os.path.split(path)
            tar.addfile(tarfile.TarInfo(os.path.join(folder, ".wh." + name)))
    return after


def add_entry(tar, root, path, linked):
    full = os.path.join(root, path)
    state = os.lstat(full)
    if stat.S_ISSOCK(state.st_mode):
        return
    info = tar.gettarinfo(full, arcname=path)
    info.uname = info.gname = ""
    info.mtime = int(state.st_mtime)
    first = linked.setdefault((state.st_dev, state.st_ino), path)
    if info.isreg() or info.islnk():
        if first != path:
            info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
        else:
            info.type, info.linkname, info.size = tarfile.REGTYPE, "", state.st_size
    for name in os.listxattr(full, follow_symlinks=False):
        value = os.getxattr(full, name, follow_symlinks=False)
        info.pax_headers["SCHILY.xattr." + name] = value.decode("utf-8", "surrogateescape")
    if info.isreg():
        with open(full, "rb") as file:
            tar.addfile(info, file)
    else:
        tar.addfile(info)


def image_config(layers, config):
    return json.dumps({
        "architecture": "amd64",
        "os": "linux",
        "created": CREATED,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": CREATED, "created_by": layer.created_by} for layer in layers],
    }, sort_keys=True).encode()


def add_bytes(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_docker_archive(target, reference, layers, config):
    """Writes what `docker save` writes, for one image."""
    body = image_config(layers, config)
    name = hashlib.sha256(body).hexdigest() + ".json"
    files = [layer.diff_id.removeprefix("sha256:") + "/layer.tar" for layer in layers]
    with tarfile.open(target, "w") as tar:
        add_bytes(tar, name, body)
        for layer, file in zip(layers, files):
            tar.add(layer.path, arcname=file, filter=plain_owner)
        manifest = [{"Config": name, "RepoTags": [reference], "Layers": files}]
        add_bytes(tar, "manifest.json", json.dumps(manifest).encode())


def plain_owner(info):
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def compress_layer(layer, compression, folder):
    """Compresses one layer into folder and returns its descriptor."""
    media = "application/vnd.oci.image.layer.v1.tar"
    partial = os.path.join(folder, "partial")
    if compression == "gzip":
        media += "+gzip"
        with open(layer.path, "rb") as source, open(partial, "wb") as raw:
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
                while block := source.read(1 << 20):
                    file.write(block)
    elif compression == "zstd":
        media += "+zstd"
        subprocess.run(["zstd", "-q", "-f", "-3", layer.path, "-o", partial], check=True)
    else:
        subprocess.run(["cp", "--reflink=auto", layer.path, partial], check=True)
    digest = hash_file(partial)
    os.replace(partial, os.path.join(folder, digest))
    return {"mediaType": media, "digest": "sha256:" + digest, "size": os.path.getsize(os.path.join(folder, digest))}


def write_oci_layout(target, reference, layers, config, compression, work):
    """Writes a tar of an OCI layout with one manifest; `work` is a folder for blobs."""
    blobs = os.path.join(work, "blobs-" + compression)
    os.makedirs(blobs, exist_ok=True)
    descriptors = [compress_layer(layer, compression, blobs) for layer in layers]
    body = image_config(layers, config)
    manifest = json.dumps({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("application/vnd.oci.image.config.v1+json", body),
        "layers": descriptors,
    }, sort_keys=True).encode()
    entry = describe("application/vnd.oci.image.manifest.v1+json", manifest)
    entry["annotations"] = {
        "io.containerd.image.name": "docker.io/library/" + reference,
        "org.opencontainers.image.ref.name": reference.split(":")[-1],
    }
    with tarfile.open(target, "w") as tar:
        add_bytes(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        for blob in (body, manifest):
            add_bytes(tar, "blobs/sha256/" + hashlib.sha256(blob).hexdigest(), blob)
        for name in sorted({d["digest"].removeprefix("sha256:") for d in descriptors}):
            tar.add(os.path.join(blobs, name), arcname="blobs/sha256/" + name, filter=plain_owner)
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
        add_bytes(tar, "index.json", json.dumps(index).encode())


def describe(media, body):
    return {"mediaType": media, "digest": "sha256:" + hashlib.sha256(body).hexdigest(), "size": len(body)}
