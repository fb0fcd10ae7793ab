"""Spans of requests, and the ids by which a log line is found."""

from __future__ import annotations

import time

import pytest

from handlers.afterwards import Batch
from handlers.tracing import Origin, open_tracer
from tests.collector import Collector

TRACE, SPAN = "ab" * 16, "cd" * 8


def test_the_ids_of_a_request_are_in_its_headers_in_any_case() -> None:
    headers = {"X-Request-Id": "r", "Traceparent": f"00-{TRACE}-{SPAN}-01"}
    origin = Origin.of(headers)
    assert (origin.request_id, origin.trace_id) == ("r", TRACE)
    assert Origin.of({}) == Origin()


@pytest.mark.parametrize("header", ["", "x", f"00-{TRACE}", f"00-{TRACE.upper()}-{SPAN}-01"])
def test_what_is_no_trace_gives_no_id(header: str) -> None:
    assert Origin("r", header).trace_id == ""


def test_without_a_collector_there_are_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert open_tracer("recommend", "sha256:a") is None


def test_a_request_is_a_span_of_its_clients_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    with Collector() as collector:
        for name, value in {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
            "OTEL_BSP_SCHEDULE_DELAY": "10",
            "OTEL_SERVICE_NAME": "shop",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0",
        }.items():
            monkeypatch.setenv(name, value)
        tracer = open_tracer("recommend", "sha256:a")
        origins = [
            Origin("one", f"00-{TRACE}-{SPAN}-01"),
            # Neither of these asks to be traced, and of the rest none is.
            Origin("two", f"00-{TRACE}-{SPAN}-00"),
            Origin("three"),
            Origin("four", f"00-{'ef' * 16}-{SPAN}-01"),
        ]
        answers = [{}, {}, {}, KeyError("x")]
        tracer.trace(Batch(origins, answers, {}, time.time_ns(), 0.25, {"model": 125.0}))
        good, bad = sorted(collector.spans(2), key=lambda span: span["failed"])
    assert (good["trace"], good["parent"]) == (TRACE, SPAN)
    assert (good["name"], good["service"]) == ("predict recommend", "shop")
    assert (good["hybrid.model"], good["hybrid.batch"]) == ("sha256:a", 4)
    assert good["http.request.header.x-request-id"] == "one"
    assert good["hybrid.model_ms"] == 125 and good["seconds"] == pytest.approx(0.25, abs=1e-6)
    assert (bad["trace"], bad["hybrid.outcome"]) == ("ef" * 16, "failed")
