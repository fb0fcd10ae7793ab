"""`hybrid submit` as a user types it; AWS is an emulator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cli.main import main
from stacks.settings import SHIPPED

TRAINER = {
    "kind": "sagemaker",
    "image": "hybrid:1",
    "machine": "ml.g5.xlarge",
    "role": "arn:aws:iam::123456789012:role/trainer",
}
ASK = ["submit", "local", "--data", "s3://shop/events.parquet"]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moto_endpoint: str):
    """Writes `local` with a trainer, a store that it reaches, and an emulator of AWS."""
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    (tmp_path / "environments").mkdir()

    def write(trainer: dict | None) -> None:
        values = yaml.safe_load((SHIPPED / "local.yaml").read_text())
        values |= {"aws": {"endpoint": moto_endpoint}, "model_store": "s3://models/local"}
        if trainer:
            values["trainer"] = trainer
        (tmp_path / "environments" / "local.yaml").write_text(yaml.safe_dump(values))

    write(TRAINER)
    return write


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code


def test_a_job_is_submitted_once_and_told_by_its_name(settings, capsys):
    assert run(*ASK, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["new"] and first["id"].endswith(first["job"])
    assert run(*ASK) == 0
    assert f"Job {first['job']} was there already: {first['id']}" in capsys.readouterr().out


def test_a_dry_run_prints_the_request_and_sends_nothing(settings, capsys):
    assert run(*ASK, "--dry-run", "--shard-items") == 0
    request = json.loads(capsys.readouterr().out)
    (script,) = request["AlgorithmSpecification"]["ContainerArguments"]
    assert "--data s3://shop/events.parquet" in script and "--shard-items" in script
    assert run(*ASK, "--shard-items", "--json") == 0
    assert json.loads(capsys.readouterr().out)["new"]


def test_what_cannot_be_submitted_is_a_sentence(settings, capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dimensions: 64\n")
    assert run(*ASK, "--recipe", str(recipe)) == 2
    assert "dimensions" in capsys.readouterr().err
    assert run("submit", "local", "--data", str(tmp_path)) == 2
    assert "out of the trainer's reach" in capsys.readouterr().err
    settings(None)
    assert run(*ASK) == 2
    assert "The settings of local name no trainer" in capsys.readouterr().err
    settings(TRAINER | {"role": "trainer"})
    assert run(*ASK) == 2
    assert "trainer" in capsys.readouterr().err
