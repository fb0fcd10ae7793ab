"""The table of what emulators honour of the clouds' behaviour, and who may rest on it.

``docs/emulators.md`` is what moto, ministack and fake-gcs-server were seen to do; tests/contracts
compares it with a fresh run. A test that rests on a behaviour is marked
``@pytest.mark.relies_on(NAME, on="moto")`` and fails where the table says otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infra.offline.behaviours import AWS, GCS, Behaviour, Client

HONOURED, DROPPED, MISSING = "honoured", "dropped", "missing"
LEDGER = Path(__file__).resolve().parents[2] / "docs" / "emulators.md"
HEAD = """# What the emulators honour

`HYBRID_WRITE_LEDGER=1 python -m pytest tests/contracts` makes this table; without the variable
the same test compares it with a fresh run. *Honoured*: as the cloud does it. *Dropped*: accepted,
and not done. *Missing*: an error that the cloud would not give. A test that rests on a behaviour
names it with `@pytest.mark.relies_on`, and fails where its emulator does not honour it.
"""


def pytest_configure(config: Any) -> None:
    """Tell pytest of the mark."""
    config.addinivalue_line("markers", "relies_on(name, on='moto'): needs an emulator's behaviour")


def pytest_runtest_setup(item: Any) -> None:
    """Fail a test that rests on what its emulator does not honour."""
    import pytest

    for mark in item.iter_markers("relies_on"):
        name, emulator = mark.args[0], mark.kwargs.get("on", "moto")
        found = read_table(LEDGER).get(name, {}).get(emulator, "not in docs/emulators.md")
        if found != HONOURED:
            pytest.fail(f"rests on {name!r}, which on {emulator} is {found}", pytrace=False)


def verdict(behaviour: Behaviour, client: Client) -> str:
    """What an emulator makes of a behaviour: honoured, dropped (silently) or missing."""
    from botocore.exceptions import BotoCoreError, ClientError
    from google.api_core.exceptions import GoogleAPIError

    try:
        return HONOURED if behaviour(client) else DROPPED
    except (ClientError, BotoCoreError, GoogleAPIError, KeyError, IndexError):
        return MISSING


def aws_client(address: str) -> Client:
    """Clients of the AWS services at an address."""
    import boto3
    from botocore.config import Config

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    made: dict[str, Any] = {}

    def client(service: str) -> Any:
        if service not in made:
            # Of boto3's own session, which reads each service's model once for all emulators.
            made[service] = boto3.client(
                service, "us-east-1", endpoint_url=address, config=config, **keys
            )
        return made[service]

    return client


def gcs_client(address: str) -> Client:
    """The client of GCS at an address."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    made = storage.Client(
        project="test",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": address},
    )
    return lambda service: made


def table(verdicts: dict[str, dict[str, str]]) -> str:
    """The document for docs/: a row for each behaviour, a column for each emulator."""
    emulators = ("moto", "ministack", "fake-gcs-server")
    rows = [
        f"| {name} | {' | '.join(found.get(emulator, '') for emulator in emulators)} |"
        for name, found in verdicts.items()
    ]
    titles = f"| behaviour | {' | '.join(emulators)} |"
    return "\n".join([HEAD, titles, "| --- " * 4 + "|", *rows, ""])


def read_table(file: Path) -> dict[str, dict[str, str]]:
    """The verdicts of a table, by behaviour and emulator."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    emulators = rows[0][1:]
    return {
        name: {emulator: cell for emulator, cell in zip(emulators, cells) if cell}
        for name, *cells in rows[2:]
    }


def try_all(emulators: dict[str, Client]) -> dict[str, dict[str, str]]:
    """Verdicts on every behaviour, each on the emulators of its cloud."""
    return {
        name: {
            emulator: verdict(behaviour, client)
            for emulator, client in emulators.items()
            if (emulator == "fake-gcs-server") == (name in GCS)
        }
        for name, behaviour in (AWS | GCS).items()
    }
