"""Self-supervised pretraining on the weights that fine-tuning continues with.

The same blocks attend to the whole sequence here and only to the past in fine-tuning.
"""

from __future__ import annotations

from pathlib import Path

from recsys.data.interactions import Interactions
from recsys.loop import Log, Progress, Training, adamw, warmup
from recsys.model import SequentialRecommender
from recsys.objectives import Pretraining
from recsys.randomness import Stage
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

    Called again, it goes on after the last checkpoint, as `recsys.finetune.finetune` does.

    Parameters
    ----------
    interactions
        Training events only: a held-out event must not be filled in here.
    """
    objective = Pretraining(interactions, recipe)
    schedule = warmup(adamw(model, recipe), recipe)
    training = Training(model, objective, recipe, Stage.PRETRAIN, checkpoint, schedule)
    while training.epoch < recipe.pretrain_epochs:
        loss = training.run_epoch()
        training.save()
        if log:
            log(training.epoch, {"loss": loss})
        if progress:
            progress(training.epoch, recipe.pretrain_epochs, f"pretraining: loss {loss:.4f}")
