from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recsys.artifact import save_model
from recsys.data.interactions import Interactions
from recsys.data.split import leave_one_out
from recsys.finetune import train_local
from recsys.model import SequentialRecommender
from recsys.profile import profile_of
from recsys.recipe import Recipe
from recsys.text import read_catalogue

RECIPE = Recipe(dimension=16, heads=4, blocks=2, length=12, batch_tokens=256, text_buckets=64)


@pytest.fixture(scope="session")
def artifact(shop: Interactions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt something of the shop, texts included."""
    torch.manual_seed(0)
    texts = read_catalogue(shop.item_text, RECIPE.text_buckets)
    model = SequentialRecommender(len(shop.items), RECIPE, texts)
    split = leave_one_out(shop)
    train_local(model, split.train, RECIPE, epochs=4, seed=0)
    folder = tmp_path_factory.mktemp("trained") / "model"
    profile = profile_of(model, shop, split)
    return save_model(folder, model, RECIPE, shop.items, {"NDCG@10": 0.0}, profile=profile)
