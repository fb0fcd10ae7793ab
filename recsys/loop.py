"""The training loop of every stage: optimizer, learning rate, one pass over the data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recsys.model import SequentialRecommender
from recsys.objectives import Objective
from recsys.packing import batches
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
