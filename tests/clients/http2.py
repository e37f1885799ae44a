"""A small client of HTTP/2 with prior knowledge over a unix socket, on PyPI's `h2`; it can break the protocol too."""

import contextlib
import select
import socket
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

# What belongs to one connection of HTTP/1.1 and cannot be said over HTTP/2.
CONNECTIONS_OWN = {b"host", b"connection", b"upgrade", b"transfer-encoding", b"expect", b"http2-settings", b"content-length"}


class Http2:
    def __init__(self, path, timeout=60):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        # It checks nothing of what it is told to send: that is the engine's to do.
        config = h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        self.answers = {}
        self.bodies = {}
        self.ended = set()
        self.is_over = False
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def flush(self):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(self.connection.data_to_send())

    def send(self, method, target, headers=(), body=b""):
        """Begins one request; returns the number of its stream."""
        stream = self.connection.get_next_available_stream_id()
        whole = [(b":method", method.encode()), (b":scheme", b"http"), (b":authority", b"engine"), (b":path", target), *headers]
        self.connection.send_headers(stream, whole, end_stream=not body)
        while body and stream not in self.ended and not self.is_over:
            room = min(self.connection.local_flow_control_window(stream), self.connection.max_outbound_frame_size, len(body))
            if room:
                self.connection.send_data(stream, body[:room], end_stream=room == len(body))
                body = body[room:]
                self.flush()
            else:
                self.receive(5)
        self.flush()
        return stream

    def receive(self, seconds):
        """Takes what has come, waiting so long for it."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self.is_over = True
            return
        try:
            events = self.connection.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.is_over = True
            return
        for event in events:
            self.note(event)
        self.flush()

    def note(self, event):
        if isinstance(event, h2.events.ResponseReceived):
            self.answers[event.stream_id] = int(dict(event.headers)[b":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] = (self.bodies.get(event.stream_id, b"") + event.data)[:1 << 20]
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.is_over = True

    def until_answered(self, streams, seconds):
        """Waits for a head on each of the streams. Returns those without one."""
        deadline = time.monotonic() + seconds
        while (waiting := [one for one in streams if one not in self.answers and one not in self.ended]) and not self.is_over:
            if time.monotonic() > deadline:
                return waiting
            self.receive(0.1)
        return []

    def until_ended(self, stream, seconds=60):
        deadline = time.monotonic() + seconds
        while stream not in self.ended and not self.is_over:
            assert time.monotonic() < deadline, "the stream does not end"
            self.receive(0.1)
        return self.answers[stream], self.bodies.get(stream, b"")

    def ask(self, method, path, body=b"", headers=()):
        return self.until_ended(self.send(method, path.encode(), headers, body))


def sayable(lines):
    """A request's headers of HTTP/1.1 as pairs of HTTP/2."""
    pairs = []
    for line in b"\r\n".join(lines).split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.strip().lower()
        if name and name not in CONNECTIONS_OWN and b" " not in name:
            pairs.append((name, value.strip()))
    return pairs
