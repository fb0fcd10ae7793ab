"""`hybrid accelerate` on a store in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cli.environment import Environment
from cli.learning import environment_store
from model_store.store import Store
from recsys.artifact import save_model
from recsys.data.interactions import load_interactions
from recsys.data.synthetic import write_shop
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from tests.cli.ended import ends


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The environment's store with one model, the candidate."""
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    write_shop(tmp_path / "shop", users=60, items=50)
    items = load_interactions(tmp_path / "shop").items
    recipe = Recipe(dimension=16, heads=2, blocks=1, length=10)
    torch.manual_seed(0)
    model = SequentialRecommender(len(items), recipe)
    folder = save_model(tmp_path / "model", model, recipe, items, {})
    store = environment_store(Environment.load("local", tmp_path / "home"))
    digest = store.put(folder, lineage={"data": {"address": str(tmp_path / "shop")}})
    store.move_channel("candidate", digest)
    return store


def test_the_result_is_shown_stored_with_its_lineage_and_becomes_the_candidate(
    store: Store, capsys: pytest.CaptureFixture
) -> None:
    parent = store.resolve("candidate")
    code, out, _ = ends(capsys, "accelerate", "candidate", "--quantise", "int8", "--most-loss", "1")
    assert code == 0
    for row in ("size (MB)", "p50 (ms)", "p99 (ms)", "NDCG@10 (test)"):
        assert row in out
    digest = store.resolve("candidate")
    assert digest != parent and digest in out
    lineage = store.manifest(digest).lineage
    assert (lineage["made_by"], lineage["parent"]) == ("accelerate", parent)
    assert lineage["settings"]["quantise"] == "int8" and lineage["settings"]["most_loss"] == 1
    assert set(lineage["figures"]) == {"metric", "before", "after"}
    assert lineage["metrics"] == lineage["figures"]["after"]["metrics"]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_result_that_loses_too_much_is_refused_and_not_stored(
    store: Store, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    before = store.channels(), len(store.list())
    monkeypatch.setattr("recsys.accelerate.job.Comparison.loss", property(lambda self: 0.01))
    code, out, error = ends(
        capsys, "accelerate", "candidate", "--quantise", "int8", *(["--json"] if as_json else [])
    )
    assert code == 1 and "NDCG@10 fell by 0.0100, more than 0.005; nothing was stored" in error
    assert (store.channels(), len(store.list())) == before
    if as_json:
        assert json.loads(out)["digest"] is None
    else:
        assert "NDCG@10 (test)" in out


def test_nothing_to_do_is_wrong_usage(store: Store, capsys: pytest.CaptureFixture) -> None:
    code, _, error = ends(capsys, "accelerate", "candidate")
    assert code == 2 and "give --prune, --quantise or --onnx" in error


def test_an_unknown_model_is_named(store: Store, capsys: pytest.CaptureFixture) -> None:
    code, _, error = ends(capsys, "accelerate", "abcdef123", "--onnx")
    assert code == 1 and "There is no model 'abcdef123'" in error
