"""Faults of the state, on the real engine: a newer version's file, a lock whose owner is dead."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cli.engine import Engine
from cli.environment import Environment, engine_root
from cli.errors import CommandError
from stacks.settings import SHIPPED

DESTROY = ["destroy", "--yes", "--skip-preview"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The engine of an environment of kind `cloud`, its state in a folder, one stack in it."""
    folder = tmp_path_factory.mktemp("home")
    settings = yaml.safe_load((SHIPPED / "production.yaml").read_text())
    (folder / "state").mkdir()
    settings["backend"] = f"file://{folder / 'state'}"
    (folder / "environments").mkdir()
    (folder / "environments" / "shop.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRID_HOME", str(folder))
        patch.setenv("PULUMI_CONFIG_PASSPHRASE", "of the test")
        patch.setenv("PULUMI_HOME", str(folder / "pulumi"))
        engine = Engine(Environment.load("shop", folder))
        engine.project.mkdir(parents=True)
        (engine.project / "Pulumi.yaml").write_text("name: hybrid\nruntime: python\n")
        engine._engine(["stack", "init"], "link")
        yield engine


def lock(engine: Engine, host: str, pid: int) -> Path:
    """A lock as the engine's file backend writes it."""
    state = Path(engine.environment.settings.backend.removeprefix("file://"))
    file = state / ".pulumi" / "locks" / "organization" / "hybrid" / "shop.link" / "1.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"pid": pid, "username": "eve", "hostname": host}))
    return file


def test_the_lock_of_a_dead_owner_is_broken_and_said_so(engine, capsys):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True)  # fmt: skip
    file = lock(engine, socket.gethostname(), int(dead.stdout))
    assert engine._run_layer("link", DESTROY).changes == []
    assert not file.exists()
    assert "The lock of stack shop.link is broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "pid"),
    [("far", 7), (socket.gethostname(), os.getpid())],
    ids=["another host", "a living process here"],
)
def test_a_lock_that_may_be_in_use_is_left_and_its_owner_named(engine, host, pid):
    file = lock(engine, host, pid)
    with pytest.raises(CommandError) as refused:
        engine._run_layer("link", DESTROY)
    file.unlink()
    assert f"created by eve@{host} (pid {pid})" in str(refused.value)
    assert "pulumi cancel --stack shop.link" in str(refused.value)


def test_a_state_of_a_newer_version_is_told(engine):
    state = Path(engine.environment.settings.backend.removeprefix("file://"))
    (file,) = (state / ".pulumi" / "stacks" / "hybrid").glob("shop.link.json")
    text = file.read_text()
    file.write_text(json.dumps(json.loads(text) | {"version": 99}))
    newer = file.read_text()
    for ask in (lambda: engine._run_layer("link", DESTROY), lambda: engine._deployment("link")):
        with pytest.raises(CommandError, match="A newer engine wrote this state: update this one"):
            ask()
    assert file.read_text() == newer
    file.write_text(text)
