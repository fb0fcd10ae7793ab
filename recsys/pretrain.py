"""Self-supervised pretraining: fill in hidden events from both sides of a session.

Masked item prediction (Sun et al., BERT4Rec, 2019) on the weights that fine-tuning continues
with; the same blocks attend to the whole sequence here and only to the past there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.interactions import Interactions
from recsys.finetune import Log, Progress, adamw, warmup
from recsys.model import SequentialRecommender
from recsys.packing import Windows, batches, training_windows
from recsys.randomness import Stage, seeded
from recsys.recipe import Recipe
from recsys.softmax import chunked_cross_entropy


def pretrain(
    model: SequentialRecommender,
    interactions: Interactions,
    recipe: Recipe,
    checkpoint: Path,
    *,
    log: Log | None = None,
    progress: Progress | None = None,
) -> None:
    """Train `model` in place for the recipe's pretraining epochs.

    Called again, it goes on after the last finished epoch, as `recsys.finetune.finetune` does.

    Parameters
    ----------
    interactions
        Training events only: a held-out event must not be filled in here.
    """
    windows = training_windows(interactions, recipe.length, targets=False)
    optimizer = adamw(model, recipe)
    schedule = warmup(optimizer, recipe)
    epoch = 0
    if (state := load_checkpoint(checkpoint)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        epoch = state["epoch"]

    while epoch < recipe.pretrain_epochs:
        with seeded(recipe.seed, Stage.PRETRAIN, epoch) as generator:
            loss = _pretrain_epoch(model, optimizer, schedule, windows, recipe, generator)
        epoch += 1
        save_checkpoint(
            checkpoint,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch,
            },
        )
        if log:
            log(epoch, {"loss": loss})
        if progress:
            progress(epoch, recipe.pretrain_epochs, f"pretraining: loss {loss:.4f}")


def _pretrain_epoch(
    model: SequentialRecommender,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    windows: Windows,
    recipe: Recipe,
    generator: np.random.Generator,
) -> float:
    model.train()
    total, predictions = 0.0, 0
    for packed, _ in batches(windows, recipe.batch_tokens, generator):
        hidden = torch.from_numpy(generator.random(len(packed.items)) < recipe.mask_share)
        hidden[generator.integers(len(hidden))] = True
        targets = packed.items[hidden]
        packed.items[hidden] = model.mask
        states = model(packed, causal=False)[hidden]
        loss = chunked_cross_entropy(states, model.output_table, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(targets)
        predictions += len(targets)
    return total / max(predictions, 1)
