"""Models on a real TorchServe, by HTTP and by gRPC, held against the OpenAPI.

Two of the four kinds, since each takes a worker; `test_kinds` has them all, without the server.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import requests
import schemathesis
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import HealthCheck, given, settings
from tenacity import retry, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from cli.sessions import session_store_program
from cli.torchserve import archives_of, torchserve_command
from handlers.archive import build_archive
from handlers.edge import EdgeServer
from handlers.openapi import openapi_document
from handlers.tower import Policy
from infra.handler_variables import tracing_variables
from tests.collector import Collector
from tests.handlers.session_store import SessionStore

pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java")
DIGEST = "sha256:" + "a" * 64
NAMES = ("recommend", "click")


@dataclass(frozen=True)
class Served:
    """Address of the inference API, the port of gRPC, what the server prints to, metrics."""

    url: str
    grpc_port: int
    log: Path
    metrics: str


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What workers are told of a store of sessions; nothing where there can be none."""
    if session_store_program() is None:
        yield {}
        return
    store = SessionStore(tmp_path_factory.mktemp("sessions"))
    store.start()
    yield store.variables
    store.end()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def served(
    artifacts: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    sessions: dict[str, str],
    collector: Collector,
) -> Iterator[Served]:
    """TorchServe, once all models are ready."""
    folder = tmp_path_factory.mktemp("served")
    inference, management, rpc, metrics = free_ports(4)
    command, environment = torchserve_command(
        folder,
        inference_port=inference,
        management_port=management,
        grpc_port=rpc,
        metrics_port=metrics,
    )
    traces = tracing_variables(collector.address, 0)
    for name in NAMES:
        build_archive(artifacts[name], DIGEST, archives_of(folder) / f"{name}.mar")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | environment | sessions | traces | {"OTEL_BSP_SCHEDULE_DELAY": "50"},
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        retry(
            retry=retry_if_exception_type(httpx.TransportError),
            stop=stop_after_delay(60),
            wait=wait_fixed(0.1),
        )(httpx.get)(f"http://127.0.0.1:{inference}/ping")
        for name in NAMES:
            answer = httpx.post(
                f"http://127.0.0.1:{management}/models",
                params={"url": f"{name}.mar", "initial_workers": 1, "synchronous": True},
                timeout=120,
            )
            assert answer.status_code == 200, (answer.text, (folder / "log").read_text()[-3000:])
        metrics_url = f"http://127.0.0.1:{metrics}/metrics"
        yield Served(f"http://127.0.0.1:{inference}", rpc, folder / "log", metrics_url)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_sent_the_answer_is_as_described(
    served: Served, name: str, sessions: dict[str, str]
) -> None:
    schema = schemathesis.openapi.from_dict(openapi_document())
    operation = schema[f"/predictions/{name}"]["POST"]
    # A model knows its own features and items only, and refuses others with a sentence.
    left_out = [schemathesis.checks.positive_data_acceptance]
    if not sessions:  # events then get a 503
        left_out.append(schemathesis.checks.not_a_server_error)

    # One connection for all examples.
    with requests.Session() as session:

        @settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(
            case=operation.as_strategy()
            | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
        )
        def conforms(case: schemathesis.Case) -> None:
            case.call_and_validate(
                base_url=served.url, session=session, excluded_checks=left_out
            )

        conforms()


@pytest.mark.parametrize("name", NAMES)
def test_a_served_model_gives_the_document_and_tells_its_times(
    served: Served, name: str
) -> None:
    url = f"{served.url}/predictions/{name}"
    described = httpx.get(url, headers={"Accept": "application/openapi+json"})
    assert described.status_code == 200 and described.json() == openapi_document()
    bodies = {
        "recommend": {"item": "item-1", "k": 2},
        "click": {"items": ["i1"], "context": {"mobile": True}},
    }
    answer = httpx.post(url, json=bodies[name])
    assert answer.status_code == 200 and answer.json()["model"] == DIGEST
    assert answer.headers["Server-Timing"].startswith("parse;dur=")


def test_what_a_user_did_changes_the_next_answer(served: Served, sessions: dict[str, str]) -> None:
    if not sessions:
        pytest.skip("there is neither redis-server nor valkey-server")
    url = f"{served.url}/predictions/recommend"
    question = {"user": "u", "history": ["item-1"], "k": 5}
    before = httpx.post(url, json=question).json()
    answer = httpx.post(url, json={"user": "u", "events": [{"item": "item-7"}]})
    assert answer.json() == {"stored": 1, "model": DIGEST}
    after = httpx.post(url, json=question)
    told = httpx.post(url, json={"history": ["item-1", "item-7"], "k": 5}).json()
    assert after.json()["items"] == told["items"] != before["items"]
    assert (before["fresh_events"], after.json()["fresh_events"]) == (0, 1)
    assert "sessions;dur=" in after.headers["Server-Timing"]


def test_a_private_site_gets_its_candidates_from_it(
    served: Served, artifacts: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    histories = {"anna": ("item-1", "item-7", "item-3")}
    policy = Policy("vector", served.url)
    site, alone = (
        EdgeServer(artifacts["recommend"], DIGEST, 1000, each, histories)
        for each in (policy, Policy())
    )
    body = b'{"user": "anna", "k": 5}'
    answers = [json.loads(place.answer(body)[1])["items"] for place in (site, alone)]
    assert [row["item"] for row in answers[0]] == [row["item"] for row in answers[1]]
    assert not caplog.records  # else the site answered by itself
    # A vector of another model.
    site.model.model.runtime.index.digest = "sha256:" + "b" * 64
    assert site.answer(body)[0] == 200 and "409" in caplog.text


def test_an_item_that_nobody_knows_is_told_apart_from_a_model_that_is_not_there(
    served: Served,
) -> None:
    answer = httpx.post(f"{served.url}/predictions/recommend", json={"item": "x"})
    assert answer.status_code == 422
    assert answer.json() == {"error": "The model does not know the item."}
    assert httpx.post(f"{served.url}/predictions/other", json={}).status_code == 404


def test_requests_leave_no_lines_in_the_log(served: Served) -> None:
    url = f"{served.url}/predictions/recommend"
    before = served.log.read_text()
    headers = {"Content-Type": "application/json"}
    for body in 10 * (b'{"history": []}', b"{"):
        httpx.post(url, content=body, headers=headers)
    assert served.log.read_text() == before


def test_what_it_prints_is_json(served: Served) -> None:
    lines = served.log.read_text().splitlines()
    # The JVM, and TorchServe before its log is there, print some of their own.
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(lines) - len(records) < 10 < len(records)
    assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)


def test_a_request_with_a_trace_has_a_span_in_it(served: Served, collector: Collector) -> None:
    trace = "ab" * 16
    headers = {"traceparent": f"00-{trace}-{'cd' * 8}-01", "X-Request-Id": "r1"}
    url = f"{served.url}/predictions/recommend"
    for sent in ({}, headers):
        httpx.post(url, json={"history": ["item-1"]}, headers=sent).raise_for_status()
    (span,) = collector.spans(1)
    assert (span["trace"], span["parent"], span["service"]) == (trace, "cd" * 8, "hybrid-handler")
    assert span["http.request.header.x-request-id"] == "r1"
    assert span["hybrid.outcome"] == "answered" and span["hybrid.model_ms"] > 0


def counted(served: Served) -> dict[str, float]:
    """What Prometheus would read, without the label of the host's name."""
    text = httpx.get(served.metrics).raise_for_status().text
    rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {re.sub(r',?[Hh]ostname="[^"]*",?', "", name): float(value) for name, _, value in rows}


def test_prometheus_reads_what_became_of_requests_and_where_the_time_went(served: Served) -> None:
    def name(outcome: str) -> str:
        return f'hybrid_requests_total{{kind="recommend",outcome="{outcome}"}}'

    def wait_until(met: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        return retry(
            retry=retry_if_result(lambda found: not met(found)),
            stop=stop_after_delay(30),
            wait=wait_fixed(0.1),
        )(counted)(served)

    before = counted(served)
    url = f"{served.url}/predictions/recommend"
    for body in (b'{"history": ["item-1"]}', b'{"history": []}', b"{", b'{"item": "x"}'):
        httpx.post(url, content=body, headers={"Content-Type": "application/json"})

    def more(found: dict[str, float], outcome: str) -> float:
        return found.get(name(outcome), 0) - before.get(name(outcome), 0)

    # The worker tells a line for each: a reader may come in between.
    spent = 'hybrid_stage_seconds_total{kind="recommend",stage="model"}'
    ever = 'hybrid_requests_within_total{kind="recommend",le="+Inf"}'
    found = wait_until(
        lambda found: more(found, "answered") >= 2
        and more(found, "refused") >= 2
        and found.get(ever, 0) - before.get(ever, 0) >= 4
        and found.get(spent, 0) > before.get(spent, 0)
    )
    assert found['hybrid_batches_total{kind="recommend"}'] > 0
    # item-1 is in band 0, in which are all items that users had in training.
    same = f'kind="recommend",model="{"a" * 12}",what="history",bin="0"'
    assert found[f"hybrid_expected_share{{{same}}}"] == 1
    wait_until(lambda found: found.get(f"hybrid_observed_total{{{same}}}", 0) > 0)
    assert any(key.startswith("ts_inference_requests_total{") for key in found)


def prediction_messages() -> tuple[type, type]:
    """Request and response of TorchServe's inference.proto, as far as they are needed here."""
    file = descriptor_pb2.FileDescriptorProto(
        name="inference.proto", package="org.pytorch.serve.grpc.inference", syntax="proto3"
    )
    request = file.message_type.add(name="PredictionsRequest")
    field = descriptor_pb2.FieldDescriptorProto
    for number, name in enumerate(("model_name", "model_version"), start=1):
        request.field.add(
            name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL
        )
    entry = request.nested_type.add(name="InputEntry")
    entry.options.map_entry = True
    for number, (name, kind) in enumerate(
        [("key", field.TYPE_STRING), ("value", field.TYPE_BYTES)], start=1
    ):
        entry.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL)
    request.field.add(
        name="input", number=3, type=field.TYPE_MESSAGE, label=field.LABEL_REPEATED,
        type_name=".org.pytorch.serve.grpc.inference.PredictionsRequest.InputEntry",
    )  # fmt: skip
    response = file.message_type.add(name="PredictionResponse")
    response.field.add(
        name="prediction", number=1, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("PredictionsRequest", "PredictionResponse")
    return tuple(
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))
        for name in names
    )


def test_grpc_gives_the_same_answers(served: Served) -> None:
    request_type, response_type = prediction_messages()
    body = json.dumps({"history": ["item-1", "item-2"], "k": 3}).encode()
    by_http = httpx.post(f"{served.url}/predictions/recommend", content=body).json()
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        predict = channel.unary_unary(
            "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
            request_serializer=request_type.SerializeToString,
            response_deserializer=response_type.FromString,
        )
        answer = predict(request_type(model_name="recommend", input={"body": body}), timeout=10)
        assert json.loads(answer.prediction) == by_http
        bad = request_type(model_name="recommend", input={"body": b"{"})
        # TorchServe has no status for it; the sentence is in the answer, as by HTTP.
        refused = json.loads(predict(bad, timeout=10).prediction)
    assert refused == {"error": "The body is not JSON in UTF-8."}
