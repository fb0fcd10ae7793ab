from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from recsys.errors import RecipeError
from recsys.search.documents import documents
from recsys.search.ranker import SearchModel
from recsys.search.towers import TowerRecipe, in_batch_loss, train_towers


def semantic(model: SearchModel, query: str, count: int) -> list[str]:
    """The best items by the dot product alone."""
    best = (model.vectors @ model.query_vector(query)).topk(count).indices.tolist()
    return [model.docs.items[item] for item in best]


def test_a_misspelt_product_is_found_by_its_vector(
    model: SearchModel, catalogue: pl.DataFrame
) -> None:
    titles = dict(zip(catalogue["item"], catalogue["title"], strict=True))
    assert not model.lexical.scores(["headphon"]).any()
    assert all("headphones" in titles[item] for item in semantic(model, "headphon", 1))


def test_queries_and_items_are_unit_vectors_of_one_space(model: SearchModel) -> None:
    assert model.vectors.shape == (len(model.docs.items), 16)
    norms = torch.cat([model.vectors, model.query_vector("tripod")[None]]).norm(dim=1)
    assert norms == pytest.approx(np.ones(len(norms)), abs=1e-5)


def test_the_same_seed_gives_the_same_towers(catalogue: pl.DataFrame) -> None:
    recipe = TowerRecipe(dimension=8, buckets=512, epochs=2, batch=16)
    docs = documents(catalogue)
    first, second = (train_towers(docs, recipe).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_item_that_fits_the_query_as_well_is_no_negative() -> None:
    same = torch.ones(2, 4) / 2
    apart = in_batch_loss(same, same, torch.eye(2, dtype=torch.bool), 0.1)
    fitting = in_batch_loss(same, same, torch.ones(2, 2, dtype=torch.bool), 0.1)
    assert apart.item() == pytest.approx(np.log(2)) and fitting.item() == 0


def test_an_unusable_recipe_is_named() -> None:
    with pytest.raises(RecipeError, match="keep is 0; it must be in"):
        TowerRecipe(keep=0)
