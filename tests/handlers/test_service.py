"""The handler as TorchServe calls it, with TorchServe's own context."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from ts.context import Context, RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.protocol.otf_message_handler import create_predict_response
from ts.service import Service as TorchServeService

from cli.torchserve import METRICS
from handlers.afterwards import Batch
from handlers.meter import Meter
from handlers.openapi import openapi_document
from handlers.recommender import Recommender
from handlers.service import Service, set_up_logs
from handlers.stopwatch import Stopwatch
from handlers.tracing import Origin
from tests.handlers.bearers import PUBLIC, bearer

DIGEST = "sha256:" + "a" * 64


def call(
    handler: Service, context: Context, *bodies: bytes, headers: list[dict] | None = None
) -> list[tuple[int, dict]]:
    context.request_processor = [RequestProcessor(h) for h in headers or [{}] * len(bodies)]
    answers = handler.handle([{"body": bytearray(body)} for body in bodies], context)
    ids = {place: str(place) for place in range(len(bodies))}
    assert create_predict_response(answers, ids, "", 200, context)
    return [
        (context.get_response_status(place)[0] or 200, json.loads(answer))
        for place, answer in enumerate(answers)
    ]


@pytest.fixture
def context(artifact: Path, tmp_path: Path) -> Context:
    (tmp_path / "artifact").symlink_to(artifact)
    manifest = {"model": {"modelVersion": "a" * 64}}
    return Context("recommend", str(tmp_path), manifest, 4, None, "0.12")


@pytest.fixture
def handler(context: Context) -> Service:
    handler = Service()
    handler.initialize(context)
    return handler


def test_it_names_items_scores_and_the_model(handler: Service, context: Context) -> None:
    ((status, answer),) = call(handler, context, b'{"history": ["item-1"], "k": 2}')
    assert status == 200
    assert answer["model"] == DIGEST
    assert [sorted(row) for row in answer["items"]] == [["item", "score"]] * 2
    assert context.get_response_content_type(0) == "application/json"
    timing = context.get_response_headers(0)["Server-Timing"]
    parts = re.fullmatch(r"parse;dur=([\d.]+), model;dur=([\d.]+)", timing)
    assert parts and all(0 < float(spent) < 1000 for spent in parts.groups())
    # Several histories at once, as filters, go through the index.
    call(handler, context, *[b'{"history": ["item-1"]}'] * 2)
    assert ", search;dur=" in context.get_response_headers(0)["Server-Timing"]


def test_a_request_leaves_no_line_of_torchserves_own_and_ours_are_written(
    context: Context, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    metrics = MetricsCacheYamlImpl(str(METRICS))
    metrics.initialize_cache()
    handler = Service()
    worker = TorchServeService(
        "recommend", context.system_properties["model_dir"], context.manifest, handler.handle,
        None, 1, metrics_cache=metrics,
    )  # fmt: skip
    worker.set_cl_socket(None)
    handler.initialize(worker.context)
    caplog.clear()
    logging.info("Backend received inference at: %d", 0)
    parameters = [{"name": "body", "value": b'{"history": ["item-1"]}', "contentType": ""}]
    assert DIGEST.encode() in worker.predict([{"requestId": b"1", "parameters": parameters}])
    assert not [line for line in caplog.messages if "hybrid_" not in line]
    meter = Meter("recommend", DIGEST)
    meter.count(Batch([Origin()], [{}], {}, 0, 0.1, {}))
    meter.write()
    assert "hybrid_requests_total" in caplog.text


def test_it_describes_itself_on_request(handler: Service, context: Context) -> None:
    context.request_processor = [RequestProcessor({"accept": "application/openapi+json"})]
    (document,) = handler.handle([{"body": bytearray(b"")}], context)
    assert json.loads(document) == openapi_document()


def test_it_has_answered_requests_before_the_first_one(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    answer = Recommender.answer

    def noting(self: Recommender, requests: list, watch: Stopwatch) -> list:
        sizes.append(len(requests))
        return answer(self, requests, watch)

    monkeypatch.setattr(Recommender, "answer", noting)
    Service().initialize(context)
    assert len(sizes) > 1 and set(sizes) == {1}


def test_a_bad_request_leaves_the_others_of_its_batch_alone(
    handler: Service, context: Context
) -> None:
    good = b'{"history": ["item-1"], "k": 2}'
    first, bad, last = call(handler, context, good, b"nonsense", good)
    assert first == last
    assert first[0] == 200
    assert bad == (400, {"error": "The body is not JSON in UTF-8."})


def test_a_batch_of_bad_requests_is_fine(handler: Service, context: Context) -> None:
    assert [status for status, _ in call(handler, context, b"", b"7")] == [400, 400]


def test_a_failing_model_answers_500_and_its_log_has_the_ids_of_its_requests(
    handler: Service,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def fail(requests: list, watch: Stopwatch) -> None:
        raise FloatingPointError("the model's scores are not finite")

    monkeypatch.setattr(handler.worker.model, "answer", fail)
    set_up_logs()
    trace = "ab" * 16
    sent = {"X-Request-Id": "r2", "traceparent": f"00-{trace}-{'cd' * 8}-01"}
    bad, worse = call(handler, context, b"", b'{"history": []}', headers=[{}, sent])
    assert bad[0] == 400
    assert worse == (500, {"error": "The model failed on this request; its log tells why."})
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["level"], line["logger"]) == ("ERROR", "handlers.replies")
    assert (line["request_ids"], line["trace_ids"]) == (["r2"], [trace])
    assert "not finite" in line["exc_info"] and line["time"]


def test_where_no_event_can_be_stored_the_answer_says_that_the_model_is_not_the_cause(
    handler: Service, context: Context
) -> None:
    ((status, _),) = call(handler, context, b'{"user": "u", "events": [{"item": "item-1"}]}')
    assert (status, context.get_response_headers(0)["X-Hybrid-Cause"]) == (503, "sessions")
    ((status, _),) = call(handler, context, b"{")
    assert status == 400 and "X-Hybrid-Cause" not in context.get_response_headers(0)


def test_a_request_whose_token_is_refused_leaves_the_others_of_its_batch_alone(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_SESSIONS", "unix:///nowhere")
    monkeypatch.setenv("HYBRID_SESSIONS_EXPIRY", "60")
    monkeypatch.setenv("HYBRID_SESSIONS_MOST", "5")
    monkeypatch.delenv("HYBRID_EVENTS", raising=False)
    monkeypatch.setenv("HYBRID_EVENTS_KEYS", PUBLIC)
    handler = Service()
    handler.initialize(context)
    event = b'{"user": "anna", "events": [{"item": "item-1"}]}'
    asking = b'{"user": "anna", "history": ["item-1"]}'
    good, post, unasked, asked, other = call(
        handler, context, b'{"history": ["item-1"]}', event, asking, asking, asking,
        headers=[{}, {}, {}, {"Authorization": bearer()}, {"Authorization": bearer(sub="bert")}],
    )  # fmt: skip
    assert [each[0] for each in (good, post, unasked, asked, other)] == [200, 401, 401, 200, 403]
    assert "items" not in unasked[1] and "another user" in other[1]["error"]
    assert "warning" in asked[1]  # there is no store, and who may ask is told so
    for place in (1, 2):
        assert context.get_response_headers(place)["WWW-Authenticate"] == "Bearer"


def test_one_class_only_for_torchserve_to_find() -> None:
    from ts.utils.util import list_classes_from_module

    import handlers.service

    assert list_classes_from_module(handlers.service) == [Service]
