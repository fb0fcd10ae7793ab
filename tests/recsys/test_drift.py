from __future__ import annotations

import pytest
import torch

from recsys.data.interactions import Interactions
from recsys.data.split import leave_one_out
from recsys.drift import ControlVariates
from recsys.finetune import train_local
from recsys.loop import weights_of
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe

RECIPE = Recipe(dimension=16, blocks=1, heads=1)
RATE, STEPS = 0.5, 3


def fresh(shop: Interactions) -> SequentialRecommender:
    torch.manual_seed(0)
    return SequentialRecommender(len(shop.items), RECIPE)


def test_with_plain_descent_the_new_variate_is_that_of_option_2(shop: Interactions) -> None:
    model = fresh(shop)
    name, weight = "item_embedding.weight", model.item_embedding.weight
    generator = torch.Generator().manual_seed(1)
    server = {name: torch.randn(weight.shape, generator=generator)}
    own = {name: torch.randn(weight.shape, generator=generator)}
    target = torch.randn(weight.shape, generator=generator)
    control = ControlVariates(server, own)
    optimizer = torch.optim.SGD([weight], lr=RATE)
    x = weight.detach().clone()
    for _ in range(STEPS):
        optimizer.zero_grad()
        (0.5 * (weight - target).square().sum()).backward()
        control.correct(model)
        optimizer.step()
    y = weight.detach()
    for row, column in [(0, 0), (3, 7), (59, 15)]:
        # The same steps for one number, then option II of the paper.
        c, c_i, b = (t[name][row, column].item() for t in (server, own, {name: target}))
        z = x[row, column].item()
        for _ in range(STEPS):
            z -= RATE * (z - b + c - c_i)
        assert y[row, column].item() == pytest.approx(z, rel=1e-4)
        expected = c_i - c + (x[row, column].item() - z) / (STEPS * RATE)
        assert control.renewed()[name][row, column].item() == pytest.approx(expected, rel=1e-3)


def test_equal_variates_change_nothing_and_others_do(shop: Interactions) -> None:
    events = leave_one_out(shop).train
    first = ControlVariates({}, {})
    plain, noted, same, drawn = (fresh(shop) for _ in range(4))
    train_local(plain, events, RECIPE, epochs=1, seed=0)
    train_local(noted, events, RECIPE, epochs=1, seed=0, control=first)
    variate = first.renewed()
    assert all(torch.isfinite(value).all() for value in variate.values())
    zero = {name: torch.zeros_like(value) for name, value in variate.items()}
    train_local(same, events, RECIPE, epochs=1, seed=0, control=ControlVariates(zero, zero))
    train_local(drawn, events, RECIPE, epochs=1, seed=0, control=ControlVariates(variate, zero))
    weights = [weights_of(model)["norm.weight"] for model in (plain, noted, same, drawn)]
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
