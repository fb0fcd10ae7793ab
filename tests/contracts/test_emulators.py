"""The table of what emulators honour is what they do today."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tenacity import retry, stop_after_delay, wait_fixed

from infra.offline import ledger

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module")
def ministack_endpoint() -> Iterator[str]:
    """Address of a second emulator of AWS, with nothing in it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "ministack"],
        env=os.environ | {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    connect = retry(stop=stop_after_delay(60), wait=wait_fixed(0.05), reraise=True)(
        lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close()
    )
    connect()
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


def test_the_table_is_what_the_emulators_do(
    moto_endpoint: str, ministack_endpoint: str, gcs_endpoint: str
) -> None:
    fresh = ledger.try_all(
        {
            "moto": ledger.aws_client(moto_endpoint),
            "ministack": ledger.aws_client(ministack_endpoint),
            "fake-gcs-server": ledger.gcs_client(gcs_endpoint),
        }
    )
    if os.environ.get("HYBRID_WRITE_LEDGER"):
        ledger.LEDGER.write_text(ledger.table(fresh))
    assert ledger.read_table(ledger.LEDGER) == fresh


def test_a_test_that_rests_on_what_is_dropped_fails(pytester: pytest.Pytester) -> None:
    name = "EC2 heeds DryRun"
    assert ledger.read_table(ledger.LEDGER)[name]["moto"] == "dropped"
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.relies_on({name!r})
        def test_dropped(): pass

        @pytest.mark.relies_on("S3 PutObject heeds If-Match")
        def test_honoured(): pass

        @pytest.mark.relies_on("S3 sings")
        def test_unknown(): pass
        """
    )
    result = pytester.runpytest("-p", "infra.offline.ledger")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines([f"rests on '{name}', which on moto is dropped"])
