"""What is noted of the training of models of ratings, clicks and search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.click import ClickRecipe, train_click
from recsys.errors import RecsysError
from recsys.rating import RatingRecipe, split_ratings, train_rating
from recsys.search.ranker import train_search
from recsys.search.towers import TowerRecipe
from recsys.spread import Spread, contexts, read_spread, spread_of, tenths, write_spread
from recsys.spreads import click_spread, rating_spread, search_spread

SPREAD = Spread(
    {"items": np.array([0, 9, 3], dtype=np.int8)},
    {"predicted": np.array([0.5])},
    {"items": np.eye(11)[0], "predicted": np.array([0.25, 0.75])},
)


def test_ids_fall_into_bands_or_are_unknown_and_numbers_fall_between_bounds() -> None:
    assert SPREAD.counts("items", np.array([1, 1, 0, -1])).tolist() == [1] + [0] * 8 + [2, 1]
    assert SPREAD.names("items")[-2:] == ["9", "unknown"]
    assert SPREAD.counts("predicted", np.array([0.1, 0.5, 0.9])).tolist() == [1, 2]
    seen = {"items": np.array([0, 2, 2, -1]), "predicted": np.array([0.1, 0.9])}
    made = spread_of(SPREAD.bands, SPREAD.edges, seen)
    assert made.shares["items"].tolist() == [0.25, 0, 0, 0.5, 0, 0, 0, 0, 0, 0, 0.25]
    assert made.shares["predicted"].tolist() == [0.5, 0.5]


def test_tenths_hold_a_tenth_each_and_equal_numbers_make_fewer() -> None:
    values = np.arange(1000.0)
    spread = spread_of({}, {"p": tenths(values)}, {"p": values})
    np.testing.assert_allclose(spread.shares["p"], 0.1)
    assert len(tenths(np.ones(50))) == 1


def test_a_rating_model_notes_who_rates_what_and_how() -> None:
    random = np.random.default_rng(0)
    users = random.integers(0, 20, 600)
    # Item 0 has half of the ratings.
    items = np.where(random.random(600) < 0.5, 0, random.integers(1, 30, 600))
    stars = 1.0 + (users + items) % 5
    frame = pl.DataFrame({"user": users.astype(str), "item": items.astype(str), "rating": stars})
    model, _ = train_rating(frame, RatingRecipe(epochs=3, dimension=2))
    spread = rating_spread(model, frame)
    test = split_ratings(frame, 0)[2]
    assert spread.bands["items"][model.item_index["0"] - 1] == 0
    share = (test["item"] == "0").mean()
    assert spread.shares["items"][0] == pytest.approx(share)
    assert spread.shares["predicted"].sum() == pytest.approx(1)
    # A bin has a tenth of the 60 predictions, give or take equal ones.
    assert spread.shares["predicted"].max() < 0.2


def test_a_click_model_notes_what_is_shown_to_whom_and_predicts_for_one_position() -> None:
    random = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "item": [f"i{n}" for n in random.integers(0, 4, 400)],
            "position": [str(1 + n % 3) for n in range(400)],
            "app/version": ["old"] * 300 + ["new"] * 100,
            "click": (random.random(400) < 0.3).astype(int),
            "time": np.arange(400.0),
        }
    )
    model, _ = train_click(log, ClickRecipe(features=("app/version",), epochs=2))
    spread = click_spread(model, log)
    # The newest part has only versions that were never trained on.
    assert contexts(["app/version"]) == {"app/version": "context_1_app_version"}
    assert spread.shares["context_1_app_version"][-1] == 1
    assert spread.shares["items"][-1] == 0
    moved = log.with_columns(pl.lit("3").alias("position"))
    assert click_spread(model, moved).shares["predicted"].tolist() == (
        spread.shares["predicted"].tolist()
    )


def test_a_search_model_notes_words_lengths_and_scores_of_queries_that_people_typed() -> None:
    titles = ["red kettle", "blue kettle", "red hat", "blue hat", "green scarf"]
    catalogue = pl.DataFrame({"item": [f"i{n}" for n in range(5)], "text": titles})
    model = train_search(catalogue, TowerRecipe(dimension=8, buckets=64, epochs=1))
    assert search_spread(model, []) is None
    spread = search_spread(model, ["red kettle", "kettle", "wool", "?"])
    # One of four words is in no title; two of three queries are of one word.
    assert spread.shares["words"][-1] == 0.25
    assert spread.shares["query_words"].tolist() == [2 / 3, 1 / 3, 0, 0, 0]
    assert spread.shares["scores"].sum() == pytest.approx(1)


def test_it_lies_in_the_artefact(tmp_path: Path) -> None:
    assert read_spread(tmp_path, {"items": 3}) is None
    write_spread(tmp_path, SPREAD)
    read = read_spread(tmp_path, {"items": 3})
    assert read.bands["items"].tolist() == [0, 9, 3]
    assert read.shares["predicted"].tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bands": {"items": "09"}}, "tells of {'items': 2}, and the model knows {'items': 3}"),
        ({"bands": {"items": "09x"}}, "is damaged"),
        ({"bands": {}}, "is damaged"),
        ({"edges": {"predicted": [0.5, 0.1]}}, "is damaged"),
        ({"edges": {"predicted": [0.1, 0.5]}}, "is damaged"),
        ({"shares": {"items": [0.1] * 11, "predicted": [float("nan"), 1]}}, "is damaged"),
        ({"shares": []}, "is damaged"),
    ],
)
def test_a_damaged_one_is_named(tmp_path: Path, change: dict, sentence: str) -> None:
    write_spread(tmp_path, SPREAD)
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RecsysError, match=f"profile.json {sentence}"):
        read_spread(tmp_path, {"items": 3})
