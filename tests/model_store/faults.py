"""A server between a client and a store, which spoils what it is told to spoil."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# Given method, path and the answer's body: the bytes to send instead, or None to send nothing at
# all until the server ends, or a list of bytes that come one after the other, some in a second.
Fault = Callable[[str, str, bytes], bytes | list[bytes] | None]


class Between(ThreadingHTTPServer):
    """Passes every request on to `upstream`, and its answer back through `fault`."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.fault: Fault = lambda method, path, body: body
        self.ended = threading.Event()


@contextmanager
def between(upstream: str) -> Iterator[Between]:
    """Such a server, while the block runs."""
    server = Between(upstream)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Between
    protocol_version = "HTTP/1.1"

    def pass_on(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection(self.server.upstream)
        upstream.request(self.command, self.path, sent, dict(self.headers))
        answer = upstream.getresponse()
        body = answer.read()
        upstream.close()
        spoilt = self.server.fault(self.command, self.path, body)
        if spoilt is None:
            self.server.ended.wait()
            return
        self.send_response(answer.status)
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else len(body)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if isinstance(spoilt, list):
            self.trickle(spoilt)
            return
        self.wfile.write(spoilt)
        self.close_connection = len(spoilt) != len(body)  # cut off: what follows never comes

    def trickle(self, pieces: list[bytes]) -> None:
        self.close_connection = True
        for piece in pieces:
            if self.server.ended.wait(0.05):
                return
            self.wfile.write(piece)
            self.wfile.flush()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = pass_on

    def log_message(self, *arguments: object) -> None:
        pass
