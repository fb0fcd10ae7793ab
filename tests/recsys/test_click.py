from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.click import (
    ClickRecipe,
    click_metrics,
    load_click,
    save_click,
    split_log,
    train_click,
)
from recsys.errors import RecipeError, RecsysError


def log(impressions: int = 6000) -> pl.DataFrame:
    """Position 0 is clicked most; item a pleases young users and item b the others."""
    random = np.random.default_rng(0)
    item, position = random.choice(["a", "b"], impressions), random.integers(0, 3, impressions)
    age = random.choice(["young", "old"], impressions)
    fits = (item == "a") == (age == "young")
    chance = np.where(fits, 0.3, 0.05) / (1 + position)
    return pl.DataFrame(
        {
            "time": np.arange(impressions, dtype=float),
            "item": item,
            "position": position,
            "click": (random.random(impressions) < chance).astype(int),
            "age": age,
        }
    )


def shown(item: str, age: str, position: int) -> pl.DataFrame:
    return pl.DataFrame({"item": [item], "age": [age], "position": [position]})


RECIPE = ClickRecipe(features=("age",), epochs=15)


def test_interactions_and_positions_are_learnt() -> None:
    model, figures = train_click(log(), RECIPE)
    _, linear = train_click(log(), ClickRecipe(features=("age",), epochs=15, dimension=0))
    assert figures["log loss"] < linear["log loss"] < figures["constant log loss"]
    assert figures["calibration error"] < 0.03
    top, low = (model.predict(shown("a", "young", position))[0] for position in (0, 2))
    assert top > low
    assert model.predict(shown("a", "young", 1))[0] > model.predict(shown("b", "young", 1))[0]
    assert model.predict(shown("a", "old", 1))[0] < model.predict(shown("b", "old", 1))[0]


def test_an_unseen_item_is_judged_by_the_rest_of_its_features() -> None:
    model, _ = train_click(log(), RECIPE)
    chance = model.predict(shown("new", "old", 0))[0]
    assert 0 < chance < 1 and chance > model.predict(shown("new", "old", 2))[0]


def test_the_test_part_is_the_newest() -> None:
    train, validation, test = split_log(log(200).reverse())
    assert train["time"].max() < validation["time"].min() < test["time"].min()
    assert len(train) + len(validation) + len(test) == 200


def test_calibration_is_the_gap_between_what_was_said_and_seen() -> None:
    clicks = np.array([1, 0, 0, 0] * 25)
    assert click_metrics(clicks, np.full(100, 0.75), 0.25)["calibration error"] >= 0.5
    assert click_metrics(clicks, clicks.astype(float), 0.25)["calibration error"] == 0


def test_a_stored_model_predicts_as_before(tmp_path: Path) -> None:
    model, figures = train_click(log(), RECIPE)
    folder = save_click(tmp_path / "model", model, figures)
    assert (load_click(folder).predict(log()) == model.predict(log())).all()
    (folder / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(RecsysError, match="damaged"):
        load_click(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(RecsysError, match="weights.safetensors is missing"):
        load_click(folder)


def test_logs_that_teach_nothing_are_named() -> None:
    with pytest.raises(RecsysError, match="too few"):
        train_click(log(50), RECIPE)
    with pytest.raises(RecsysError, match="0 were clicked"):
        train_click(log().with_columns(click=pl.lit(0)), RECIPE)
    with pytest.raises(RecsysError, match="no column 'sex'"):
        train_click(log(), ClickRecipe(features=("sex",)))
    with pytest.raises(RecipeError, match="batch is 0"):
        ClickRecipe(batch=0)
