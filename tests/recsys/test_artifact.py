from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recsys.artifact import load_model, save_model
from recsys.errors import RecsysError
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from recsys.text import hash_texts

RECIPE = Recipe(dimension=16, blocks=1, heads=1)
ITEMS = ["a", "b", "ç"]


@pytest.fixture
def model() -> SequentialRecommender:
    return SequentialRecommender(3, RECIPE)


@pytest.fixture
def folder(tmp_path: Path, model: SequentialRecommender) -> Path:
    return save_model(tmp_path / "artifact", model, RECIPE, ITEMS, {"NDCG@10": 0.5})


def test_a_saved_model_answers_as_before(folder: Path, model: SequentialRecommender) -> None:
    loaded = load_model(folder)
    assert (loaded.recipe, loaded.items, loaded.metrics) == (RECIPE, ITEMS, {"NDCG@10": 0.5})
    assert not loaded.model.training
    expected = model.eval().encode([[0, 2]])
    assert torch.equal(loaded.model.encode([[0, 2]]), expected)


def test_equal_models_are_equal_bytes(
    folder: Path, model: SequentialRecommender, tmp_path: Path
) -> None:
    again = save_model(tmp_path / "again", model, RECIPE, ITEMS, {"NDCG@10": 0.5})
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert files == {file.name: file.read_bytes() for file in again.iterdir()}
    assert set(files) == {"weights.safetensors", "recipe.json", "items.json", "metrics.json"}


def test_a_model_of_texts_needs_no_texts_to_answer_as_before(tmp_path: Path) -> None:
    texts = hash_texts(["red kettle", "", "blue kettle"], RECIPE.text_buckets)
    model = SequentialRecommender(3, RECIPE, texts).eval()
    folder = save_model(tmp_path / "artifact", model, RECIPE, ITEMS, {})
    loaded = load_model(folder).model
    assert torch.equal(loaded.scores(loaded.encode([[0, 2]])), model.scores(model.encode([[0, 2]])))
    assert torch.equal(loaded.text_tower(), model.text_tower())
    again = save_model(tmp_path / "again", loaded, RECIPE, ITEMS, {})
    assert all(f.read_bytes() == (folder / f.name).read_bytes() for f in again.iterdir())
    (folder / "items.json").write_text('["a", "b"]')
    with pytest.raises(RecsysError, match="does not fit recipe.json and the 2 ids"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("weights.safetensors", None, "weights.safetensors is missing"),
        ("weights.safetensors", b"\x00" * 40, "weights.safetensors is damaged"),
        ("items.json", None, "items.json is missing"),
        ("items.json", b'["a", "b"]', "does not fit recipe.json and the 2 ids"),
        ("items.json", b'{"a": 1}', "items.json is damaged"),
        ("recipe.json", b"{", "recipe.json is damaged"),
        ("recipe.json", json.dumps(RECIPE.to_dict() | {"dimension": 32}).encode(), "does not fit"),
    ],
)
def test_a_damaged_artefact_is_refused_by_name(
    folder: Path, name: str, content: bytes | None, sentence: str
) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(RecsysError, match=sentence):
        load_model(folder)
