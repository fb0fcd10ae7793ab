"""The training loop of every stage: optimizer, learning rate, one pass over the data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from recsys.model import SequentialRecommender
from recsys.objectives import Objective
from recsys.packing import Windows, batches
from recsys.recipe import Recipe

Progress = Callable[[int, int, str], None]
# Called after each epoch with (epoch from 1, figures by name).
Log = Callable[[int, dict[str, float]], None]


def adamw(model: SequentialRecommender, recipe: Recipe) -> torch.optim.AdamW:
    """The optimizer of every stage."""
    return torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )


def warmup(optimizer: torch.optim.Optimizer, recipe: Recipe) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over the recipe's first steps, then a constant rate."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (recipe.warmup_steps + 1))
    )


def warmup_and_decay(
    optimizer: torch.optim.Optimizer, recipe: Recipe, windows: Windows
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, and a linear fall to the recipe's final share over all its epochs."""
    steps = recipe.epochs * _steps(recipe, windows)

    def rate(step: int) -> float:
        left = max(0.0, 1 - step / steps)
        risen = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
        return risen * (recipe.final_rate + (1 - recipe.final_rate) * left)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def running_average(
    model: SequentialRecommender, recipe: Recipe, windows: Windows
) -> AveragedModel:
    """An average of the weights over about the recipe's last epochs; update it after each step."""
    decay = 1 - 1 / max(1.0, recipe.average_epochs * _steps(recipe, windows))

    def blend(averages: list[Tensor], present: list[Tensor], updates: Tensor) -> None:
        # The first weights are far from any good ones: at first the average covers little.
        taken = 1 - min(decay, (1 + updates.item()) / (10 + updates.item()))
        torch._foreach_lerp_(averages, present, taken)

    return AveragedModel(model, multi_avg_fn=torch.no_grad()(blend))


def _steps(recipe: Recipe, windows: Windows) -> int:
    """Optimizer steps in an epoch."""
    return max(1, int(windows.lengths.sum()) // recipe.batch_tokens)


def weights_of(model: SequentialRecommender) -> dict[str, Tensor]:
    """A copy of the weights that training does not touch."""
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def train_epoch(
    model: SequentialRecommender,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    recipe: Recipe,
    generator: np.random.Generator,
    *,
    before: Callable[[], None] | None = None,
    after: Callable[[], None] | None = None,
) -> float:
    """One pass over the objective's windows; `before` and `after` run around each optimizer step.

    Returns
    -------
    float
        Mean loss over all predictions, in nats.
    """
    model.train()
    total, predictions = 0.0, 0
    for packed, places in batches(objective.windows, recipe.batch_tokens, generator):
        loss, count = objective(model, packed, places, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if before:
            before()
        optimizer.step()
        if after:
            after()
        total += loss.item() * count
        predictions += count
    return total / max(predictions, 1)
