"""A collector of OpenTelemetry's traces, as far as tests need one."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed


class Collector(ThreadingHTTPServer):
    """Keeps the spans that it is sent over HTTP, while used as a context manager."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []

    def __enter__(self) -> Collector:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self, number: int = 0) -> list[dict[str, Any]]:
        """What came so far, once that is so many."""
        found = retry(
            retry=retry_if_result(lambda spans: len(spans) < number),
            stop=stop_after_delay(30), wait=wait_fixed(0.05),
        )  # fmt: skip
        return found(self._spans)()

    def _spans(self) -> list[dict[str, Any]]:
        return [
            {
                "name": span.name,
                "trace": span.trace_id.hex(),
                "id": span.span_id.hex(),
                "parent": span.parent_span_id.hex(),
                "failed": span.status.code == span.status.STATUS_CODE_ERROR,
                "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                "service": _values(resource.resource.attributes)["service.name"],
            }
            | _values(span.attributes)
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}
