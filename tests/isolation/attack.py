"""What the tests of attacks share: hostile images, and running a command in them."""

import io
import tarfile
import tempfile

import archive

BUSYBOX = "/bin/busybox"
APPLETS = ("sh", "cat", "ls", "id", "sleep", "true", "mount", "stat", "readlink", "grep", "cut", "echo", "test", "touch")
LINK = tarfile.SYMTYPE


def run(api, command, host=None, image="busybox:test", **fields):
    """Returns the output and exit code of a whole container run."""
    container = api.create(command, image=image, host=host, **fields)
    try:
        api.start(container)
        code = api.wait(container)
        return api.logs(container).decode(errors="replace"), code
    finally:
        api.remove(container)


def shell(api, script, host=None, **fields):
    return run(api, ["sh", "-c", script], host, **fields)


def make_image(engine, name, entries, config=None, layers=1):
    """Loads an image of busybox plus hostile entries: (path, type, content or link target)."""
    with tempfile.TemporaryDirectory() as work:
        path = work + "/layer.tar"
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for folder in ("bin", "etc", "tmp"):
                info = tarfile.TarInfo(folder)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            tar.add(BUSYBOX, "bin/busybox")
            for applet in APPLETS:
                info = tarfile.TarInfo("bin/" + applet)
                info.type, info.linkname, info.mode = tarfile.LNKTYPE, "bin/busybox", 0o755
                tar.addfile(info)
            for entry, kind, content in entries:
                info = tarfile.TarInfo(entry)
                info.type, info.mode = kind, 0o755
                if kind == tarfile.REGTYPE:
                    data = content if isinstance(content, bytes) else content.encode()
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                else:
                    info.linkname = content or ""
                    tar.addfile(info)
        layer = archive.Layer(path, "hostile")
        settings = {"Cmd": ["sh"], "Env": ["PATH=/bin"], **(config or {})}
        archive.write_docker_archive(work + "/image.tar", name, [layer] * layers, settings)
        return engine.client("load", "-i", work + "/image.tar")
