"""Gauges of federation and models, as Prometheus reads them."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.environment import Environment
from cli.federation import runs_folder
from cli.learning import environment_store
from cli.main import main
from cli.metrics import GAUGES, exposition
from cli.steps import recorded, steps

RECORDS = [
    {"round": 0, "metrics": {"NDCG@10": 0.05}},
    {
        "round": 1, "loss": 3.5, "metrics": {"NDCG@10": 0.15}, "epsilon": 0.5, "seconds": 1.25,
        "bytes_down": 2_000_000, "bytes_up": 1_000_000,
        "trained": {"north": {"examples": 5, "loss": 3.5}}, "refused": {"south": "It sent NaN."},
    },
]  # fmt: skip


@pytest.fixture
def environment(tmp_path, monkeypatch) -> Environment:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    return Environment.load("local", tmp_path)


@pytest.fixture
def learnt(environment, tmp_path) -> str:
    """A model in production and a run of one round; the model's digest."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "recipe.json").write_text("{}")
    store = environment_store(environment)
    digest = store.put(folder, lineage={"metrics": {"NDCG@10": 0.125}})
    store.move_channel("production", digest)
    run = runs_folder(environment) / "federate-1"
    run.mkdir(parents=True)
    settings = {"rounds": 3, "strategy": "fedprox", "sites": ["north", "south"]}
    (run / "settings.json").write_text(json.dumps(settings))
    (run / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    recorded("train")(lambda environment: None)(environment)
    return digest


def values(text: str) -> dict[tuple[str, ...], float]:
    """Value of each gauge by its name and the values of its labels, in the order of their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_the_newest_run_and_the_models_in_channels(environment, learnt):
    found = values(exposition(environment))
    assert found["hybrid_model_quality", "production", "local", "NDCG@10"] == 0.125
    stored = "hybrid_model_stored_timestamp_seconds"
    created = environment_store(environment).list()[0].created
    assert found[stored, "production", "local", learnt] == created.timestamp()
    assert found["hybrid_federation_rounds", "local", "done"] == 1
    assert found["hybrid_federation_rounds", "local", "wanted"] == 3
    assert found["hybrid_federation_bytes", "down", "local"] == 2_000_000
    assert found["hybrid_federation_sites", "local", "refused"] == 1
    assert found["hybrid_federation_round", "local", "epsilon"] == 0.5
    assert found["hybrid_federation_round", "local", "NDCG@10"] == 0.15
    started = "hybrid_federation_started_timestamp_seconds"
    assert (started, "local", "federate-1", "interrupted", "fedprox") in found
    assert {name for name, *_ in found} == set(GAUGES)


def test_a_step_is_recorded_however_it_ends(environment):
    ends = iter((None, ValueError("no"), KeyboardInterrupt()))
    known = []

    @recorded("train")
    def train(environment: Environment, data: str, *, workers: int) -> str:
        known.append(steps(environment)["train"])
        if (end := next(ends)) is not None:
            raise end
        return f"{data} {workers}"

    assert train(environment, "shop", workers=2) == "shop 2"
    first = steps(environment)["train"]
    assert first.keys() == {"began", "succeeded", "seconds"}
    assert first["began"] + first["seconds"] == pytest.approx(first["succeeded"])
    with pytest.raises(ValueError, match="no"):
        train(environment, "shop", workers=2)
    second = steps(environment)["train"]
    assert second["failed"] >= second["began"] >= first["succeeded"] == second["succeeded"]
    with pytest.raises(KeyboardInterrupt):
        train(environment, "shop", workers=2)
    third = steps(environment)["train"]
    assert third["began"] > second["began"] and third["failed"] == second["failed"]
    assert known[0].keys() == {"began"}
    found = values(exposition(environment))
    assert found["hybrid_step_seconds", "local", "train"] == first["seconds"]
    assert found["hybrid_step_timestamp_seconds", "local", "failed", "train"] == second["failed"]


def test_before_the_first_run_and_model_there_is_nothing_to_tell(environment):
    assert values(exposition(environment)) == {}


def test_the_command_writes_the_file_that_a_collector_takes(environment, learnt, tmp_path, capsys):
    file = tmp_path / "collected" / "hybrid.prom"
    with pytest.raises(SystemExit) as stop:
        main(["metrics", "local", "--output", str(file)])
    assert stop.value.code == 0
    assert values(file.read_text()) == values(exposition(environment))
    assert [path.name for path in file.parent.iterdir()] == ["hybrid.prom"]


def test_a_place_that_cannot_be_written_is_named(environment, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["metrics", "local", "--output", str(tmp_path / "file" / "hybrid.prom")])
    assert stop.value.code == 1
    assert f"{tmp_path / 'file' / 'hybrid.prom'} cannot be written (" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_has_nothing_to_say_against_the_gauges(environment, learnt):
    text = exposition(environment).encode()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
