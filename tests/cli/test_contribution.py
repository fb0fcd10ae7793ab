"""What sites were worth, on the command line, from a run within this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cli.environment import Environment
from cli.federation import hand_out, runs_folder
from cli.learning import store_candidate
from federation.in_process import run_in_process
from recsys.artifact import save_model
from recsys.data.interactions import load_interactions
from recsys.data.synthetic import write_shop
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from tests.cli.ended import ends

RECIPE = Recipe(dimension=8, blocks=1, heads=1, length=6, text_buckets=0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run whose first model had the users of its first site in it already."""
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    environment = Environment.load("local", tmp_path)
    shop = tmp_path / "shop"
    write_shop(shop, users=60, items=50)
    interactions = load_interactions(shop)
    hand_out(environment, interactions)
    torch.manual_seed(0)
    model = SequentialRecommender(len(interactions.items), RECIPE)
    artifact = save_model(tmp_path / "model", model, RECIPE, interactions.items, {})
    data = {path.name: path for path in (environment.folder / "sites").iterdir()}
    before = {"data": {"address": str(shop)}, "sites": [min(data)], "run": "federate-earlier"}
    parent = store_candidate(environment, artifact, before)
    folder = runs_folder(environment) / "federate-now"
    run_in_process(artifact, folder, data, rounds=1, keep_updates=True)
    request = {"parent": parent, "how": {}, "sites": sorted(data), "wandb_project": None}
    (folder / "request.json").write_text(json.dumps(request))
    return folder


def test_a_rounds_worth_is_told_by_site_and_a_site_of_an_earlier_run_is_not_forgotten_here(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = sorted(path.name for path in (run / "sites").iterdir())
    code, text, _ = ends(capsys, "federate", "contribution", "--json")
    (worth,) = json.loads(text)
    assert code == 0 and sorted(worth) == sites and len(sites) > 1
    assert all(abs(value) < 1 for value in worth.values()) and any(worth.values())
    text = ends(capsys, "federate", "contribution")[1]
    assert sites[0] in text and f"{worth[sites[0]]:+.4f}" in text
    code, _, error = ends(capsys, "federate", "forget", sites[0])
    assert code == 1 and "forget it in federate-earlier first" in error
    (run / "updates" / "000001.safetensors").unlink()
    code, _, error = ends(capsys, "federate", "contribution")
    assert code == 1 and "keeps no updates of round 1" in error
