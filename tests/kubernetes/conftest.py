"""One real Kubernetes API for all tests here, and what the platform layer declares."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pulumi
import pytest

from infra.autoscaler import Autoscaler
from infra.offline import kubernetes_server
from infra.offline.kubernetes import TYPES, Cluster
from infra.offline.resource import Request
from stacks import platform
from stacks.autoscaling import autoscaler
from stacks.settings import SHIPPED, Settings, load_settings
from tests.infra.authority import pair

# Under this key the engine's protocol wraps a secret: {SECRET: mark, "value": the secret}.
SECRET = "4dabf18193072939515e22adb298388d"
HOW_TO = "no real Kubernetes API is built here: `make test-kubernetes` builds it and runs these"
TRAINING = {"image": "hybrid/training:1", "data": "s3://shop/events.parquet", "nodes": 2}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the programs where they are not built, and let the summary say so."""
    if kubernetes_server.find_programs() is None:
        for item in items:
            if Path(__file__).parent in item.path.parents and "cluster" in item.fixturenames:
                item.add_marker(pytest.mark.skip(reason=HOW_TO))


@contextmanager
def running(folder: Path) -> Iterator[Path]:
    """An API with its controllers; the kubeconfig. Nothing of it is left in the end."""
    port = _free_ports()
    kubeconfig = kubernetes_server.prepare(folder, port)
    programs = kubernetes_server.find_programs()
    processes: list[subprocess.Popen] = []
    try:
        for program in kubernetes_server.commands(programs, folder, port):
            if program.name == "controllers":  # which wait for the API for ten seconds only
                until(lambda: kubernetes_server.is_ready(folder, port), "the API is ready")
            with (folder / f"{program.name}.log").open("wb") as log:
                processes.append(subprocess.Popen(program.command, stdout=log, stderr=log))
        yield kubeconfig
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


class Watched(Cluster):
    """A connection that keeps the version of the object in the last answer."""

    version: str | None = None

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any] | None:
        answer = super().call(method, path, **options)
        self.version = answer["metadata"].get("resourceVersion") if answer else None
        return answer


def until(holds: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """Wait for what the API's controllers do; returns the first answer that is true."""
    deadline = time.monotonic() + seconds
    while not (answer := holds()):
        assert time.monotonic() < deadline, f"after {seconds:.0f} s it does not hold that {what}"
        time.sleep(0.1)
    return answer


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A connection to the API, as the offline plugin makes it."""
    with running(tmp_path_factory.mktemp("kubernetes")) as kubeconfig:
        yield Watched({"kubeconfig": str(kubeconfig)})


@pytest.fixture(name="until", scope="session")
def until_fixture() -> Callable[..., Any]:
    return until


@pytest.fixture(scope="session")
def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Type and inputs of every Kubernetes object of the platform layer, in the order declared."""
    settings = load_settings("local", [SHIPPED])
    whole = Settings.model_validate(settings.model_dump() | {"training": TRAINING})
    return declared(lambda: platform.program("local", whole))


@pytest.fixture(scope="session")
def autoscaler_on_google() -> list[tuple[str, dict[str, Any]]]:
    """The same of the cluster autoscaler of Google Cloud, in a namespace of its own.

    Without its rights in the cluster, which are those of every cloud's.
    """
    settings = load_settings("production-gcp", [SHIPPED])

    class Below:
        def output(self, name: str) -> pulumi.Output[str]:
            return pulumi.Output.secret(name)

    def program() -> None:
        found = autoscaler("production-gcp", settings, Below())
        Autoscaler("autoscaler", replace(found, namespace="autoscaler-on-google"))

    return [each for each in declared(program) if ":rbac." not in each[0]]


def declared(program: Callable[[], None]) -> list[tuple[str, dict[str, Any]]]:
    """Type and inputs of every Kubernetes object that a program declares."""
    recorder = _Recorder()
    asyncio.set_event_loop(asyncio.new_event_loop())
    pulumi.runtime.set_mocks(recorder, project="hybrid", stack="local.platform")
    pulumi.runtime.test(program)()
    # A namespace comes before what is in it.
    found = [each for each in recorder.found if each[0].startswith("kubernetes:")]
    return sorted(found, key=lambda each: not each[0].endswith(":Namespace"))


@pytest.fixture(scope="session")
def applied(cluster: Cluster, manifests: list) -> list[tuple[str, str, dict[str, Any]]]:
    """Type, id and state of each manifest, made by the plugin's own table."""
    return [
        (kind, *TYPES[kind].create(cluster, Request("urn", inputs, "mark")))
        for kind, inputs in manifests
    ]


class _Recorder(pulumi.runtime.Mocks):
    """Stands for the engine; `found` are types and inputs, secrets in clear."""

    def __init__(self) -> None:
        self.found: list[tuple[str, dict[str, Any]]] = []

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict]:
        if args.typ == "pulumi:pulumi:StackReference":
            key = {"id": "of the test", "secret": "of the test"}
            return args.name, {"outputs": {"kubeconfig": "of the test", "autoscaler_key": key}}
        self.found.append((args.typ, _plain(args.inputs)))
        made = {"result": "random", "certPem": pair()[0], "privateKeyPem": pair()[1]}
        return f"{args.name}-id", made | args.inputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict:
        raise AssertionError(f"programs ask a provider for nothing, but called {args.token}")


def _plain(value: Any) -> Any:
    """A value with its secrets in clear, and whole numbers as such, which the protocol lacks."""
    if isinstance(value, dict):
        value = value["value"] if SECRET in value else value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _free_ports() -> int:
    """First of the neighbouring ports that an API takes, none of which anybody uses now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        if first + kubernetes_server.PORTS < 65536 and not any(
            _is_taken(first + number) for number in range(kubernetes_server.PORTS)
        ):
            return first


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False
