"""A file system whose one file nobody ever gets to read: whoever tries is in uninterruptible sleep until this ends.

Run as a program with a folder to mount on; it speaks the kernel's FUSE protocol (linux/fuse.h) on /dev/fuse itself, and
prints `mounted`, then `reading` for each read that it leaves without an answer. When it ends, the kernel aborts them.
"""

import ctypes
import os
import struct
import sys

LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT, OPENDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 1, 2, 3, 14, 15, 17, 18, 25, 26, 27, 29, 36, 42
UNANSWERED = {FORGET, READ, INTERRUPT, BATCH_FORGET}
ENOSYS = 38
DIRECT_IO = 1
ROOT, FILE = 1, 2
FOREVER = 1 << 30


def attributes(node):
    mode, links = (0o40755, 2) if node == ROOT else (0o100644, 1)
    return struct.pack("<6Q3I7I", node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)


def answer(operation, node):
    if operation == INIT:
        return struct.pack("<4I2H2I2HI7I", 7, 31, 1 << 16, 0, 12, 9, 1 << 16, 1, 16, 0, 0, *[0] * 7)
    if operation == GETATTR:
        return struct.pack("<QII", FOREVER, 0, 0) + attributes(node)
    if operation == LOOKUP:
        return struct.pack("<4Q2I", FILE, 0, FOREVER, FOREVER, 0, 0) + attributes(FILE)
    if operation in (OPEN, OPENDIR):
        return struct.pack("<QII", 0, DIRECT_IO, 0)
    if operation == STATFS:
        return struct.pack("<5Q4I6I", 1, 0, 0, 1, 0, 4096, 255, 4096, 0, *[0] * 6)
    return b"" if operation in (FLUSH, RELEASE, RELEASEDIR) else None


def main(folder):
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"stuck", folder.encode(), b"fuse.stuck", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    print("mounted", flush=True)
    while True:
        data = os.read(device, 1 << 18)
        _, operation, unique, node = struct.unpack_from("<IIQQ", data)
        if operation == READ:
            print("reading", flush=True)
        if operation in UNANSWERED:
            continue
        said = answer(operation, node)
        error = -ENOSYS if said is None else 0
        said = said or b""
        os.write(device, struct.pack("<IiQ", 16 + len(said), error, unique) + said)


if __name__ == "__main__":
    main(sys.argv[1])
