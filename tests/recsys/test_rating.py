from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.ratings import load_ratings
from recsys.errors import RecipeError, RecsysError
from recsys.rating import RatingRecipe, load_rating, save_rating, train_rating

RECIPE = RatingRecipe(dimension=4, epochs=40)


def tastes(*, likes: bool) -> pl.DataFrame:
    """Half of the users love what the other half hates: no bias tells whom."""
    random = np.random.default_rng(0)
    user, item = random.integers(0, 40, 3000), random.integers(0, 30, 3000)
    agree = user % 2 == item % 2
    rating = agree * 1.0 if likes else np.where(agree, 5.0, 1.0)
    return pl.DataFrame({"user": user.astype(str), "item": item.astype(str), "rating": rating})


@pytest.mark.parametrize(("loss", "figure"), [("mse", "RMSE"), ("bce", "log loss")])
def test_embeddings_learn_tastes_that_biases_cannot(loss: str, figure: str) -> None:
    recipe = RatingRecipe(loss=loss, dimension=4, epochs=40)
    model, figures = train_rating(tastes(likes=loss == "bce"), recipe)
    assert figures[figure] < 0.5 * figures[f"bias {figure}"]
    liked, hated = model.predict(["0", "0"], ["2", "3"])
    assert liked > hated and (loss == "mse" or 0 <= hated < liked <= 1)


def test_where_items_are_just_good_or_bad_the_biases_are_not_spoilt(shop_folder: Path) -> None:
    _, figures = train_rating(load_ratings(shop_folder), RECIPE)
    assert figures["bias RMSE"] < figures["mean RMSE"]
    assert figures["RMSE"] < 1.03 * figures["bias RMSE"]


def test_an_unknown_user_and_item_are_rated_as_the_mean() -> None:
    model, _ = train_rating(tastes(likes=False), RECIPE)
    assert model.predict(["nobody"], ["nothing"])[0] == pytest.approx(float(model.mean))


def test_a_stored_model_rates_as_before(tmp_path: Path) -> None:
    model, figures = train_rating(tastes(likes=False), RECIPE)
    folder = save_rating(tmp_path / "model", model, figures)
    pair = ["0", "7", "nobody"], ["1", "2", "3"]
    assert (load_rating(folder).predict(*pair) == model.predict(*pair)).all()
    (folder / "rating.json").write_text("{")
    with pytest.raises(RecsysError, match="damaged"):
        load_rating(folder)
    (folder / "rating.json").unlink()
    with pytest.raises(RecsysError, match="rating.json is missing"):
        load_rating(folder)


def test_unusable_ratings_and_recipes_are_named() -> None:
    with pytest.raises(RecsysError, match="rating 1.0|rating 5.0"):
        train_rating(tastes(likes=False), RatingRecipe(loss="bce"))
    with pytest.raises(RecsysError, match=r"rating \de\+60 of item .* is beyond 1,000,000"):
        train_rating(tastes(likes=False).with_columns(pl.col("rating") * 1e60), RECIPE)
    with pytest.raises(RecsysError, match="3 ratings are too few"):
        train_rating(tastes(likes=False)[:3], RECIPE)
    with pytest.raises(RecipeError, match="loss is 'mae'"):
        RatingRecipe(loss="mae")
