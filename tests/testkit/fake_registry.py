"""A registry that misbehaves as it is told: `fake_registry.py FOLDER ADDRESS [TOKEN_REALM]`.

FOLDER holds blobs by digest, `manifests/NAME/REFERENCE` (media type, newline, bytes) and `rules.json`. What is asked
goes to `requests`, a JSON object a line. With a token realm every request needs a token, which this same server
gives at /token for user `user` with password `secret`, or to anybody for repositories that begin with `public`.
Uploads work in pieces and can be resumed.
"""

import base64
import hashlib
import http.server
import json
import os
import re
import socketserver
import sys
import threading
import time
import urllib.parse

FOLDER, ADDRESS = sys.argv[1:3]
REALM = sys.argv[3] if len(sys.argv) > 3 else None
LOCK = threading.Lock()
USED = {}
UPLOADS = {}


def find_rule(method, path):
    """The first rule that fits and is not used up."""
    with LOCK:
        with open(FOLDER + "/rules.json") as file:
            state = json.load(file)
        for number, rule in enumerate(state["rules"]):
            key = (state["serial"], number)
            if rule["match"] not in path or rule.get("method", method) != method:
                continue
            if rule.get("times", -1) >= 0 and USED.get(key, 0) >= rule["times"]:
                continue
            USED[key] = USED.get(key, 0) + 1
            return rule
    return {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    entry = None

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        self.entry = None
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            if self.entry:
                with LOCK, open(FOLDER + "/requests", "a") as file:
                    file.write(json.dumps(self.entry) + "\n")

    def do(self):
        self.entry = {
            "method": self.command, "path": self.path, "range": self.headers.get("Range"), "sent": 0,
            "authorization": self.headers.get("Authorization")}
        self.rule = find_rule(self.command, self.path)
        url = urllib.parse.urlsplit(self.path.removeprefix("/hub"))
        if self.rule.get("do") == "hang":
            time.sleep(self.rule.get("seconds", 60))
            self.close_connection = True
            return
        if self.rule.get("do") == "hang up":
            self.close_connection = True
            return
        if self.rule.get("do") == "status":
            self.answer(self.rule["status"], self.rule.get("body", b"").encode() if isinstance(self.rule.get("body"), str) else b"",
                        self.rule.get("headers", {}))
            return
        if self.rule.get("do") == "redirect":
            self.answer(307, b"", {"Location": self.rule["to"] + self.path})
            return
        if url.path == "/token":
            return self.token(urllib.parse.parse_qs(url.query))
        if REALM and not self.is_authorized(url.path):
            name = re.match(r"/v2/(.*?)/(?:manifests|blobs)/", url.path)
            scope = f',scope="repository:{name[1]}:pull"' if name else ""
            return self.answer(401, error("UNAUTHORIZED", "authentication required"),
                               {"WWW-Authenticate": f'Bearer realm="{REALM}",service="fake"{scope}'})
        if url.path in ("/v2/", "/v2"):
            return self.answer(200, b"{}")
        if url.path == "/v1/search":
            term = urllib.parse.parse_qs(url.query)["q"][0]
            results = [{"name": f"found/{term}", "description": "a result", "star_count": 3, "is_official": False}]
            return self.answer(200, json.dumps({"results": results}).encode())
        if found := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", url.path):
            return self.put_manifest(*found.groups()) if self.command == "PUT" else self.get_manifest(*found.groups())
        if found := re.fullmatch(r"/v2/(.+)/blobs/(sha256:[0-9a-f]+)", url.path):
            return self.get_blob(found[2])
        if found := re.fullmatch(r"/v2/(.+)/blobs/uploads/([^/]*)", url.path):
            return self.upload(found[1], found[2], urllib.parse.parse_qs(url.query))
        if found := re.fullmatch(r"/v2/(.+)/tags/list", url.path):
            return self.list_tags(found[1])
        self.answer(404, error("NAME_UNKNOWN", "no such page"))

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do

    def is_authorized(self, path):
        given = self.headers.get("Authorization", "")
        return given == "Bearer good" or (given == "Bearer anonymous" and path.startswith("/v2/public"))

    def token(self, query):
        given = self.headers.get("Authorization", "")
        if given == "Basic " + base64.b64encode(b"user:secret").decode():
            return self.answer(200, json.dumps({"token": "good"}).encode())
        if given:
            return self.answer(401, error("UNAUTHORIZED", "incorrect username or password"))
        self.answer(200, json.dumps({"access_token": "anonymous"}).encode())

    def get_manifest(self, name, reference):
        try:
            with open(f"{FOLDER}/manifests/{name}/{reference}", "rb") as file:
                media_type, _, data = file.read().partition(b"\n")
        except FileNotFoundError:
            return self.answer(404, error("MANIFEST_UNKNOWN", "manifest unknown"))
        media_type = self.rule.get("media_type", media_type.decode())
        self.answer(200, data, {"Content-Type": media_type})

    def put_manifest(self, name, reference):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        os.makedirs(f"{FOLDER}/manifests/{name}", exist_ok=True)
        for known in (reference, digest):
            with open(f"{FOLDER}/manifests/{name}/{known}", "wb") as file:
                file.write(self.headers["Content-Type"].encode() + b"\n" + data)
        self.answer(201, b"", {"Docker-Content-Digest": digest})

    def list_tags(self, name):
        tags = [tag for tag in os.listdir(f"{FOLDER}/manifests/{name}") if ":" not in tag]
        self.answer(200, json.dumps({"name": name, "tags": sorted(tags)}).encode())

    def get_blob(self, digest):
        try:
            with open(f"{FOLDER}/{digest}", "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return self.answer(404, error("BLOB_UNKNOWN", "blob unknown"))
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and not self.rule.get("no_ranges"):
            start = int(wanted[1])
            if start >= len(data):
                return self.answer(416, b"")
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            return self.answer(206, data[start:], headers)
        self.answer(200, data)

    def upload(self, name, key, query):
        location = lambda key: f"/v2/{name}/blobs/uploads/{key}?state=x"
        if self.command == "POST":
            if "mount" in query and os.path.exists(f"{FOLDER}/{query['mount'][0]}"):
                return self.answer(201, b"", {"Docker-Content-Digest": query["mount"][0]})
            key = f"upload{len(UPLOADS)}"
            UPLOADS[key] = bytearray()
            return self.answer(202, b"", {"Location": location(key), "Range": "0-0"})
        if key not in UPLOADS:
            return self.answer(404, error("BLOB_UPLOAD_UNKNOWN", "blob upload unknown"))
        data = UPLOADS[key]
        state = {"Location": location(key), "Range": f"0-{max(len(data) - 1, 0)}"}
        if self.command == "GET":
            return self.answer(204, b"", state)
        left = int(self.headers.get("Content-Length", 0))
        if self.command == "PATCH":
            start = int(self.headers["Content-Range"].split("-")[0])
            if start != len(data):
                return self.answer(416, b"", state)
        stop = self.rule.get("cut_after")
        while left:
            piece = self.rfile.read(min(left, 64 << 10))
            if not piece:
                return
            left -= len(piece)
            data += piece
            self.entry["received"] = self.entry.get("received", 0) + len(piece)
            if stop is not None and self.entry["received"] >= stop:
                self.close_connection = True
                self.connection.close()
                return
        if self.command == "PATCH":
            return self.answer(202, b"", {"Location": location(key), "Range": f"0-{len(data) - 1}"})
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if digest != query["digest"][0]:
            return self.answer(400, error("DIGEST_INVALID", "provided digest did not match uploaded content"))
        with open(f"{FOLDER}/{digest}", "wb") as file:
            file.write(data)
        self.answer(201, b"", {"Docker-Content-Digest": digest})

    def answer(self, status, data, headers=None):
        rule = self.rule
        if "flip" in rule:
            data = bytearray(data)
            data[rule["flip"] % len(data)] ^= 1 + rule.get("bits", 0) % 255
        data = bytes(data)[:rule["shorten"]] if "shorten" in rule else bytes(data) + b"x" * rule.get("lengthen", 0)
        self.entry["status"] = status
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if rule.get("no_length"):
            self.send_header("Connection", "close")
            self.close_connection = True
        elif status not in (204, 304):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD" or status in (204, 304):
            return
        limit, rate = rule.get("cut_after", len(data)), rule.get("bytes_per_second")
        for start in range(0, min(limit, len(data)), 64 << 10):
            piece = data[start:min(start + (64 << 10), limit)]
            self.wfile.write(piece)
            self.entry["sent"] += len(piece)
            if rate:
                time.sleep(len(piece) / rate)
        if rule.get("then") == "hang":
            time.sleep(60)
        if limit < len(data):
            self.close_connection = True


def error(code, message):
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    allow_reuse_address = True


host, port = ADDRESS.rsplit(":", 1)
Server((host, int(port)), Handler).serve_forever()
