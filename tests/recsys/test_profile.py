"""What is noted of a model's training, to compare with later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.artifact import load_model, save_model
from recsys.data.interactions import Interactions
from recsys.data.split import leave_one_out
from recsys.errors import RecsysError
from recsys.model import SequentialRecommender
from recsys.profile import Profile, popularity_bands, profile_of
from recsys.recipe import Recipe

RECIPE = Recipe(dimension=16, blocks=1, heads=1, length=4)


def test_each_band_has_a_tenth_of_the_events_and_the_first_the_most_popular() -> None:
    # 100 events: one item has 30 of them, and so there is none in bands 1 and 2.
    events = np.array([1, 30, 9, 10, 0, 50])
    assert popularity_bands(events).tolist() == [9, 5, 9, 8, 9, 0]


def test_items_without_any_event_are_in_some_band() -> None:
    assert popularity_bands(np.zeros(3, dtype=np.int64)).tolist() == [0, 0, 0]


def test_a_profile_tells_what_users_had_and_what_they_are_shown(shop: Interactions) -> None:
    torch.manual_seed(0)
    split = leave_one_out(shop)
    model = SequentialRecommender(len(shop.items), RECIPE).eval()
    profile = profile_of(model, shop, split)
    users = np.flatnonzero(split.test_target >= 0)
    had = np.concatenate([shop.of(user)[:-1][-4:] for user in users])
    shown = []
    for user in users:
        history = shop.of(user)[:-1]
        scores = model.scores(model.encode([history]), [history])[0].detach().numpy()
        scores[history] = -np.inf
        shown += np.argsort(-scores)[:10].tolist()
    for what, items in (("history", had), ("recommended", shown)):
        wanted = np.bincount(profile.bands[items], minlength=10) / len(items)
        np.testing.assert_allclose(profile.shares[what], wanted, atol=1e-3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shares = {"history": np.full(10, 0.1), "recommended": np.eye(10)[0]}
    model = SequentialRecommender(3, RECIPE)
    profile = Profile(np.array([0, 9, 3], dtype=np.int8), shares)
    return save_model(tmp_path, model, RECIPE, ["a", "b", "c"], {}, profile=profile)


def test_it_lies_in_the_artefact(folder: Path) -> None:
    profile = load_model(folder).profile
    assert profile.bands.tolist() == [0, 9, 3]
    assert profile.shares["history"].tolist() == [0.1] * 10
    assert profile.shares["recommended"].tolist() == [1.0] + [0.0] * 9


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bands": "09"}, "tells of 2 items, and items.json of 3"),
        ({"bands": "09x"}, "is damaged"),
        ({"bands": [0, 9, 3]}, "is damaged"),
        ({"shares": {"history": [0.1] * 10}}, "is damaged"),
        ({"shares": {"history": [0.1] * 10, "recommended": [float("nan")] * 10}}, "is damaged"),
        ({"shares": {"history": [0.1] * 9, "recommended": [0.1] * 10}}, "is damaged"),
    ],
)
def test_a_damaged_profile_is_named(folder: Path, change: dict, sentence: str) -> None:
    file = folder / "profile.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RecsysError, match=f"profile.json {sentence}.*; get the model again"):
        load_model(folder)
