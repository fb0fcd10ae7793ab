"""Where the state is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cli.engine import Engine
from cli.environment import Environment
from cli.errors import CommandError

PROJECT = Path(__file__).resolve().parents[2]


def test_a_backend_that_does_not_answer_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load((PROJECT / "stacks/environments/production.yaml").read_text())
    settings["backend"] = f"file://{tmp_path / 'nowhere'}"
    (tmp_path / "environments").mkdir()
    (tmp_path / "environments" / "prod.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    environment = Environment.load("prod", tmp_path / "home")
    with pytest.raises(CommandError) as refusal:
        Engine(environment).prepare()
    error = str(refusal.value)
    assert "The engine's backend does not answer" in error and "nowhere" in error
