"""Self-supervised pretraining on the weights that fine-tuning continues with.

The same blocks attend to the whole sequence here and only to the past in fine-tuning.
"""

from __future__ import annotations

from pathlib import Path

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.interactions import Interactions
from recsys.loop import Log, Progress, adamw, train_epoch, warmup
from recsys.model import SequentialRecommender
from recsys.objectives import Pretraining
from recsys.randomness import Stage, seeded
from recsys.recipe import Recipe


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
    objective = Pretraining(interactions, recipe)
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
            loss = train_epoch(model, optimizer, objective, recipe, generator, after=schedule.step)
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
