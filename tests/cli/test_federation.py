"""Federated runs on the command line: followed, interrupted, listed, taken up again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cli.environment import Environment
from cli.learning import environment_store, store_candidate
from cli.rounds import figures_of, table_of
from model_store.store import Store
from recsys.artifact import save_model
from recsys.data.interactions import load_interactions
from recsys.data.synthetic import write_shop
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from tests.cli.ended import ends

RECIPE = Recipe(dimension=8, blocks=1, heads=1, length=6)
RECORDS = [
    {"round": 0, "metrics": {"HR@10": 0.1, "NDCG@10": 0.05}},
    {
        "round": 1, "loss": 3.5, "metrics": {"HR@10": 0.2, "NDCG@10": 0.15},
        "bytes_down": 2_000_000, "bytes_up": 1_000_000, "seconds": 1.25,
        "trained": {"north": {"examples": 5, "loss": 3.5}}, "refused": {"south": "It sent NaN."},
        "asked": ["north", "south"], "model": "0a1b",
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A home with a model in the store, and no server at all."""
    home = tmp_path_factory.mktemp("home")
    environment = Environment.load("local", home)
    shop = home / "shop"
    write_shop(shop, users=60, items=50)
    torch.manual_seed(0)
    items = load_interactions(shop).items
    model = SequentialRecommender(len(items), RECIPE)
    artifact = save_model(home / "model", model, RECIPE, items, {"NDCG@10": 0.1})
    store_candidate(environment, artifact, {"data": {"address": str(shop)}})
    return home


@pytest.fixture
def at_home(home, monkeypatch) -> Path:
    monkeypatch.setenv("HYBRID_HOME", str(home))
    return home


UNSIGNED = {
    "federate": ("federate", "--dry-run", "--from"),
    "evaluate": ("evaluate",),
    "accelerate": ("accelerate", "--onnx"),
    "explain": ("explain", "--user", "u00001", "--item", "i00001", "--model"),
    "pull": ("models", "pull"),
}


@pytest.mark.parametrize("command", UNSIGNED)
def test_no_command_loads_a_model_that_nobody_signed(at_home, capsys, command, tmp_path):
    store = environment_store(Environment.load("local", at_home))
    lineage = store.manifest("candidate").lineage | {"run": "foreign"}
    digest = Store(store.objects).put(at_home / "model", lineage=lineage)
    target = [str(tmp_path / "got")] if command == "pull" else []
    code, text, error = ends(capsys, *UNSIGNED[command], digest, *target)
    assert code == 1 and "nobody signed it" in error and not text, error


@pytest.fixture
def interrupted(at_home, capsys) -> Path:
    """Folder of a run that the SuperLink never got to see."""
    runs = at_home / "local" / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    code, _, error = ends(capsys, "federate", "--rounds", "1", "--local-epochs", "2")
    assert code == 1 and "credentials first" in error
    (run,) = runs.iterdir()
    return run


def finish(run: Path) -> None:
    """What a ServerApp leaves behind at its end."""
    (run / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    shutil.copytree(run / "initial", run / "artifact")
    (run / "artifact" / "metrics.json").write_text(json.dumps({"NDCG@10": 0.15, "users": 60}))


def test_resume_takes_up_the_run_with_its_settings_and_stores_the_model(home, interrupted, capsys):
    (listed,) = json.loads(ends(capsys, "federate", "history", "--json")[1])
    assert (listed["name"], listed["state"]) == (interrupted.name, "interrupted")
    assert listed["settings"]["local_epochs"] == 2
    finish(interrupted)
    code, text, _ = ends(capsys, "federate", "resume", interrupted.name, "--json")
    trained = json.loads(text)
    assert code == 0 and trained["rounds"] == RECORDS[1:]
    newest = json.loads(ends(capsys, "models", "list", "--json")[1])[0]
    assert newest["digest"] == trained["digest"]
    assert newest["lineage"]["settings"]["local_epochs"] == 2
    audit = Environment.load("local", home).audit_log()
    told = [r for r in audit.records() if r.get("run") == interrupted.name]
    assert [r["event"] for r in told] == ["run started", "run failed", "run started", "round",
                                          "run ended"]  # fmt: skip
    assert told[3]["refused"] == {"south": "It sent NaN."}
    assert (told[3]["asked"], told[3]["answered"]) == (["north", "south"], ["north"])
    assert told[3]["model"] == "0a1b"
    assert told[4]["model"] == trained["digest"]
    last = audit.records()[-1]
    assert (last["event"], last["model"]) == ("candidate", trained["digest"]) and audit.verify().broken is None
    code, _, error = ends(capsys, "federate", "resume")
    assert code == 1 and "every federated run has ended" in error


def test_every_round_is_drawn_once_however_often_the_run_is_taken_up(interrupted, capsys):
    finish(interrupted)
    for _ in range(2):
        assert ends(capsys, "federate", "resume", interrupted.name)[0] == 0
    events = EventAccumulator(str(interrupted / "tensorboard")).Reload()
    drawn = [(point.step, point.value) for point in events.Scalars("federate/NDCG@10")]
    assert drawn == [(0, pytest.approx(0.05)), (1, pytest.approx(0.15))]
    assert [point.step for point in events.Scalars("federate/bytes_up")] == [1]


def test_show_tells_the_settings_the_rounds_and_what_was_refused(interrupted, capsys):
    finish(interrupted)
    code, text, _ = ends(capsys, "federate", "show")
    assert code == 0 and "site-berlin, site-lyon" in text
    assert "0.1500" in text and "Round 1 refused south: It sent NaN." in text
    assert f"{interrupted.name} is finished: 1 of 1 rounds." in text
    found = json.loads(ends(capsys, "federate", "show", interrupted.name[:12], "--json")[1])
    assert found["records"] == RECORDS
    text = ends(capsys, "federate", "history")[1]
    assert "finished" in text and "1 of 1" in text and "3.0" in text


def test_a_dry_run_tells_bytes_and_costs_and_starts_nothing(at_home, capsys):
    runs = at_home / "local" / "runs"
    before = list(runs.glob("*")) if runs.exists() else []
    arguments = ("federate", "--dry-run", "--rounds", "4")
    code, text, said = ends(capsys, *arguments, "--compression", "int8")
    assert code == 0 and "4 rounds of 1 local epoch on site-berlin, site-lyon" in said
    assert "int8 *" in text and "topk 0.01" in text and "not measured" in text
    planned = json.loads(ends(capsys, *arguments, "--bandwidth", "8", "--json")[1])
    chosen = planned["chosen"]
    size = Path(at_home / "model/weights.safetensors").stat().st_size
    assert chosen["bytes_down"] == pytest.approx(2 * size, rel=0.5)
    assert chosen["compression"]["method"] == "none" and chosen["rounds"] == 4
    dearest = 0.12e-9  # a byte out of the cloud that asks most
    assert chosen["cost"] == pytest.approx(chosen["bytes_down"] * dearest)
    assert (list(runs.glob("*")) if runs.exists() else []) == before


@pytest.mark.parametrize("arguments", [("federate",), ("federate", "--dry-run")])
def test_a_setting_that_no_run_could_follow_is_named_before_a_run_is_there(
    arguments, at_home, capsys
):
    runs = at_home / "local" / "runs"
    before = list(runs.glob("*")) if runs.exists() else []
    code, text, error = ends(capsys, *arguments, "--strategy", "krum")
    assert (code, text) == (2, "")
    assert error == "Error: --wrong-sites is 0: krum needs one above 0.\n"
    assert (list(runs.glob("*")) if runs.exists() else []) == before


def test_auto_picks_what_stays_in_the_budget_and_stays_with_it(at_home, capsys):
    arguments = ("federate", "--rounds", "4", "--compression", "auto", "--json")
    whole = json.loads(ends(capsys, "federate", "--rounds", "4", "--dry-run", "--json")[1])
    budget = str(whole["chosen"]["run_bytes"] * 0.6)
    wanted = (*arguments, "--budget-bytes", budget)
    chosen = json.loads(ends(capsys, *wanted, "--dry-run")[1])["chosen"]
    assert chosen["run_bytes"] <= float(budget)
    assert chosen["compression"]["method"] != "none"
    code, _, error = ends(capsys, *wanted)
    assert code == 1 and "credentials first" in error
    requests = [json.loads(f.read_text()) for f in (at_home / "local/runs").glob("*/request.json")]
    (how,) = [r["how"] for r in requests if r["how"]["rounds"] == chosen["rounds"]]
    assert (how["compression"], how["share"], how["local_epochs"]) == (
        *chosen["compression"].values(), chosen["local_epochs"],
    )  # fmt: skip
    code, _, error = ends(capsys, *arguments, "--budget-bytes", "10", "--dry-run")
    assert code == 1 and "No run stays in the budget: the smallest, topk 0.01 on" in error
    code, _, error = ends(capsys, *arguments, "--budget-seconds", "10", "--dry-run")
    assert code == 1 and "needs measured sites" in error


@pytest.mark.parametrize("options", [["--compression", "auto"], ["--budget-cost", "1"]])
def test_a_budget_and_auto_go_together(options, at_home, capsys):
    code, _, error = ends(capsys, "federate", *options)
    assert code == 2 and "go together" in error


def test_what_a_run_was_asked_for_must_be_known_to_resume_it(interrupted, capsys):
    (interrupted / "request.json").unlink()
    code, _, error = ends(capsys, "federate", "resume")
    assert code == 1 and f"{interrupted.name} does not tell how it was started" in error


def test_options_of_a_new_run_do_not_vanish_before_a_subcommand(at_home, capsys):
    code, _, error = ends(capsys, "federate", "--rounds", "2", "history")
    assert code == 2 and "do not go with history" in error


def test_a_column_is_shown_where_a_round_has_its_figure():
    columns, rows = table_of(RECORDS)
    assert columns == ["round", "loss", "HR@10", "NDCG@10", "sites", "refused", "MB down", "MB up",
                       "seconds"]  # fmt: skip
    assert rows[0] == ["0", "", "0.1000", "0.0500", "", "", "", "", ""]
    assert rows[1][5:] == ["south", "2.0", "1.0", "1.2"]
    private = [record | {"epsilon": 1.5, "cost": 0.00012} for record in RECORDS]
    assert dict(zip(*[table_of(private)[0], table_of(private)[1][1]]))["ε"] == "1.500"
    assert figures_of(private[1])["cost"] == 0.00012
    assert "epsilon" not in figures_of(RECORDS[1])
