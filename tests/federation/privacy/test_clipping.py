from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from federation.privacy.clipping import clipped_sum, loss_scale, user_windows
from recsys.model import SequentialRecommender
from recsys.neighbours import neighbours
from recsys.objectives import NextItem
from recsys.packing import pack
from recsys.recipe import Recipe
from tests.federation.conftest import ITEMS, walks

RECIPE = Recipe(dimension=8, blocks=1, heads=2, length=6, dropout=0.0, horizon=1, loss="softmax")


@pytest.fixture(scope="module")
def case() -> SimpleNamespace:
    interactions = walks(12, seed=3)
    torch.manual_seed(1)
    model = SequentialRecommender(len(ITEMS), RECIPE, neighbours=neighbours(interactions)).eval()
    with torch.no_grad():
        model._seen_bias.fill_(0.02)
    windows = user_windows(interactions, RECIPE.length)
    return SimpleNamespace(model=model, interactions=interactions, windows=windows)


def reference(case: SimpleNamespace, user: int) -> tuple[dict[str, torch.Tensor], float]:
    """One user's gradient by the training objective and plain autograd."""
    objective = NextItem(case.interactions, RECIPE)
    table = case.model.input_table().detach().requires_grad_()
    bias = case.model.seen_bias.detach().requires_grad_()

    class Model:
        """The model, with its items' vectors and its bias as variables of their own."""

        items, device = case.model.items, case.model.device
        seen_bias = bias

        def input_table(self, wanted=None):
            return table

        def __call__(self, packed, table):
            return case.model(packed, table=table)

    packed, places = pack(case.windows, np.array([user]))
    case.model.zero_grad()
    loss, _ = objective(Model(), packed, places, np.random.default_rng(0))
    loss.backward()
    parts = {"table": table.grad, "bias": bias.grad}
    for name, parameter in case.model.named_parameters():
        if parameter.grad is not None:
            parts[name] = parameter.grad.clone()
    case.model.zero_grad()
    return parts, loss.item()


def parts_of(total) -> dict[str, torch.Tensor]:
    return {"table": total.table, "bias": total.bias, **total.others}


def test_without_a_bound_the_sum_is_that_of_plain_gradients(case):
    users = np.arange(len(case.windows.lengths))
    found = parts_of(clipped_sum(case.model, case.windows, users, clip=1e4))
    expected = [reference(case, user)[0] for user in users]
    for name, part in found.items():
        wanted = sum(parts[name] for parts in expected)
        torch.testing.assert_close(part, wanted, rtol=1e-3, atol=1e-5)


def test_each_user_counts_as_much_as_its_norm_allows(case):
    users = np.arange(len(case.windows.lengths))
    clip = 0.5
    wanted = {name: 0.0 for name in parts_of(clipped_sum(case.model, case.windows, users[:0], 1))}
    wanted_loss = 0.0
    scaled_down = 0
    for user in users:
        parts, loss = reference(case, user)
        norm = sum(part.square().sum().item() for part in parts.values()) ** 0.5
        factor = min(1.0, clip * math.sqrt(1 - 0.1**2) * (1 - 1e-4) / norm)
        scaled_down += factor < 1
        for name in wanted:
            wanted[name] = wanted[name] + factor * parts[name]
        wanted_loss += loss * loss_scale(clip, len(ITEMS))
    assert scaled_down
    total = clipped_sum(case.model, case.windows, users, clip)
    for name, part in parts_of(total).items():
        torch.testing.assert_close(part, wanted[name], rtol=1e-3, atol=1e-5)
    assert total.loss.item() == pytest.approx(wanted_loss, rel=1e-3)


@pytest.mark.parametrize("clip", [0.01, 0.3])
def test_one_user_moves_the_sum_by_no_more_than_the_bound(case, clip):
    users = np.arange(len(case.windows.lengths))
    whole = clipped_sum(case.model, case.windows, users, clip)
    for left_out in users[:4]:
        rest = clipped_sum(case.model, case.windows, users[users != left_out], clip)
        squares = (whole.loss - rest.loss).square()
        for name, part in parts_of(whole).items():
            squares = squares + (part - parts_of(rest)[name]).square().sum()
        assert squares.sqrt() <= clip * 1.0001


def test_a_user_is_one_window_of_the_latest_events():
    interactions = walks(30, seed=5)
    windows = user_windows(interactions, length=4)
    assert len(windows.lengths) == 30
    ends = windows.starts + windows.lengths + 1
    assert set(ends) == set(interactions.offsets[1:])
    assert windows.lengths.max() == 4


def test_a_user_whose_loss_overflows_spoils_no_sum(case):
    broken = SequentialRecommender(len(ITEMS), RECIPE).eval()
    with torch.no_grad():
        broken.item_embedding.weight[7] = torch.inf
    total = clipped_sum(broken, case.windows, np.arange(4), 1.0)
    assert all(torch.isfinite(part).all() for part in parts_of(total).values())


def test_nobody_adds_nothing(case):
    total = clipped_sum(case.model, case.windows, np.empty(0, np.int64), 1.0)
    assert not total.table.any() and not total.loss
