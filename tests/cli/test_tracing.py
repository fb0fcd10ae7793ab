"""Traces of commands."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest
import yaml

from cli.application import Application
from cli.errors import ServingError
from cli.main import main
from cli.serving_client import ServingClient
from tests.collector import Collector

LOCAL = Path(__file__).parents[2] / "stacks" / "environments" / "local.yaml"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    return tmp_path


def settings(home: Path, endpoint: str) -> None:
    """An environment `traced`, whose traces go there."""
    content = yaml.safe_load(LOCAL.read_text()) | {"tracing": {"endpoint": endpoint}}
    (home / "environments").mkdir()
    (home / "environments" / "traced.yaml").write_text(yaml.safe_dump(content))


class Handler(BaseHTTPRequestHandler):
    """Answers as TorchServe does where there is a model, and keeps the headers that it got."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.traceparents.append(self.headers.get("traceparent"))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"items": []}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def torchserve() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.traceparents = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@click.command()
@click.pass_obj
def work(app: Application) -> None:
    """Asks in a step of its own, then fails."""
    app.environment("traced")
    with app.progress("asking"):
        address = f"http://127.0.0.1:{click.get_current_context().meta['port']}"
        ServingClient(address, address).recommend([])
    raise ServingError("It does not answer.")


def test_what_a_command_asks_belongs_to_its_trace(
    home: Path, collector: Collector, torchserve: HTTPServer
) -> None:
    settings(home, collector.address)
    with pytest.raises(ServingError), work.make_context("work", [], obj=Application(home)) as ctx:
        ctx.meta["port"] = torchserve.server_port
        work.invoke(ctx)
    spans = {span["name"]: span for span in collector.spans(2)}
    command, step = spans["work"], spans["asking"]
    assert (command["parent"], command["environment"]) == ("", "traced")
    assert (command["service"], command["failed"]) == ("hybrid", True)
    assert (step["trace"], step["parent"]) == (command["trace"], command["id"])
    (traceparent,) = torchserve.traceparents
    assert traceparent.startswith(f"00-{command['trace']}-{step['id']}-")


def test_without_a_collector_requests_carry_no_trace(home: Path, torchserve: HTTPServer) -> None:
    address = f"http://127.0.0.1:{torchserve.server_port}"
    ServingClient(address, address).recommend([])
    assert torchserve.traceparents == [None]


def test_a_command_of_an_environment_is_a_span(
    home: Path, collector: Collector, capsys: pytest.CaptureFixture
) -> None:
    settings(home, collector.address)
    with pytest.raises(SystemExit) as stop:
        main(["metrics", "traced"])
    assert stop.value.code == 0
    (span,) = collector.spans(1)
    assert (span["name"], span["environment"], span["failed"]) == ("hybrid metrics", "traced", False)


def test_a_collector_that_is_not_there_breaks_no_command(
    home: Path, capsys: pytest.CaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings(home, f"http://127.0.0.1:{probe.getsockname()[1]}")
    with pytest.raises(SystemExit) as stop:
        main(["metrics", "traced"])
    assert stop.value.code == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("The trace does not reach http://127.0.0.1:")
