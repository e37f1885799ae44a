"""Requests made from the description of the API: mostly right, wrong in one place or a few. All follows from a seed."""

import base64
import io
import json
import random
import tarfile
from urllib.parse import quote

# What is there for requests to name.
RUNNING, ENDED, NETWORK, VOLUME, IMAGE = "fuzz-running", "fuzz-ended", "fuzz-network", "fuzz-volume", "busybox:test"

WORDS = ["", "a", "fuzz", "true", "0", "-1", "nosuch", "none", "host", "default", "always", "UPPER", "a b", "ü€𝄞", "x" * 300, "/tmp", "80/tcp", "10.0.0.0/8", "fd00::/64", "1.2.3.4", "64m"]
NUMBERS = [0, 1, 2, -1, 10, 1000, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**31), -(2**63), -(2**63) - 1, 0.5, 1e308, 10**400]
HOSTILE = [None, True, False, "", [], {}, [[]], {"": None}, [None], "\0", "a\0b", "\n", "../../../../etc/passwd", "/../..", "..", "%2e%2e%2f", "-", "--privileged", "nosuch-word", "x" * 70_000, "\ud800", "‮",
           *NUMBERS, [1, "a", None], {"a": {"b": {"c": []}}}, ["x"] * 2000]
PATHS = ["%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%2f..", "%00", "a%00b", "%ff%fe", "%0d%0aX-A:%201", "%25%32%65", "%e2%80%ae", "a" * 5000, "%", "%zz", "*", "~", "..;", "sha256:" + "0" * 64, "sha256:", "a@sha256:x", "0"]
COMMANDS = [["sleep", "1000"], ["true"], ["cat"], ["sh", "-c", "echo out; echo err >&2"], ["nosuch"], [""], []]
VERSIONS = ["", "/v1.24", "/v1.30", "/v1.41", "/v1.41", "/v1.41", "/v1.43", "/v1.44", "/v1.47", "/v1.51"]
WRONG_VERSIONS = ["/v1.23", "/v1.99", "/v0.0", "/v1.41.1", "/v99999999999999999999.1", "/v1.-1", "/vx.y", "/v1", "//", "/v1.41/v1.41"]
# A parent of cgroups outside the engine's own would outlive it: only what is refused is tried.
NEVER = {"CgroupParent": ["", "../x", "/a/../../b", "a//b"]}
# They decide by name what a text should be like.
KNOWN = {
    "Image": [IMAGE], "Cmd": COMMANDS, "Entrypoint": [None, [], ["sh", "-c"]], "NetworkMode": ["none", "none", "bridge", "host", NETWORK, f"container:{RUNNING}", "nosuch"], "Container": [RUNNING, ENDED, "nosuch"],
    "container": [RUNNING, ENDED, "nosuch"], "Name": ["fuzz-made", VOLUME, NETWORK, "no", "nofile", "always"], "Type": ["bind", "volume", "tmpfs", "image", "json-file", "npipe"], "Source": ["/tmp", VOLUME, IMAGE, "/nosuch"],
    "Target": ["/m", "/tmp/x", "m", "/"], "Binds": [[f"{VOLUME}:/m"], ["/tmp:/m:ro"], ["/nosuch/at/all:/m"]], "path": ["/", "/etc/passwd", "/nosuch", "..", "etc"], "signal": ["KILL", "TERM", "0", "9", "64", "65", "SIGNOSUCH"],
    "fromImage": ["127.0.0.1:9/nosuch", "busybox"], "fromSrc": ["-", "http://127.0.0.1:9/x.tar"], "remote": ["", "http://127.0.0.1:9/x.tar"], "repo": ["fuzz-made", "a/b/c", "UP"], "tag": ["one", "", "a:b"], "names": [IMAGE, "nosuch"],
    "Dns": [["1.1.1.1"], ["x"]], "Subnet": ["10.201.0.0/16", "10.0.0.0/33", "x"], "Driver": ["bridge", "local", "null", "nosuch"], "IpcMode": ["private", "host", "none", "shareable", f"container:{RUNNING}"],
    "PidMode": ["", "host", f"container:{RUNNING}"], "User": ["", "0", "1000:1000", "nosuch", "4294967296"], "WorkingDir": ["", "/tmp", "relative"], "since": ["0", "1", "1.5", "2020-01-01T00:00:00Z"], "until": ["1", "2"], "t": ["0", "0", "1"],
    "CapAdd": [["NET_ADMIN"], ["ALL"], ["nosuch"]], "SecurityOpt": [["no-new-privileges"], ["seccomp=unconfined"], ["seccomp={}"], ["nosuch=1"]], "serveraddress": ["127.0.0.1:9"], "dockerfile": ["Dockerfile", "../x"],
    "Sysctls": [{"net.ipv4.ip_forward": "1"}, {"kernel.panic": "1"}, {"net/../../x": "1"}], "Memory": [0, 64 << 20, 4], "term": ["busybox"],
}
FILTERS = ["label", "name", "id", "status", "type", "driver", "dangling", "reference", "until", "before", "since", "ancestor", "event", "container", "image", "network", "volume", "publish", "expose", "exited", "health", "is-task", "nosuch", "label!"]


class Request:
    """As it goes over HTTP/1.1, byte by byte; over HTTP/2 what of it that can say."""

    def __init__(self, operation, target, headers, body):
        self.operation = operation
        self.target = target
        self.headers = headers
        self.body = body

    def bytes(self):
        lines = [f"{self.operation.method} ".encode() + self.target + b" HTTP/1.1", *self.headers]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body

    def __repr__(self):
        return f"{self.operation}: {self.bytes()[:2000]!r}"


class Maker:
    """Makes request after request; number `n` of a seed is always the same one."""

    def __init__(self, description, seed):
        self.description = description
        self.seed = seed

    def request(self, number):
        self.random = random.Random(f"{self.seed}-{number}")
        operation = self.description.operations[number % len(self.description.operations)]
        body, is_json = self.body(operation)
        target = self.target(operation)
        headers = self.headers(operation, len(body), is_json)
        if headers is None:
            headers, body = self.chunked(body, is_json)
        return Request(operation, target, headers, body)

    def is_one_in(self, count):
        return self.random.randrange(count) == 0

    def target(self, operation):
        path = operation.path
        while "{" in path:
            before, _, rest = path.partition("{")
            path = before + self.name(path) + rest.partition("}")[2]
        version = self.random.choice(WRONG_VERSIONS if self.is_one_in(25) else VERSIONS)
        queries = []
        for name, schema in operation.queries.items():
            if not self.is_one_in(3):
                queries.append((name, self.query_value(name, schema)))
        if self.is_one_in(12):
            queries.append((self.random.choice(["nosuch", "all", "force", "filters", "", "\0"]), self.query_value("", {"type": "string"})))
        if queries and self.is_one_in(10):
            queries.append(self.random.choice(queries))
        text = "&".join(f"{quote(name)}={value}" for name, value in queries)
        target = (version + path + ("?" + text if text else "")).encode("utf-8", "surrogatepass")
        if self.is_one_in(60):
            at = self.random.randrange(len(target) + 1)
            target = target[:at] + self.random.choice([b"%", b"%ff", b"\xff", b"#", b"?", b"/", b"//", b"\\", b"&", b"%00"]) + target[at:]
        return target

    def name(self, path):
        if self.is_one_in(6):
            return self.random.choice(PATHS)
        if "/exec/" in path:
            return self.random.choice(["0" * 64, "nosuch"])
        kinds = {"/containers/": [RUNNING, RUNNING, ENDED, "fuzz-made"], "/images/": [IMAGE, "fuzz-made", "nosuch"], "/networks/": [NETWORK, "bridge", "fuzz-made"], "/volumes/": [VOLUME, "fuzz-made"], "/distribution/": [IMAGE]}
        return self.random.choice(next((names for kind, names in kinds.items() if kind in path), ["nosuch"]))

    def query_value(self, name, schema):
        if name == "filters" or name in ("buildargs", "labels", "cachefrom"):
            value = json.dumps({self.random.choice(FILTERS): self.random.choice([["a"], {"a": True}, "a", [], None, 5, ["a=b", "x"], [RUNNING], ["true"]]) for _ in range(self.random.randrange(3))})
            if self.is_one_in(5):
                value = value[:self.random.randrange(len(value) + 1)]
        elif self.is_one_in(5):
            value = str(self.random.choice(HOSTILE))[:3000]
        else:
            value = self.value(schema, name)
            value = str(int(value) if isinstance(value, bool) else value)[:3000]
        # A stop that waits for ever is what its client asks for.
        if name == "t" and not value.isdigit():
            value = self.random.choice(["x", "99999999999999999999", "-99999999999999999999"])
        elif name == "t":
            value = str(min(int(value), 1))
        return quote(value.encode("utf-8", "surrogatepass"))

    def body(self, operation):
        if operation.body is None:
            return (b"{}" if self.is_one_in(10) else b""), True
        schema = self.description.resolve(operation.body)
        if schema.get("format") == "binary" or schema.get("type") == "string":
            return self.archive(), False
        tree = self.value(schema)
        for _ in range(self.random.choice([0, 1, 1, 1, 2, 5])):
            tree = self.spoiled(tree)
        text = json.dumps(self.tame(tree))
        if self.is_one_in(8):
            return self.spoiled_bytes(text.encode()), True
        return text.encode(), True

    def value(self, schema, name="", depth=0):
        """A value as the schema wants it, sometimes by chance one that makes no sense."""
        schema = self.description.resolve(schema)
        if name in KNOWN and not self.is_one_in(4):
            return self.random.choice(KNOWN[name])
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if kind == "object":
            made = {key: self.value(inner, key, depth + 1) for key, inner in schema.get("properties", {}).items() if depth == 0 and key in ("Image", "Cmd") or self.is_one_in(4)}
            extra = schema.get("additionalProperties")
            if isinstance(extra, dict):
                made.update({self.random.choice([*WORDS, "/m"]): self.value(extra, "", depth + 1) for _ in range(self.random.randrange(3))})
            return made
        if kind == "array":
            return [self.value(schema.get("items", {"type": "string"}), "", depth + 1) for _ in range(self.random.randrange(3))]
        if kind == "boolean":
            return self.random.random() < 0.5
        if kind in ("integer", "number"):
            return self.random.choice(NUMBERS) if self.is_one_in(3) else self.random.randrange(100)
        return schema["example"] if isinstance(schema.get("example"), str) and self.is_one_in(3) else self.random.choice(WORDS)

    def spoiled(self, tree):
        """Puts something hostile in one place of the tree."""
        if not isinstance(tree, (dict, list)) or not tree or self.is_one_in(5):
            return self.random.choice(HOSTILE)
        tree = tree.copy()
        key = self.random.choice(list(tree)) if isinstance(tree, dict) else self.random.randrange(len(tree))
        tree[key] = self.spoiled(tree[key])
        return tree

    def tame(self, tree):
        """Without what would change the host outside the engine's own folders."""
        if isinstance(tree, list):
            return [self.tame(inner) for inner in tree]
        if not isinstance(tree, dict):
            return tree
        return {key: self.random.choice(NEVER[key]) if key in NEVER and isinstance(value, str) else self.tame(value) for key, value in tree.items()}

    def spoiled_bytes(self, data):
        at = self.random.randrange(len(data) + 1)
        deep = b"[" * 100_000
        return self.random.choice([
            lambda: data[:at], lambda: data + data, lambda: data + b"\0", lambda: data + b"]", lambda: b"\xef\xbb\xbf" + data, lambda: b"", lambda: deep, lambda: b'{"a":' * 50_000, lambda: deep + b"]" * 100_000,
            lambda: data.replace(b'"', b'"\xff\xfe', 1), lambda: data.replace(b"}", b',"Image":"busybox:test","Image":5}', 1), lambda: b"null", lambda: b'{"Image":NaN}', lambda: data.replace(b":", b";", 1)])()

    def archive(self):
        """A tar archive with a few entries, whole or not."""
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w") as tar:
            for _ in range(self.random.randrange(4)):
                entry = tarfile.TarInfo(self.random.choice(["Dockerfile", "a", "../a", "/a", "a/b/c", "manifest.json", "x" * 200, "."]))
                entry.type = self.random.choice([tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
                entry.linkname = self.random.choice(["", "a", "/etc/passwd", "../../x"])
                data = self.random.choice([b"", b"FROM busybox:test\nRUN true\n", b"FROM nosuch", b"[]", b'[{"Config":"a","RepoTags":["x"],"Layers":["../a"]}]', b"x" * 5000])
                entry.size = len(data) if entry.isreg() else 0
                tar.addfile(entry, io.BytesIO(data))
        data = held.getvalue()
        if self.is_one_in(3):
            at = self.random.randrange(len(data) + 1)
            data = self.random.choice([data[:at], data[:at] + b"\xff" * 20 + data[at + 20:], b"", b"\x1f\x8b" + data, b"BZh9" + data, b"\x28\xb5\x2f\xfd" + data, b"x" * 600])
        return data

    def headers(self, operation, length, is_json):
        """Returns lines, or None where the body goes in chunks."""
        if length and self.is_one_in(12):
            return None
        lines = [b"Host: engine"]
        if length or self.is_one_in(3):
            lines.append(b"Content-Length: %d" % length)
            lines.append(b"Content-Type: " + (b"application/json" if is_json else b"application/x-tar"))
        for name in operation.headers:
            lines.append(name.encode() + b": " + self.credentials())
        if operation.path.endswith(("/attach", "/start", "/attach/ws", "session")) and self.is_one_in(3):
            lines += [b"Connection: Upgrade", b"Upgrade: " + self.random.choice([b"tcp", b"websocket", b"h2c", b""])]
            if self.is_one_in(2):
                lines += [b"Sec-WebSocket-Version: " + self.random.choice([b"13", b"0", b"x"]), b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        if self.is_one_in(10):
            lines.insert(self.random.randrange(len(lines) + 1), self.random.choice([
                b"Host: other", b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 18446744073709551616", b"Content-Length: x", b"Content-Type: text/plain", b"Content-Type: \xff",
                b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Expect: 100-continue", b"Connection: close", b"X-A: " + b"a" * 70_000, b"X-A: a\0b", b"X A: b", b": b", b"X-A", b"Range: bytes=5-2",
                b"Content-Encoding: gzip", b"X-Registry-Auth: " + self.credentials(), b"Accept: \xff\xfe", b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", *[b"X-A: b\r\n" * 300 + b"X-A: c"]]))
        return lines

    def credentials(self):
        return self.random.choice([
            b"", b"x", b"\xff", b"=" * 50, base64.urlsafe_b64encode(b"{}"), base64.urlsafe_b64encode(b'{"username":5}'), base64.urlsafe_b64encode(b'{"username":"a","password":"b","serveraddress":"127.0.0.1:9"}'),
            base64.urlsafe_b64encode(b'{"a":' * 3000), base64.urlsafe_b64encode(b"\xff\xfe\xfd")])

    def chunked(self, body, is_json):
        lines = [b"Host: engine", b"Transfer-Encoding: chunked", b"Content-Type: " + (b"application/json" if is_json else b"application/x-tar")]
        cut = self.random.randrange(len(body) + 1)
        parts = [part for part in (body[:cut], body[cut:]) if part]
        chunks = b"".join(b"%x\r\n" % len(part) + part + b"\r\n" for part in parts)
        end = self.random.choice([b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nX-A: b\r\n\r\n", b"", b"-1\r\n", b"ffffffffffffffffff\r\n", b"0;a=b\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 2000 + b"\r\n"])
        return lines, chunks + end
