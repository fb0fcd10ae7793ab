"""Attacks on what leaves a site: they succeed on plain training and fail on private training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from federation.keystream import Keystream
from federation.privacy.accounting import Release, noise_for
from federation.privacy.training import Privacy, train_private
from federation.updates import difference
from recsys.data.interactions import Interactions
from recsys.finetune import train_local
from recsys.model import SequentialRecommender
from recsys.objectives import NextItem
from recsys.packing import pack
from recsys.recipe import Recipe

KEY = bytes(range(32))


def shop(users: int, items: int, events: int, seed: int) -> Interactions:
    """Users with nothing in common: what a model knows of one, it has from that one alone."""
    generator = np.random.default_rng(seed)
    return Interactions(
        users=[f"{seed}-{user}" for user in range(users)],
        items=[str(item) for item in range(items)],
        offsets=np.arange(users + 1) * events,
        sequence=generator.integers(0, items, users * events).astype(np.int32),
    )


def private(epochs: int, epsilon: float) -> Privacy:
    """Privacy of one round within ε at δ = 1e-6."""
    steps = Privacy(clip=1.0, noise=1.0).steps(epochs)
    return Privacy(1.0, noise_for(epsilon, 1e-6, sampling=0.1, steps=steps))


class TestMembership:
    """Loss-threshold attack (Yeom et al., 2018): a user with a low loss was in the training."""

    RECIPE = Recipe(
        dimension=16, heads=1, length=8, dropout=0.0, loss="softmax", horizon=1,
        learning_rate=0.02, text_buckets=0,
    )  # fmt: skip
    MEMBERS, OTHERS = shop(40, 200, 6, seed=1), shop(40, 200, 6, seed=2)

    def success(self, model: SequentialRecommender) -> float:
        """Chance that a member has a lower loss than somebody else (AUC); 0.5 is guessing."""
        members, others = (self.losses(model, users) for users in (self.MEMBERS, self.OTHERS))
        return mannwhitneyu(others, members).statistic / (len(others) * len(members))

    def losses(self, model: SequentialRecommender, users: Interactions) -> list[float]:
        objective = NextItem(users, self.RECIPE)
        generator = np.random.default_rng(0)
        with torch.no_grad():
            return [
                objective(model.eval(), *pack(objective.windows, np.array([user])), generator)[0]
                .item()
                for user in range(len(users.users))
            ]  # fmt: skip

    @pytest.fixture
    def model(self) -> SequentialRecommender:
        torch.manual_seed(0)
        return SequentialRecommender(200, self.RECIPE)

    def test_plain_training_betrays_its_members(self, model):
        assert 0.3 < self.success(model) < 0.7
        train_local(model, self.MEMBERS, self.RECIPE, epochs=40, seed=0)
        assert self.success(model) > 0.95

    def test_private_training_does_not(self, model):
        source = Keystream(KEY, "membership")
        privacy = private(epochs=4, epsilon=2.0)
        train_private(model, self.MEMBERS, self.RECIPE, privacy, source, epochs=4)
        assert self.success(model) < 0.65


class TestInversion:
    """Which items a site's only user had, from the rows of the item table that changed most."""

    RECIPE = Recipe(
        dimension=16, heads=1, length=10, dropout=0.0, loss="sampled", negatives=16, horizon=1,
        weight_decay=0.0, text_buckets=0,
    )  # fmt: skip
    USER = shop(1, 2000, 10, seed=3)

    def recovered(self, before: SequentialRecommender, after: SequentialRecommender) -> float:
        """Share of the user's items among the 30 rows that moved most."""
        weights = [
            {name: tensor.numpy() for name, tensor in model.state_dict().items()}
            for model in (after, before)
        ]
        moved = np.linalg.norm(difference(*weights)["item_embedding.weight"], axis=1)
        had = np.unique(self.USER.sequence)
        return np.isin(had, np.argsort(-moved)[:30]).mean()

    @pytest.fixture
    def before(self) -> SequentialRecommender:
        torch.manual_seed(0)
        return SequentialRecommender(2000, self.RECIPE)

    def test_a_raw_update_betrays_the_items(self, before):
        after = copy.deepcopy(before)
        train_local(after, self.USER, self.RECIPE, epochs=1, seed=0)
        assert self.recovered(before, after) == 1.0

    def test_a_private_update_does_not(self, before):
        after = copy.deepcopy(before)
        source = Keystream(KEY, "inversion")
        privacy = private(epochs=1, epsilon=8.0)
        train_private(after, self.USER, self.RECIPE, privacy, source, epochs=1)
        assert self.recovered(before, after) < 0.2
