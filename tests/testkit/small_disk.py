"""An engine whose data root is a disk of its own, small enough to be filled.

It is an ext4 on a loop device, mounted in the engine's own mount namespace alone. Where loop devices cannot be had it
is a tmpfs of the same size, and the report says so.
"""

import errno
import os
import subprocess
import warnings

from testkit.api import Api
from testkit.engine import Naru


class SmallDisk:
    """An engine on its small disk, and the means to fill it."""

    def __init__(self, folder, size=64 << 20, **options):
        self.engine = Naru(**options)
        self.size = size
        self.image = str(folder / "disk.img")
        self.mount()
        # The disk is seen only in the engine's namespaces; this is the way in.
        self.root = f"/proc/{self.engine.scope.process.pid}/root{self.engine.data_root}"
        self.api = Api(self.engine.socket, timeout=60)

    def mount(self):
        with open(self.image, "wb") as file:
            file.truncate(self.size)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", self.image], check=True)
        scope = self.engine.scope
        if scope.run("mount", "-o", "loop", self.image, self.engine.data_root).returncode:
            warnings.warn("no loop devices here: the small disk is a tmpfs")
            assert scope.run("mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", self.engine.data_root).returncode == 0
        self.engine.mounts_before = scope.mounts()

    def fill(self, leave=0):
        """Takes all space but `leave` bytes, to the last block."""
        with open(self.root + "/ballast", "ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                while self.free() > leave:
                    try:
                        file.write(bytes(size))
                    except OSError as error:
                        assert error.errno == errno.ENOSPC
                        break
            os.fsync(file.fileno())

    def empty(self):
        if os.path.exists(self.root + "/ballast"):
            os.remove(self.root + "/ballast")

    def free(self):
        facts = os.statvfs(self.root)
        return facts.f_bavail * facts.f_bsize

    def used(self):
        os.sync()
        facts = os.statvfs(self.root)
        return (facts.f_blocks - facts.f_bfree) * facts.f_bsize

    def tree(self):
        """Every path on the disk."""
        found = set()
        for folder, folders, files in os.walk(self.root):
            found |= {os.path.join(folder, name)[len(self.root):] for name in folders + files}
        return found - {"/ballast"}

    def listed(self):
        return self.api.call("GET", "/containers/json?all=1")

    def image_ids(self):
        return sorted((one["Id"], tuple(one["RepoTags"] or ())) for one in self.api.call("GET", "/images/json"))

    def restart(self):
        self.engine.kill9()
        self.api.close()
        return self.engine.start()

    def close(self):
        try:
            self.empty()
            self.api.close()
            self.engine.remove_all_containers()
            self.engine.stop()
            assert self.engine.settled_leftovers() == []
        finally:
            self.engine.scope.run("umount", self.engine.data_root)
            self.engine.close()
        loops = subprocess.run(["losetup", "-j", self.image], capture_output=True, text=True).stdout
        assert loops == "", "the loop device is still attached"
