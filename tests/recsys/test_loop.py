from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.loop import running_average, warmup_and_decay
from recsys.model import SequentialRecommender
from recsys.packing import Windows
from recsys.recipe import Recipe

RECIPE = Recipe(
    dimension=8, heads=1, blocks=1, batch_tokens=10, epochs=5, warmup_steps=9, learning_rate=1.0
)
# 100 events: ten steps an epoch, fifty in all.
WINDOWS = Windows(np.zeros(100, dtype=np.int32), np.arange(0, 100, 10), np.full(10, 10))


@pytest.mark.parametrize("final", [0.1, 1.0])
def test_the_rate_rises_and_then_falls_to_its_final_share(final: float) -> None:
    recipe = Recipe(**(RECIPE.to_dict() | {"final_rate": final}))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_and_decay(optimizer, recipe, WINDOWS)
    rates = []
    for _ in range(60):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1)
    assert rates[:9] == sorted(rates[:9])
    assert rates[25] == pytest.approx((1 + final) / 2)
    assert rates[50:] == pytest.approx([final] * 10), "a longer run stays at the last rate"


@pytest.mark.parametrize("epochs", [0.0, 2.0])
def test_the_average_covers_about_the_last_epochs(epochs: float) -> None:
    recipe = Recipe(**(RECIPE.to_dict() | {"average_epochs": epochs}))
    model = SequentialRecommender(4, recipe)
    average = running_average(model, recipe, WINDOWS)
    values = torch.linspace(0, 1, 400)
    for value in values:
        with torch.no_grad():
            model.position_embedding.weight.fill_(value)
        average.update_parameters(model)
    given = average.module.position_embedding.weight[0, 0].item()
    weights = (1 - 1 / 20) ** np.arange(399, -1, -1)
    expected = (weights * values.numpy()).sum() / weights.sum() if epochs else 1.0
    assert given == pytest.approx(expected, abs=1e-3)
