"""A seccomp agent: decides the system calls that a profile leaves to it (`SCMP_ACT_NOTIFY`), by refusing each."""

import array
import fcntl
import json
import os
import socket
import struct
import threading

RECEIVE, ANSWER = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV and _SEND of linux/seccomp.h


class Agent:
    """Listens at `path`. `states` are those it was told of, `calls` the numbers of the calls it refused with `errno`."""

    def __init__(self, path, errno):
        self.states, self.calls, self.errno, self.listeners = [], [], errno, []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        os.chmod(path, 0o600)
        self.socket.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            fds = array.array("i")
            message, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4))
            if not ancillary:
                continue  # The start failed before there was a filter.
            fds.frombytes(ancillary[0][2][:4])
            self.states.append(json.loads(message))
            self.listeners.append(fds[0])
            connection.close()
            threading.Thread(target=self.answer, args=(fds[0],), daemon=True).start()

    def answer(self, listener):
        while True:
            notification = bytearray(80)
            try:
                fcntl.ioctl(listener, RECEIVE, notification)
            except OSError:
                return
            identity, pid, _, number = struct.unpack_from("QIIi", notification)
            self.calls.append(number)
            try:
                fcntl.ioctl(listener, ANSWER, struct.pack("QqiI", identity, 0, -self.errno, 0))
            except OSError:
                pass

    def profile(self, names=("mkdir", "mkdirat"), **more):
        """A profile that leaves the named calls to this agent."""
        rule = {"names": list(names), "action": "SCMP_ACT_NOTIFY"}
        return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": self.socket.getsockname(), "syscalls": [rule], **more})

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
