"""OpenTelemetry's trace of a command: where its time goes, as far as the handler that answers it.

Nothing of OpenTelemetry is loaded unless the environment's settings name a `tracing.endpoint`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from cli.environment import Environment

TRACER = "cli.tracing"
# A collector that does not answer must not hold a command up for longer.
EXPORT_SECONDS = 2


def trace_command(environment: Environment) -> None:
    """Trace the running command from now to its end, if its environment has traces."""
    context = click.get_current_context(silent=True)
    if context is None or environment.settings.tracing.endpoint is None:
        return
    root = context.find_root()
    if TRACER not in root.meta:
        span = _command_span(context.command_path, environment)
        root.meta[TRACER] = root.with_resource(span)


def step(name: str) -> AbstractContextManager[Any]:
    """A span for a part of the running command."""
    tracer = _tracer()
    return tracer.start_as_current_span(name) if tracer else nullcontext()


def trace_headers() -> dict[str, str]:
    """Headers by which a server's spans become part of the trace (W3C Trace Context)."""
    headers: dict[str, str] = {}
    if _tracer():
        from opentelemetry.propagate import inject

        inject(headers)
    return headers


def _tracer() -> Tracer | None:
    context = click.get_current_context(silent=True)
    return context.find_root().meta.get(TRACER) if context else None


class _OneRemark(logging.Handler):
    """Says once what OpenTelemetry says at each attempt."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._remark: str | None = (
            f"The trace does not reach {endpoint}: start a collector there, or take "
            "tracing.endpoint out of the environment's settings."
        )

    def emit(self, record: logging.LogRecord) -> None:
        remark, self._remark = self._remark, None
        if remark:
            click.echo(remark, err=True)


@contextmanager
def _command_span(command: str, environment: Environment) -> Iterator[Tracer]:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Status, StatusCode

    endpoint = environment.settings.tracing.endpoint
    logger = logging.getLogger("opentelemetry")
    logger.handlers, logger.propagate = [_OneRemark(endpoint)], False
    provider = TracerProvider(resource=Resource.create({"service.name": "hybrid"}))
    exporter = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("hybrid")
    try:
        with tracer.start_as_current_span(
            command, attributes={"environment": environment.name}, set_status_on_exception=False
        ) as span:
            try:
                yield tracer
            except click.exceptions.Exit:
                raise  # a result, such as that something has drifted
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR, str(error)))
                raise
    finally:
        provider.shutdown()
