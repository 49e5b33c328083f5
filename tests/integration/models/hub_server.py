"""A small Hugging Face hub on the loopback: the routes of downloads and uploads, and its faults."""

import base64
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 500
"""Files of this many bytes are kept as large ones, with a SHA-256."""


@dataclass
class Repo:
    """A repository."""

    files: dict[str, bytes]
    token: str | None = None
    """Who does not send it is told that there is no such repository."""
    gated: bool = False
    type: str = "model"
    private: bool = False
    commits: list[str] = field(default_factory=list)
    """The messages of what was sent."""


@dataclass
class Asked:
    """A request."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """The hub: its repositories, what was asked of it, and what goes wrong."""

    repos: dict[str, Repo]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    """Bytes after which each of the next answers with a large file's content breaks off."""
    status: int = 200
    """If it is not 200, what every request is answered with."""
    wrong: set[str] = field(default_factory=set)
    """Files that are sent with other content than is said."""
    pause_s: float = 0.0
    """How long it waits after every 64 KiB, and before every answer if it `hangs`."""
    hangs: bool = False
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Large files that were sent, by SHA-256; a commit names them."""
    lost: int = 0
    """How many of the next large files are refused when they are sent."""

    def gets(self, ending: str) -> list[Asked]:
        """The requests for the content of a file."""
        return [one for one in self.asked if one.method == "GET" and one.path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        self._receive()

    def do_PUT(self) -> None:
        self._receive()

    def _receive(self) -> None:
        """The routes of an upload."""
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self._body()
        token = self.headers.get("authorization")
        hub.asked.append(Asked(self.command, path, None, token))
        upload = re.fullmatch(r"/api/(model|dataset)s/(.+)/(preupload|commit)/main", path)
        if hub.status != 200:
            self._refuse(hub.status, "")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            self._send_json({"transfer": "basic", "objects": self._missing(json.loads(body))})
        elif path.startswith("/lfs/"):
            self._keep(path.removeprefix("/lfs/"), body)
        elif upload and upload[3] == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._send_json({"files": modes})
        elif upload:
            self._commit(hub.repos[upload[2]], body)
            page = f"{hub.url}/{'datasets/' if upload[1] == 'dataset' else ''}{upload[2]}"
            self._send_json({"commitUrl": f"{page}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._refuse(404, "EntryNotFound")

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _create(self, wanted: dict[str, Any]) -> None:
        owner = wanted.get("organization")
        name = f"{owner}/{wanted['name']}" if owner else wanted["name"]
        kind = wanted.get("type") or "model"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if name in self.hub.repos:
            self._send_json({"error": "You already created this repo", "url": url}, 409)
            return
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.hub.repos[name] = Repo({}, type=kind, private=private)
        self._send_json({"url": url})

    def _missing(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """What to do about each large file: nothing, or send it."""
        objects = []
        for entry in wanted["objects"]:
            known = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.hub.url}/lfs/{entry['oid']}"}
                known["actions"] = {"upload": upload}
            objects.append(known)
        return objects

    def _keep(self, digest: str, content: bytes) -> None:
        if self.hub.lost:
            self.hub.lost -= 1
            self._refuse(400, "")
        elif sha256(content).hexdigest() != digest:
            self._refuse(422, "")
        else:
            self.hub.blobs[digest] = content
            self._send_json({})

    def _commit(self, repo: Repo, body: bytes) -> None:
        for entry in map(json.loads, body.splitlines()):
            value = entry["value"]
            if entry["key"] == "header":
                repo.commits.append(value["summary"])
            elif entry["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert entry["key"] == "lfsFile"
                repo.files[value["path"]] = self.hub.blobs[value["oid"]]

    def _send_json(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        token = self.headers.get("authorization")
        hub.asked.append(Asked(self.command, path, self.headers.get("range"), token))
        if hub.hangs:
            time.sleep(hub.pause_s)
        match = re.fullmatch(r"/api/models/(.+?)(?:/revision/.+)?", path)
        file = re.fullmatch(r"/(.+?)/resolve/[^/]+/(.+)", path)
        name = match[1] if match else file[1] if file else ""
        repo = hub.repos.get(name)
        if hub.status != 200:
            self._refuse(hub.status, "")
        elif repo is None or (repo.token and token != f"Bearer {repo.token}"):
            self._refuse(401 if token is None else 404, "RepoNotFound")
        elif match:
            self._send_info(name, repo)
        elif file and repo.gated:
            self._refuse(403, "GatedRepo")
        elif file and file[2] in repo.files:
            self._send_file(file[2], repo.files[file[2]])
        else:
            self._refuse(404, "EntryNotFound")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_info(self, name: str, repo: Repo) -> None:
        siblings = []
        for file, content in repo.files.items():
            entry = {"rfilename": file, "size": len(content), "blobId": _etag(content)}
            if len(content) >= LARGE:
                entry["lfs"] = {"size": len(content), "sha256": _etag(content), "pointerSize": 130}
            siblings.append(entry)
        body = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _send_file(self, name: str, content: bytes) -> None:
        begin = 0
        if given := self.headers.get("range"):
            begin = int(given.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if begin:
            whole = len(content)
            self.send_header("Content-Range", f"bytes {begin}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.hub.wrong:
            content = bytes(255 - byte for byte in content)
        rest = content[begin:]
        if len(content) >= LARGE and self.hub.breaks:
            self.wfile.write(rest[: self.hub.breaks.pop(0)])
            self.close_connection = True
            return
        for at in range(0, len(rest), 1 << 16):
            self.wfile.write(rest[at : at + (1 << 16)])
            time.sleep(self.hub.pause_s)


def _etag(content: bytes) -> str:
    """What the hub calls a content by: SHA-256 for large files, git's own for small ones."""
    if len(content) >= LARGE:
        return sha256(content).hexdigest()
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving_hub(repos: dict[str, Repo]) -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub(repos)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
