from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recsys.data.catalogue import load_catalogue
from recsys.data.queries import load_judgments
from recsys.search.ranker import SearchModel, train_search
from recsys.search.towers import TowerRecipe


@pytest.fixture(scope="session")
def catalogue(shop_folder: Path) -> pl.DataFrame:
    return load_catalogue(shop_folder)


@pytest.fixture(scope="session")
def judged(shop_folder: Path) -> dict[str, dict[str, float]]:
    return load_judgments(shop_folder).by_query()


@pytest.fixture(scope="session")
def recipe() -> TowerRecipe:
    return TowerRecipe(dimension=16, buckets=2048, epochs=40, batch=32)


@pytest.fixture(scope="session")
def model(catalogue: pl.DataFrame, recipe: TowerRecipe) -> SearchModel:
    return train_search(catalogue, recipe)
