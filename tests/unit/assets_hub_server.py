"""A model hub of a few files on the loopback interface, which can also lie, move on, cut files short, stall and break down."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from tests.unit.assets_helpers import REVISION

CONVERTED = REVISION[::-1]


class Hub:
    """Repositories by `models/owner/name` or `datasets/owner/name`: files by name; `sent` replaces what is sent."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, dict[str, bytes]] = {}
        self.heads: dict[str, str] = {}  # commit of a repository's main, where it is not REVISION
        self.history: dict[tuple[str, str], dict[str, bytes]] = {}  # files of older commits
        self.sent: dict[str, bytes] = {}
        self.says: str | None = None  # the commit it names, whatever was asked for
        self.cut: set[str] = set()  # half is sent, then the connection breaks
        self.short: set[str] = set()  # half is sent as if it were all
        self.breaks: dict[str, list[int]] = {}  # after how many bytes the next connections break
        self.stalls: dict[str, list[float]] = {}  # the next connections send half, then nothing for so many seconds
        self.silent: set[str] = set()  # of those that stall: not even half is sent
        self.drips: dict[str, float] = {}  # sent in ten pieces with so many seconds between them
        self.redirects = False  # whether large files lie on another host, as on the hub itself
        self.ranges = True  # whether it answers a Range
        self.status = 200
        self.asked: list[str] = []
        self.started: list[tuple[str, int]] = []  # file and first byte of every download

    def commit(self, name: str, revision: str) -> str:
        return {"main": self.heads.get(name, REVISION), "refs/convert/parquet": CONVERTED}.get(revision, revision)

    def files(self, name: str, revision: str) -> dict[str, bytes] | None:
        commit = self.commit(name, revision)
        if (name, commit) in self.history:
            return self.history[name, commit]
        if f"{name}@{revision}" in self.branches:
            return self.branches[f"{name}@{revision}"]
        return self.repositories.get(name) if commit in (self.heads.get(name, REVISION), CONVERTED) else None


def blob_id(data: bytes) -> str:
    """The id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serve(hub: Hub):
    """Run the hub; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def answer(self, status, body=b"", **headers):
            self.send_response(status)
            headers.setdefault("Content_Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = unquote(self.path.split("?")[0].strip("/"))
            hub.asked.append(path)
            if hub.status != 200:
                self.answer(hub.status, b"down")
            elif path.startswith("api/"):
                self.repository(path.removeprefix("api/"))
            else:
                self.file(path.removeprefix("cdn/"), path.startswith("cdn/"))

        def repository(self, path):
            name, _, revision = path.partition("/revision/")
            known = name in hub.repositories or any(key[0] == name for key in hub.history)
            files = hub.files(name, revision)
            if files is None:
                self.answer(404, b"{}", X_Error_Code="RevisionNotFound" if known else "RepoNotFound")
                return
            siblings = []
            for file, data in files.items():
                fact = {"rfilename": file, "size": len(data), "blobId": blob_id(data)}
                if file.endswith((".parquet", ".safetensors")):
                    fact["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
                siblings.append(fact)
            sha = hub.says or hub.commit(name, revision)
            value = {"id": name.split("/", 1)[1], "sha": sha, "siblings": siblings}
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

        def file(self, path, elsewhere=False):
            name, _, rest = path.partition("/resolve/")
            revision, _, file = rest.partition("/")
            name = name if name.startswith("datasets/") else f"models/{name}"
            data = (hub.files(name, revision) or {}).get(file)
            if data is None:
                self.answer(404, b"", X_Error_Code="EntryNotFound")
                return
            body = hub.sent.get(file, data)
            etag = hashlib.sha256(data).hexdigest()
            commit = hub.says or hub.commit(name, revision)
            headers = {"ETag": f'"{etag}"', "X_Repo_Commit": commit, "Content_Length": str(len(body))}
            if hub.redirects and file.endswith((".parquet", ".safetensors")) and not elsewhere:
                there = f"http://localhost:{self.server.server_address[1]}/cdn/{path}"
                linked = {"X_Linked_Size": str(len(body)), "X_Linked_ETag": f'"{etag}"', "X_Repo_Commit": commit}
                self.answer(302, b"", Location=there, **linked)
                return
            if self.command == "HEAD":
                self.answer(200, b"", **headers)
                return
            first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            first = first if hub.ranges else 0
            hub.started.append((file, first))
            if first >= len(body) > 0:
                self.answer(416)
                return
            if first:
                headers |= {
                    "Content_Range": f"bytes {first}-{len(body) - 1}/{len(body)}",
                    "Content_Length": str(len(body) - first),
                }
            self.send(206 if first else 200, body[first:], file, headers)

        def send(self, status, body, file, headers):
            if file in (hub.cut | hub.short):
                self.close_connection = True
                body = body[: len(body) // 2]
                if file in hub.short:
                    headers["Content_Length"] = str(len(body))
            if hub.breaks.get(file):
                self.close_connection = True
                body = body[: hub.breaks[file].pop(0)]
            if hub.stalls.get(file):
                seconds = hub.stalls[file].pop(0)
                self.answer(status, b"" if file in hub.silent else body[: len(body) // 2], **headers)
                self.wfile.flush()
                time.sleep(seconds)
                self.close_connection = True
            elif file in hub.drips:
                self.answer(status, b"", **headers)
                step = len(body) // 10 + 1
                for start in range(0, len(body), step):
                    self.wfile.write(body[start : start + step])
                    self.wfile.flush()
                    time.sleep(hub.drips[file])
            else:
                self.answer(status, body, **headers)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, address: None  # a client that gave up is no news
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
