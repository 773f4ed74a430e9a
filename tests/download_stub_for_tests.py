"""A file server on 127.0.0.1 that also answers as a hub does: ranges, ETags, redirects, and faults on demand."""

import contextlib
import gzip
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Seen:
    """One request that came."""

    path: str
    range: str
    if_range: str
    token: str
    status: int = 0


@dataclass
class Stub:
    """What it serves. A fault is taken from its path's list at each request: a status, or `cut:N`, `gzip`, `whole`."""

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    retry_after: str = "0"
    lfs: bool = True
    wrong_sha256: bool = False
    gated: bool = False
    # No answer has more bytes; whoever reads then waits for the rest until this is None.
    most_bytes: int | None = None
    seen: list[Seen] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, path: str) -> list[str]:
        """The ranges that were asked for of a path, in order."""
        return [seen.range for seen in self.seen if seen.path == path]

    def dataset(self) -> dict[str, Any]:
        """The hub's answer about `owner/chats`, which has all files of `/cdn/`."""
        siblings = []
        for path, data in self.files.items():
            sibling: dict[str, Any] = {"rfilename": path.removeprefix("/cdn/"), "size": len(data)}
            sibling["blobId"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            if self.lfs:
                sha256 = hashlib.sha256(data + (b"x" if self.wrong_sha256 else b"")).hexdigest()
                sibling["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 1}
            siblings.append(sibling)
        return {"id": "owner/chats", "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        header = self.headers.get
        seen = Seen(path, header("Range", ""), header("If-Range", ""), header("Authorization", ""))
        self.stub.seen.append(seen)
        self.seen = seen
        prefix, resolve = "/api/datasets/owner/chats", "/datasets/owner/chats/resolve/"
        if path in (prefix, f"{prefix}/revision/main", f"{prefix}/revision/{COMMIT}"):
            fault = self._fault(prefix)
            if fault:
                self._answer(int(fault), b"{}", **{"Retry-After": self.stub.retry_after})
            else:
                self._answer(200, json.dumps(self.stub.dataset()).encode())
        elif path.startswith(prefix):
            self._answer(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/datasets/"):
            self._answer(401, b"{}", **{"X-Error-Code": "RepoNotFound"})
        elif path.startswith(resolve) and self.stub.gated:
            self._answer(403, b"{}", **{"X-Error-Code": "GatedRepo"})
        elif path.startswith(resolve):
            _, _, name = path.removeprefix(resolve).partition("/")
            self._answer(302, b"", Location=f"/cdn/{name}")
        elif path in self.stub.files:
            self._file(path, self._fault(path))
        else:
            self._answer(404, b"no such file")

    def _fault(self, path: str) -> str:
        faults = self.stub.faults.get(path, [])
        return faults.pop(0) if faults else ""

    def _file(self, path: str, fault: str) -> None:
        data = self.stub.files[path]
        etag = self.stub.etags.get(path, f'"{hashlib.md5(data).hexdigest()}"')
        headers = {"ETag": etag} if etag else {}
        if fault.isdigit():
            self._answer(int(fault), b"later", **{"Retry-After": self.stub.retry_after})
            return
        if fault == "gzip":
            self._answer(200, gzip.compress(data), **headers, **{"Content-Encoding": "gzip"})
            return
        start = 0
        wanted = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if wanted and fault != "whole" and self.headers.get("If-Range", etag) == etag:
            start = int(wanted)
            if start >= len(data):
                self._answer(416, b"", **{"Content-Range": f"bytes */{len(data)}"})
                return
            shown = start - 1 if fault == "other-range" else start
            headers["Content-Range"] = f"bytes {shown}-{len(data) - 1}/{len(data)}"
        cut = int(fault.removeprefix("cut:")) if fault.startswith("cut:") else None
        self._answer(206 if start else 200, data[start:], cut=cut, **headers)

    def _answer(self, status: int, body: bytes, *, cut: int | None = None, **headers: str) -> None:
        self.seen.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body if cut is None else body[:cut]
        with contextlib.suppress(OSError):  # the client may have been killed
            for at in range(0, len(sent), 1 << 14):
                while self.stub.most_bytes is not None and at >= self.stub.most_bytes:
                    time.sleep(0.01)
                self.wfile.write(sent[at : at + (1 << 14)])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def download_stub() -> Iterator[Stub]:
    """Serve until the block ends."""
    stub = Stub()
    handler = type("Handler", (_Handler,), {"stub": stub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        stub.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()
