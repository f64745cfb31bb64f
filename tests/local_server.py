"""A web server on this machine that misbehaves on request, and an opener that leads published addresses to it.

Production speaks https only and has no switch for anything else: `mlip.transfer.https_opener` knows no other scheme.
Tests hand `find_or_fetch` an opener of their own, which answers every https address from the local server.
"""

from __future__ import annotations

import io
import threading
import time
import urllib.request
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOST = "models.test"


def archive(seed: int, size: int = 300_000) -> bytes:
    """A zip archive of about `size` bytes, the same at every time of day; all a download asks of a model file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as zipped:
        entry = zipfile.ZipInfo("model/data.pkl", date_time=(2026, 1, 1, 0, 0, 0))
        zipped.writestr(entry, bytes((seed * 31 + k) % 251 for k in range(size)))
    return data.getvalue()


@dataclass
class Behavior:
    """What the server does; `requests` holds (path, Range, If-Range) of what it was asked."""

    content: bytes = field(default_factory=lambda: archive(1))
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True
    ignore_if_range: bool = False
    content_type: str = "application/octet-stream"
    #: Bytes after which each answer breaks off, the last one for all further; None sends all.
    cuts: list[int | None] = field(default_factory=lambda: [None])
    status: int = 200
    announced: int | str | None = None
    chunked: bool = False
    pause: float = 0.0
    redirect: str | None = None
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behavior: Behavior

    def do_GET(self) -> None:
        b = self.behavior
        wanted, if_range = self.headers["Range"], self.headers["If-Range"]
        b.requests.append((self.path, wanted, if_range))
        if b.redirect not in (None, self.path):
            self.send_response(302)
            self.send_header("Location", b.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        cut = b.cuts.pop(0) if len(b.cuts) > 1 else b.cuts[0]
        current = b.ignore_if_range or if_range in (None, b.etag, b.last_modified)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and b.ranges and current else 0
        body = b.content[start:]
        if start >= len(b.content):
            self.send_error(416)
            return
        self.send_response(206 if start else b.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(b.content) - 1}/{len(b.content)}")
        self._headers(len(body))
        self._body(body if cut is None else body[:cut], cut is not None)

    def _headers(self, length: int) -> None:
        b = self.behavior
        self.send_header("Content-Type", b.content_type)
        if b.etag:
            self.send_header("ETag", b.etag)
        if b.last_modified:
            self.send_header("Last-Modified", b.last_modified)
        if b.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length if b.announced is None else b.announced))
        self.end_headers()

    def _body(self, body: bytes, cut: bool) -> None:
        b = self.behavior
        for begin in range(0, len(body), 50_000):
            block = body[begin : begin + 50_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if b.chunked else block)
            time.sleep(b.pause)
        if b.chunked and not cut:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Clients that break off are what is tested."""


class Server:
    """The server in a thread; `with Server() as server` gives it a `behavior` and an `opener`."""

    def __enter__(self) -> Server:
        self.behavior = Behavior()
        handler = type("Handler", (_Handler,), {"behavior": self.behavior})
        self._server = _QuietServer(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.opener: Any = LocalOpener(self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class LocalOpener:
    """Opens https://models.test/... at the local server; other addresses not at all."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"

    def open(self, request: urllib.request.Request, timeout: float) -> Any:
        """As `urllib.request.OpenerDirector.open`."""
        assert request.full_url.startswith(f"https://{HOST}/"), f"a test reached for {request.full_url}"
        local = urllib.request.Request(
            self.base + request.full_url.removeprefix(f"https://{HOST}"), headers=dict(request.header_items())
        )
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(local, timeout=timeout)
