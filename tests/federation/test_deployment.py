from __future__ import annotations

import os
from pathlib import Path

import pytest

from federation import deployment
from federation.credentials import issue
from federation.errors import FederationError


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, deployment.Command]:
    issue(deployment.credentials_folder(tmp_path), ["north"])
    return {
        "superlink": deployment.superlink_command(tmp_path, port=9000),
        "server executor": deployment.server_executor_command(tmp_path, port=9000),
        "supernode": deployment.supernode_command(
            tmp_path, "north", data=tmp_path / "north", superlink="10.0.0.7:9000", runtime_port=9001
        ),
        "gateway": deployment.gateway_command(tmp_path, "north", port=9002, proxy="example.com:1"),
        "executor": deployment.client_executor_command(tmp_path, "north", runtime_port=9001),
    }


def test_no_secret_is_in_a_command_or_its_environment(
    commands: dict[str, deployment.Command], tmp_path: Path
) -> None:
    folder = deployment.credentials_folder(tmp_path)
    secrets = [path.read_text() for path in folder.rglob("*") if path.suffix in (".key", ".secret")]
    assert len(secrets) == 7
    for argv, environment in commands.values():
        told = " ".join([*argv, *environment.values()])
        assert not [secret for secret in secrets if secret in told]


def test_everything_listens_on_the_loopback_and_calls_nobody(
    commands: dict[str, deployment.Command],
) -> None:
    for name, (argv, environment) in commands.items():
        if "--host" in argv:
            assert argv[argv.index("--host") + 1] == "127.0.0.1", name
        assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_a_site_is_told_only_its_own_files(
    commands: dict[str, deployment.Command], tmp_path: Path
) -> None:
    argv, environment = commands["supernode"]
    paths = [word for word in argv if str(tmp_path) in word]
    assert paths == [
        str(tmp_path / "credentials/ca.crt"),
        str(tmp_path / "credentials/sites/north/node.key"),
        f"site='north' data='{tmp_path / 'north'}' state='{tmp_path / 'sites/north/runs'}'",
        str(tmp_path / "credentials/sites/north/superexec.secret"),
    ]
    assert environment["FLWR_HOME"] == str(tmp_path / "sites/north")


def test_programs_exist(commands: dict[str, deployment.Command]) -> None:
    for argv, _ in commands.values():
        assert os.access(argv[0], os.X_OK)


def test_an_unusable_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="it's has a quote or a line break: rename it"):
        deployment.supernode_command(
            tmp_path, "north", data=tmp_path / "it's", superlink="x:1", runtime_port=9001
        )


def test_no_superlink_is_ready_where_none_was_set_up(tmp_path: Path) -> None:
    assert not deployment.superlink_ready(tmp_path, address="127.0.0.1:1")
    issue(deployment.credentials_folder(tmp_path), [])
    assert not deployment.superlink_ready(tmp_path, address="127.0.0.1:1")
