"""Where requests come from: ids that a log line is found by, and OpenTelemetry's spans."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handlers.afterwards import Batch

# Version, trace, span and flags, as the W3C's Trace Context writes them.
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Origin:
    """What a request's headers tell; empty where they do not.

    Attributes
    ----------
    request_id
        The proxy's; it sends a request again with the same where a worker died.
    traceparent
        Of the client's span.
    accepts
        Types of content that the client accepts.
    authorization
        The client's credential.
    """

    request_id: str = ""
    traceparent: str = ""
    accepts: str = ""
    # So that no log can have it.
    authorization: str = field(default="", repr=False)

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Origin:
        """From headers of any case."""
        lower = {name.lower(): value for name, value in headers.items()}
        return cls(
            *(lower.get(name, "") for name in ("x-request-id", "traceparent", "accept",
                                               "authorization"))
        )

    @property
    def trace_id(self) -> str:
        """The 32 digits of the trace; empty where there is none."""
        found = TRACEPARENT.fullmatch(self.traceparent)
        return found[1] if found else ""


class Tracer:
    """Makes a span of each request of one model, and sends it to a collector.

    Its address, and the share of the requests without a trace that get one, are in the variables
    that OpenTelemetry's SDK reads (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER_ARG``).

    Parameters
    ----------
    kind, digest
        Of the model.
    """

    def __init__(self, kind: str, digest: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._provider = TracerProvider()
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("hybrid")
        self._name = f"predict {kind}"
        self._model = digest

    def trace(self, batch: Batch) -> None:
        """Tell of a batch that is answered: its requests began and ended together."""
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, Status, StatusCode

        stages = {f"hybrid.{name}_ms": spent for name, spent in batch.milliseconds.items()}
        for origin, outcome in zip(batch.origins, batch.outcomes, strict=True):
            span = self._tracer.start_span(
                self._name,
                extract({"traceparent": origin.traceparent}),
                SpanKind.SERVER,
                {
                    "hybrid.model": self._model,
                    "hybrid.outcome": outcome,
                    "hybrid.batch": len(batch.origins),
                    "http.request.header.x-request-id": origin.request_id,
                    **stages,
                },
                start_time=batch.ended - int(batch.seconds * 1e9),
            )
            if outcome == "failed":
                span.set_status(Status(StatusCode.ERROR))
            span.end(batch.ended)


def open_tracer(kind: str, digest: str) -> Tracer | None:
    """A tracer where a collector is named, else None."""
    return Tracer(kind, digest) if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") else None
