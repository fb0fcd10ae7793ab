"""The proxy in front of TorchServe takes another configuration and loses no request."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from cli import nginx as nginx_module
from cli import serving_proxy
from cli.environment import Environment
from cli.errors import ServingError
from cli.nginx import nginx_program
from infra.serving_proxy import LEAVING, ServingProxy, fingerprint
from stacks.settings import SHIPPED, load_settings

pytestmark = pytest.mark.skipif(nginx_program() is None, reason="nginx is not installed")


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    settings = load_settings("local", [SHIPPED])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        torchserve = settings.ports.torchserve.model_copy(
            update={"public": probe.getsockname()[1]}
        )
    ports = settings.ports.model_copy(update={"torchserve": torchserve})
    return Environment("local", settings.model_copy(update={"ports": ports}), tmp_path)


@pytest.fixture
def proxy(environment: Environment) -> ServingProxy:
    return serving_proxy.serving_proxy(environment, None)


@pytest.fixture
def nginx(environment: Environment, proxy: ServingProxy) -> Iterator[int]:
    """Process id of a running one, with no TorchServe behind it: it answers 502."""
    command = serving_proxy.serving_proxy_command(nginx_program(), environment, proxy)
    process = subprocess.Popen(command, cwd=serving_proxy.working_folder(environment))
    answers = retry(
        retry=retry_if_result(lambda mark: mark is None),
        stop=stop_after_delay(20), wait=wait_fixed(0.02),
    )  # fmt: skip
    answers(serving_proxy.loaded)(environment)
    yield process.pid
    process.terminate()
    process.wait()


@pytest.fixture
def connection_after(proxy: ServingProxy) -> Iterator[Callable[[], str]]:
    """Asks on a connection that stays open, and tells what the answer says of the connection."""
    connection = http.client.HTTPConnection(*proxy.listen.split(":"), timeout=20)

    def ask() -> str:
        connection.request("POST", "/predictions/recommend", b"{}")
        answer = connection.getresponse()
        answer.read()
        return answer.headers["Connection"]

    yield ask
    connection.close()


def test_clients_are_told_that_their_connections_end_before_nginx_closes_them(
    environment, proxy, nginx, connection_after, monkeypatch
) -> None:
    seen = [connection_after()]

    def reload_nginx(*arguments):
        seen.append(connection_after())
        return nginx_module.reload_nginx(*arguments)

    # Only overheard: what a client is told just before.
    monkeypatch.setattr(serving_proxy, "reload_nginx", reload_nginx)
    other = replace(proxy, burst=7)
    serving_proxy.apply(environment, other, nginx)
    assert serving_proxy.loaded(environment) == fingerprint(other)
    assert [*seen, connection_after()] == ["keep-alive", "close", "keep-alive"]


def test_connections_are_kept_again_after_a_command_that_was_killed_before_its_reload(
    environment, proxy, nginx, connection_after
) -> None:
    (serving_proxy.working_folder(environment) / LEAVING).touch()
    before = connection_after()
    serving_proxy.apply(environment, proxy, nginx)
    assert [before, connection_after()] == ["close", "keep-alive"]


def test_workers_whose_main_process_was_killed_are_not_taken_for_the_proxy(
    environment, proxy, nginx, connection_after
) -> None:
    """They divide users as before, whatever the configuration says by then."""
    (environment.folder / "supervisord.pid").write_text(str(os.getpid()))
    (worker,) = psutil.Process(nginx).children()
    assert serving_proxy.loaded(environment) == fingerprint(proxy)
    psutil.Process(nginx).kill()
    os.waitpid(nginx, 0)
    try:
        assert connection_after() == "keep-alive"  # who did not know would call it alive
        assert serving_proxy.loaded(environment) is None
        with pytest.raises(ServingError, match="The main process of the proxy was killed"):
            serving_proxy.apply(environment, replace(proxy, burst=7), nginx)
    finally:
        worker.terminate()
        worker.wait(timeout=10)
    assert serving_proxy.loaded(environment) is None
