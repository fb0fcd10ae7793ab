"""Fine-tuning: predict the next item at every event, against the whole catalogue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recsys.data.interactions import Interactions
from recsys.data.split import Split
from recsys.drift import ControlVariates
from recsys.errors import RecsysError
from recsys.evaluate import deciding_figure, evaluate
from recsys.loop import (
    Log,
    Moments,
    Progress,
    Training,
    adamw,
    running_average,
    train_epoch,
    warmup_and_decay,
    weights_of,
)
from recsys.model import SequentialRecommender
from recsys.packing import FEWEST_STEPS
from recsys.objectives import NextItem
from recsys.randomness import Stage
from recsys.recipe import Recipe


def finetune(
    model: SequentialRecommender,
    interactions: Interactions,
    split: Split,
    recipe: Recipe,
    checkpoint: Path,
    *,
    log: Log | None = None,
    progress: Progress | None = None,
) -> int:
    """Train until validation NDCG@10 stops rising; leaves the best epoch's weights in `model`.

    Which of its forms counts, `recsys.evaluate.deciding_figure` tells.

    Checkpoints are written within epochs and after each. Called again on the same data and recipe,
    training goes on after the last one, and ends with the weights of an undisturbed run.

    Returns
    -------
    int
        Epochs that were trained, over all calls.
    """
    objective = NextItem(split.train, recipe)
    schedule = warmup_and_decay(adamw(model, recipe), recipe, objective.windows)
    average = running_average(model, recipe, objective.windows)
    training = Training(model, objective, recipe, Stage.FINETUNE, checkpoint, schedule, average)
    # In the checkpoint beside the weights: what the best epoch was, and its weights.
    best, figure = training.notes, deciding_figure(interactions, split)
    if not best:
        best |= {figure: -1.0, "epoch": 0, "weights": weights_of(model)}

    while training.epoch < recipe.epochs and training.epoch - best["epoch"] < recipe.patience:
        loss = training.run_epoch()
        validation = evaluate(average.module, interactions, split, part="validation")[figure]
        if validation > best[figure]:
            best |= {figure: validation, "epoch": training.epoch}
            best["weights"] = weights_of(average.module)
        training.save()
        if log:
            log(training.epoch, {"loss": loss, f"validation {figure}": validation})
        if progress:
            text = f"loss {loss:.4f}, validation {figure} {validation:.4f}"
            text = f"fine-tuning: {text} (best {best[figure]:.4f})"
            progress(training.epoch, recipe.epochs, text)
    model.load_state_dict(best["weights"])
    return training.epoch


def fewest_steps(epochs: int, keep_moments: bool) -> int:
    """Steps of an epoch, or more, for a site that trains so many over all rounds.

    An optimizer that goes on needs as many in all as one that trains in one place: larger steps are
    less noisy, and fewer teach too little.
    """
    if not keep_moments:
        return FEWEST_STEPS
    return min(FEWEST_STEPS, max(FEWEST_STEPS // 4, FEWEST_STEPS * Recipe.epochs // epochs))


def train_local(
    model: SequentialRecommender,
    interactions: Interactions,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    proximal_mu: float = 0.0,
    control: ControlVariates | None = None,
    moments: Moments | None = None,
    steps: int = FEWEST_STEPS,
    own_rows: bool = False,
    progress: Progress | None = None,
) -> float:
    """Train in place on one site's events: a federated client's share of a round.

    Rows of embeddings that no gradient reached keep their values: weight decay alone would change
    every row of a large table, and each changed row crosses the network.

    Parameters
    ----------
    interactions
        Training events only; the vocabulary is the model's.
    seed
        Give each round another one, or each round repeats the same order and dropout.
    proximal_mu
        Adds ``mu / 2 * ||w - w0||²``, w0 the weights at the call (FedProx, Li et al., 2020).
    control
        Corrects every gradient and takes note of it (SCAFFOLD).
    moments
        Of the optimizer after an earlier call, which goes on with them; afterwards those of this
        one. Without, AdamW's first steps move every weight about equally far, however small its
        gradients are.
    steps
        Of an epoch, or more: see :func:`fewest_steps`.
    own_rows
        Items that the site has no events of keep their rows, though they are drawn as negatives.

    Returns
    -------
    float
        Mean cross-entropy of the last epoch in nats, without the proximal term.

    Raises
    ------
    RecsysError
        When no user has two events, or the vocabulary is not the model's.
    """
    if len(interactions.items) != model.items:
        raise RecsysError(
            f"the data has {len(interactions.items)} items, the model {model.items}: "
            "a site's data must keep the vocabulary that the model was made for"
        )
    objective = NextItem(interactions, recipe)
    optimizer = adamw(model, recipe)
    if moments is not None:
        moments.to(optimizer, model)
    start = weights_of(model)
    tables = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith("embedding.weight")
    }
    reached = {
        name: torch.zeros(len(table), dtype=torch.bool, device=table.device)
        for name, table in tables.items()
    }

    def before() -> None:
        for name, table in tables.items():
            # As any(dim=1), in a sixth of its time.
            reached[name] |= table.grad.abs().amax(dim=1) != 0
        if control is not None:
            control.correct(model)
        if proximal_mu:
            for name, parameter in model.named_parameters():
                parameter.grad.add_(parameter.detach() - start[name], alpha=proximal_mu)

    loss = 0.0
    for epoch in range(epochs):
        loss = train_epoch(
            model,
            optimizer,
            objective,
            recipe,
            seed,
            Stage.LOCAL,
            epoch,
            before=before,
            fewest_steps=steps,
        )
        if progress:
            progress(epoch + 1, epochs, f"local training: loss {loss:.4f}")
    if moments is not None:
        moments.take(optimizer, model)
    if own_rows:
        table = reached["item_embedding.weight"]
        own = torch.from_numpy(np.bincount(interactions.sequence, minlength=len(table)) > 0)
        table &= own.to(table.device)
    with torch.no_grad():
        for name, table in tables.items():
            table.copy_(torch.where(reached[name][:, None], table, start[name]))
    return loss
