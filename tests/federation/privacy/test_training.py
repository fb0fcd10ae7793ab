from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from federation.errors import FederationError
from federation.keystream import Keystream
from federation.privacy import training
from federation.privacy.training import Privacy, train_private
from recsys.data.interactions import Interactions
from recsys.data.split import leave_one_out
from recsys.evaluate import evaluate
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from tests.federation.conftest import ITEMS, walks

RECIPE = Recipe(dimension=8, heads=1, length=8, dropout=0.0, learning_rate=0.02)
KEY = bytes(32)


def untrained() -> SequentialRecommender:
    torch.manual_seed(0)
    return SequentialRecommender(len(ITEMS), RECIPE)


def test_it_learns_and_tells_its_loss_where_there_are_users_enough():
    shop = walks(400, seed=1)
    split = leave_one_out(shop)
    model = untrained()
    privacy = Privacy(clip=1.0, noise=0.7, sampling=0.2)
    loss = train_private(
        model, split.train, RECIPE, privacy, Keystream(KEY, "a"), epochs=8
    )
    assert 0 < loss < math.log(len(ITEMS))
    before = evaluate(untrained(), shop, split, part="validation")["NDCG@10"]
    assert evaluate(model, shop, split, part="validation")["NDCG@10"] > 2 * before


def test_the_key_decides_the_result_so_that_a_repeated_round_has_the_same_bytes():
    privacy = Privacy(clip=1.0, noise=1.0, sampling=0.5)

    def trained(purpose: str) -> np.ndarray:
        model = untrained()
        source = Keystream(KEY, purpose)
        train_private(model, walks(20, seed=2), RECIPE, privacy, source, epochs=1)
        return model.item_embedding.weight.detach().numpy()

    first = trained("round 1")
    assert first.tobytes() == trained("round 1").tobytes()
    assert (first != trained("round 2")).any()


def test_every_number_that_is_used_had_noise_added(monkeypatch):
    covered = []

    def noted(values, deviation, source):
        covered.append(values.size)
        assert deviation == pytest.approx(0.3 * 2.0)
        return np.zeros(values.shape)

    monkeypatch.setattr(training, "add_noise", noted)
    model = untrained()
    train_private(
        model, walks(20, seed=2), RECIPE, Privacy(0.3, 2.0, 1.0), Keystream(KEY, "a"), epochs=1
    )
    # Every parameter, and the loss.
    assert sum(covered) == sum(weight.numel() for weight in model.parameters()) + 1


def test_data_without_a_next_item_are_refused():
    lone = Interactions(["u"], ITEMS, np.array([0, 1]), np.array([3], np.int32))
    with pytest.raises(FederationError, match="No user here has two training events"):
        train_private(
            untrained(), lone, RECIPE, Privacy(1.0, 1.0), Keystream(KEY, "a"), epochs=1
        )
