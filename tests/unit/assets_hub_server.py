"""A model hub of a few files on the loopback interface, which can also lie, cut files short and break down."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.unit.assets_helpers import REVISION


class Hub:
    """Repositories by `models/owner/name` or `datasets/owner/name`: files by name; `sent` replaces what is sent."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, dict[str, bytes]] = {}
        self.sent: dict[str, bytes] = {}
        self.cut: set[str] = set()  # half is sent, then the connection breaks
        self.short: set[str] = set()  # half is sent as if it were all
        self.status = 200
        self.asked: list[str] = []


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
            path = self.path.split("?")[0].strip("/")
            hub.asked.append(path)
            if hub.status != 200:
                self.answer(hub.status, b"down")
            elif path.startswith("api/"):
                self.repository(path.removeprefix("api/"))
            else:
                self.file(path)

        def repository(self, path):
            name, _, revision = path.partition("/revision/")
            files = hub.branches.get(f"{name}@{revision}", hub.repositories.get(name))
            if files is None:
                self.answer(404, b"{}", X_Error_Code="RepoNotFound")
                return
            siblings = []
            for file, data in files.items():
                fact = {"rfilename": file, "size": len(data), "blobId": "0"}
                if file.endswith((".parquet", ".safetensors")):
                    fact["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
                siblings.append(fact)
            sha = REVISION if revision in ("main", REVISION) else REVISION[::-1]
            value = {"id": name.split("/", 1)[1], "sha": sha, "siblings": siblings}
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

        def file(self, path):
            name, _, rest = path.partition("/resolve/")
            file = rest.partition("/")[2]
            name = name if name.startswith("datasets/") else f"models/{name}"
            data = hub.repositories.get(name, {}).get(file)
            if data is None:
                self.answer(404, b"", X_Error_Code="EntryNotFound")
                return
            body = hub.sent.get(file, data)
            etag = hashlib.sha256(data).hexdigest()
            headers = {"ETag": f'"{etag}"', "X_Repo_Commit": REVISION, "Content_Length": str(len(body))}
            if file in (hub.cut | hub.short) and self.command == "GET":
                self.close_connection = True
                body = body[: len(body) // 2]
                if file in hub.short:
                    headers["Content_Length"] = str(len(body))
            self.answer(200, body, **headers)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
