"""hybrid deploy --edge, as a user sees it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import httpx
import pytest
import torch

from cli.edge import running
from cli.environment import Environment
from cli.learning import environment_store, store_model
from recsys.artifact import save_model
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from stacks.settings import SHIPPED
from tests.cli.ended import ends


TOWER = """
tower:
  shares: vector
  cloud: http://127.0.0.1:9
  clip: 2
  noise: 0.5
  most_vectors: 4
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A stored model, to which `candidate` points, where vectors may go to a port of nobody."""
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    settings = tmp_path / "home" / "environments" / "local.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text((SHIPPED / "local.yaml").read_text() + TOWER)
    environment = Environment.load("local", tmp_path / "home")
    torch.manual_seed(0)
    recipe = Recipe(dimension=8, heads=2, blocks=1, length=4)
    made = SequentialRecommender(20, recipe)
    folder = save_model(tmp_path / "made", made, recipe, [f"i{n}" for n in range(20)], {})
    digest = store_model(environment, folder, {"made_by": "train", "metrics": {}})
    environment_store(environment).move_channel("candidate", digest, expected=None)
    return digest


def test_a_bundle_is_written_tried_and_told(model: str, tmp_path: Path, capsys) -> None:
    file = tmp_path / "new" / "shop.pyz"
    code, text, error = ends(capsys, "deploy", "--edge", str(file), "--json")
    assert code == 0, error
    told = json.loads(text)
    assert told["model"] == model and told["requests"] == 5
    assert told["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [path.name for path in file.parent.iterdir()] == ["shop.pyz"]
    policy = json.loads(zipfile.Path(file, "policy.json").read_text())
    assert policy == {
        "shares": "vector", "cloud": "http://127.0.0.1:9", "clip": 2, "noise": 0.5,
        "most_vectors": 4,
    }  # fmt: skip
    # Four vectors with noise 0.5 give away what one with 0.25 does: see docs/privacy.md.
    assert told["vectors"] == 4 and 75.5 < told["epsilon"] < 76.5
    events = json.loads(zipfile.Path(file, "events.json").read_text())
    _, keys, _ = ends(capsys, "events", "key")
    assert events == {"credential": "token", "keys": keys.split()}
    with running(file, "--ledger", str(tmp_path / "ledger")) as address:
        answer = httpx.post(f"{address}/predictions/recommend", json={"history": ["i3"]})
    assert answer.json()["model"] == model and len(answer.json()["items"]) == 10


def test_a_bundle_that_does_not_start_is_not_written(
    model: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "shop.pyz"
    file.write_text("the one before")
    monkeypatch.setattr("cli.edge.HIDDEN", ("numpy",))
    code, _, error = ends(capsys, "deploy", model[7:15], "--edge", str(file))
    assert code == 1 and "does not start: " in error and "numpy" in error
    assert file.read_text() == "the one before"
    assert not list(tmp_path.glob(".edge-*"))


def test_wrong_usage_is_told(model: str, tmp_path: Path, capsys) -> None:
    file = str(tmp_path / "shop.pyz")
    code, _, error = ends(capsys, "deploy", "--edge", file, "--rollback")
    assert code == 2 and "--rollback and --edge exclude each other" in error
    (tmp_path / "taken").write_text("")
    code, _, error = ends(capsys, "deploy", "--edge", str(tmp_path / "taken" / "shop.pyz"))
    assert code == 1 and "cannot be written (" in error
