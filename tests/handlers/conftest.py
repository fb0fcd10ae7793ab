from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recsys.artifact import save_model
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe

ITEMS = [f"item-{number}" for number in range(40)]


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model: other histories give other scores."""
    torch.manual_seed(0)
    recipe = Recipe(dimension=16, heads=2, blocks=1, length=8)
    model = SequentialRecommender(len(ITEMS), recipe)
    with torch.no_grad():
        model.item_embedding.weight.normal_()
    return save_model(tmp_path_factory.mktemp("artifact"), model, recipe, ITEMS, {})
