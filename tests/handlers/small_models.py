"""A small model of every kind that is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from recsys.artifact import save_model
from recsys.click import ClickRecipe, save_click, train_click
from recsys.model import SequentialRecommender
from recsys.profile import Profile
from recsys.rating import RatingRecipe, save_rating, train_rating
from recsys.recipe import Recipe
from recsys.search.ranker import save_search, train_search
from recsys.search.towers import TowerRecipe

ITEMS = [f"item-{number}" for number in range(40)]
# The first ten items in band 0, the next in band 1 and so on.
PROFILE = Profile(
    np.repeat(np.arange(4, dtype=np.int8), 10),
    {"history": np.eye(10)[0], "recommended": np.eye(10)[1]},
)


def small_recommender(folder: Path) -> Path:
    """A small untrained model: other histories give other scores.

    Item n costs n; of those below 30 every third is in stock, of the others nobody knows. The last
    ten have no category.
    """
    torch.manual_seed(0)
    recipe = Recipe(dimension=16, heads=2, blocks=1, length=8)
    model = SequentialRecommender(len(ITEMS), recipe)
    with torch.no_grad():
        model.item_embedding.weight.normal_()
    attributes = pl.DataFrame(
        {
            "category": [f"c{n % 4}" if n < 30 else None for n in range(40)],
            "price": [float(n) for n in range(40)],
            "stock": [float(n % 3 == 0) if n < 30 else None for n in range(40)],
        }
    )
    return save_model(folder, model, recipe, ITEMS, {}, attributes, PROFILE)


def small_models(folder: Path) -> dict[str, Path]:
    """Models of the other kinds, by name."""
    random = np.random.default_rng(0)
    ratings = pl.DataFrame(
        [(f"u{n % 7}", f"i{n % 5}", float(1 + n % 5)) for n in range(60)],
        schema=["user", "item", "rating"],
        orient="row",
    )
    rating, _ = train_rating(ratings, RatingRecipe(epochs=5))
    item, mobile = random.integers(0, 3, 400), random.integers(0, 2, 400)
    log = pl.DataFrame(
        {
            "item": [f"i{n}" for n in item],
            "position": [str(1 + n % 3) for n in range(400)],
            "mobile": ["true" if flag else "false" for flag in mobile],
            "click": (random.random(400) < 0.2 + 0.3 * mobile * (item == 1)).astype(int),
            "time": np.arange(400.0),
        }
    )
    click, _ = train_click(log, ClickRecipe(features=("mobile",), epochs=5, learning_rate=0.1))
    titles = ["red kettle", "blue kettle", "red hat", "blue hat", "green scarf"]
    catalogue = pl.DataFrame({"item": [f"i{n}" for n in range(5)], "text": titles})
    search = train_search(catalogue, TowerRecipe(dimension=8, buckets=64, epochs=1))
    return {
        "rating": save_rating(folder / "rating", rating, {}),
        "click": save_click(folder / "click", click, {}),
        "search": save_search(folder / "search", search),
    }
