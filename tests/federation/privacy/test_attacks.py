"""Attacks on what leaves a site: they succeed on plain training and fail on private training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from federation.keystream import Keystream, derive
from federation.privacy.accounting import Release, noise_for
from federation.privacy.training import Privacy, train_private
from federation.secure.aggregation import Member, Session, conceal, keys_of
from federation.secure.vectors import BOUND, layout
from federation.updates import Delta, Weights, difference
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


def user_of(history: Sequence[int], items: int) -> Interactions:
    """A shop of `items` with a single user."""
    bounds, sequence = np.array([0, len(history)]), np.array(history, np.int32)
    return Interactions(["user"], [str(item) for item in range(items)], bounds, sequence)


def weights_of(model: SequentialRecommender) -> Weights:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


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


class TestTouchedRows:
    """Which items a site's only user had, from the rows of the item table that changed most."""

    RECIPE = Recipe(
        dimension=16, heads=1, length=10, dropout=0.0, loss="sampled", negatives=16, horizon=1,
        weight_decay=0.0, text_buckets=0,
    )  # fmt: skip
    USER = shop(1, 2000, 10, seed=3)

    def recovered(self, before: SequentialRecommender, after: SequentialRecommender) -> float:
        """Share of the user's items among the 30 rows that moved most."""
        update = difference(weights_of(after), weights_of(before))
        moved = np.linalg.norm(update["item_embedding.weight"], axis=1)
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


@dataclass
class Inversion:
    """Gradient matching (Zhu et al., 2019, "Deep leakage from gradients"), items in place of pixels.

    The server repeats a site's local step on made-up histories, and changes these until their
    update is the one that it got. It needs the model, the recipe and the seed of the dropout, all
    of which it sent itself. AdamW's first step tells hardly more than the signs of a gradient.
    """

    before: SequentialRecommender
    recipe: Recipe

    def update(self, history: Sequence[int]) -> Delta:
        """What a site sends whose only user has this history."""
        after = copy.deepcopy(self.before)
        train_local(after, user_of(history, after.items), self.recipe, epochs=1, seed=7)
        return difference(weights_of(after), weights_of(self.before))

    def suspects(self, update: Delta, count: int) -> list[int]:
        """Items whose vectors went another way where those of the many, never had, went together."""
        ways = np.sign(update["item_embedding.weight"][: self.before.items])
        against = -(ways * ways.mean(0)).min(1)
        return np.argsort(-against, kind="stable")[:count].tolist()

    def history(self, update: Delta, suspects: Sequence[int], length: int) -> list[int]:
        """The history of the nearest update that one exchange at a time leads to."""

        def near(guess: list[int]) -> float:
            made = self.update(guess)
            names = sorted(made.keys() & update.keys())
            ours, theirs = (
                np.concatenate([delta[name].ravel() for name in names]) for delta in (made, update)
            )
            return ours @ theirs / np.linalg.norm(ours)

        guess, last = list(suspects[:length]), None
        while guess != last:
            last = guess
            for place in range(length):
                guess = max((exchanged(guess, place, item) for item in suspects), key=near)
        return guess


def exchanged(history: list[int], place: int, item: int) -> list[int]:
    """A history with an item at a place, and what was there where the item was, if it was."""
    other = {item: history[place], history[place]: item}
    return [other.get(each, each) for each in history]


class TestInversion:
    """A history in its order, from the update of one local step on it."""

    # The loss, horizon and dropout of the default recipe; and what private training does, which
    # who attacks that must repeat.
    RECIPE = Recipe(dimension=16, heads=1, length=10, text_buckets=0)
    STEADY = replace(RECIPE, dropout=0.0, horizon=1)
    HISTORIES = [
        np.random.default_rng(seed).choice(300, 6, replace=False).tolist() for seed in range(3)
    ]

    def attack(self, recipe: Recipe) -> Inversion:
        torch.manual_seed(0)
        return Inversion(SequentialRecommender(300, recipe), recipe)

    def private_update(self, history: list[int], noise: float) -> Delta:
        attack = self.attack(self.STEADY)
        after = copy.deepcopy(attack.before)
        source, privacy = Keystream(KEY, f"{history}"), Privacy(1.0, noise, sampling=1.0)
        train_private(after, user_of(history, 300), self.STEADY, privacy, source, epochs=1)
        return difference(weights_of(after), weights_of(attack.before))

    def summed_update(self, history: list[int], *, masked: bool) -> Delta:
        """What the server has of one of two sites in a secure sum, read as if nothing covered it."""
        attack = self.attack(self.STEADY)
        form = layout(weights_of(attack.before), share=1, seed=0, number=1, bound=BOUND)
        vector = form.encode(attack.update(history), 0.5)
        if masked:
            session = Session(f"{history}", ("north", "south"), form.size)
            members = [Member(session, site, derive(KEY, site)) for site in session.sites]
            keys = {member.site: keys_of(member) for member in members}
            vector = conceal(members[0], keys, session.sites, vector)
        return form.decode(vector, 0.5)

    def in_place(self, updates: list[Delta]) -> float:
        """Share of the events found at their place by who is told which items they are of."""
        attack = self.attack(self.STEADY)
        found = [
            attack.history(update, sorted(history), len(history))
            for history, update in zip(self.HISTORIES, updates, strict=False)
        ]
        return np.mean([np.equal(*pair) for pair in zip(found, self.HISTORIES, strict=False)])

    @pytest.mark.parametrize("history", HISTORIES)
    def test_a_plain_update_betrays_the_whole_history(self, history):
        attack = self.attack(self.RECIPE)
        update = attack.update(history)
        length = 1 + int(update["position_embedding.weight"].any(axis=1).sum())
        assert attack.history(update, attack.suspects(update, 12), length) == history

    def test_a_private_update_does_not_even_betray_the_order_of_known_items(self):
        # Clipping alone hides nothing.
        assert self.in_place([self.private_update(self.HISTORIES[0], noise=1e-6)]) == 1.0
        noise = noise_for(8.0, 1e-6, sampling=1.0, steps=1)
        updates = [self.private_update(history, noise) for history in self.HISTORIES]
        assert self.in_place(updates) < 0.35  # a guess: 1/6

    def test_nor_does_a_masked_one(self):
        # In whole numbers, but bare.
        assert self.in_place([self.summed_update(self.HISTORIES[0], masked=False)]) == 1.0
        updates = [self.summed_update(history, masked=True) for history in self.HISTORIES]
        assert self.in_place(updates) < 0.35
