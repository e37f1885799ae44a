"""A minimal Docker API client over a unix socket, with keep-alive: cheap enough to measure with.

Speaks HTTP/1.1 with lengths and chunks, decodes JSON, and nothing else. One connection is one thread's.
"""

import json
import socket


class ApiError(Exception):
    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    def __init__(self, path, timeout=120):
        self.path = path
        self.timeout = timeout
        self.connection = None
        self.buffer = b""

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None
        self.buffer = b""

    def request(self, method, path, body=None):
        """Returns the status and the body's bytes. A connection the server has closed is opened again once."""
        data = b"" if body is None else json.dumps(body).encode()
        kind = b"" if body is None else b"Content-Type: application/json\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Length: {len(data)}\r\n".encode()
        message = head + kind + b"\r\n" + data
        is_new = self.connection is None
        try:
            return self.exchange(message)
        except (ConnectionError, EOFError):
            self.close()
            if is_new:
                raise
            return self.exchange(message)
        except BaseException:
            self.close()
            raise

    def exchange(self, message):
        if self.connection is None:
            self.connection = socket.socket(socket.AF_UNIX)
            self.connection.settimeout(self.timeout)
            self.connection.connect(self.path)
        self.connection.sendall(message)
        head = self.read_until(b"\r\n\r\n").decode("latin-1").lower()
        status = int(head[9:12])
        if status in (204, 304):
            return status, b""
        if "transfer-encoding: chunked" in head:
            return status, self.read_chunks()
        if "content-length:" in head:
            return status, self.read_bytes(int(head.split("content-length:")[1].split("\r\n")[0]))
        data = self.read_to_end()
        return status, data

    def read_chunks(self):
        whole = b""
        while size := int(self.read_until(b"\r\n").strip(), 16):
            whole += self.read_bytes(size)
            self.read_until(b"\r\n")
        self.read_until(b"\r\n")
        return whole

    def read_until(self, mark):
        while mark not in self.buffer:
            self.receive()
        found, _, self.buffer = self.buffer.partition(mark)
        return found + mark

    def read_bytes(self, size):
        while len(self.buffer) < size:
            self.receive()
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def read_to_end(self):
        try:
            while True:
                self.receive()
        except EOFError:
            data = self.buffer
            self.close()
            return data

    def receive(self):
        data = self.connection.recv(65536)
        if not data:
            raise EOFError("the engine closed the connection")
        self.buffer += data

    def call(self, method, path, body=None):
        """Returns the decoded body, or raises ApiError for a status of 400 or more."""
        status, data = self.request(method, "/v1.41" + path, body)
        if status >= 400:
            try:
                message = json.loads(data)["message"]
            except (ValueError, KeyError):
                message = data.decode(errors="replace")
            raise ApiError(status, message)
        return json.loads(data) if data[:1] in (b"{", b"[") else data

    def create(self, command, image="busybox:test", name=None, host=None, **fields):
        body = {"Image": image, "Cmd": command, "HostConfig": host or {}, **fields}
        return self.call("POST", "/containers/create" + (f"?name={name}" if name else ""), body)["Id"]

    def start(self, container):
        self.call("POST", f"/containers/{container}/start")

    def wait(self, container):
        return self.call("POST", f"/containers/{container}/wait")["StatusCode"]

    def remove(self, container):
        self.call("DELETE", f"/containers/{container}?force=1&v=1")

    def inspect(self, container):
        return self.call("GET", f"/containers/{container}/json")

    def exec(self, container, command):
        """Runs a command in the container and returns its output and exit code."""
        made = self.call("POST", f"/containers/{container}/exec", {"Cmd": command, "AttachStdout": True, "AttachStderr": True})["Id"]
        data = self.call("POST", f"/exec/{made}/start", {"Detach": False, "Tty": False})
        return unframe(data), self.call("GET", f"/exec/{made}/json")["ExitCode"]

    def logs(self, container):
        return unframe(self.call("GET", f"/containers/{container}/logs?stdout=1&stderr=1"))


def unframe(data):
    """Takes Docker's eight-byte frame headers out of a stream."""
    whole, at = b"", 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4:at + 8], "big")
        whole += data[at + 8:at + 8 + size]
        at += 8 + size
    return whole
