"""Fine-tuning: predict the next item at every event, against the whole catalogue."""

from __future__ import annotations

from pathlib import Path

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.interactions import Interactions
from recsys.data.split import Split
from recsys.errors import RecsysError
from recsys.evaluate import evaluate
from recsys.loop import (
    Log,
    Progress,
    adamw,
    running_average,
    train_epoch,
    warmup_and_decay,
    weights_of,
)
from recsys.model import SequentialRecommender
from recsys.objectives import NextItem
from recsys.randomness import Stage, seeded
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

    Every epoch ends with a checkpoint. Called again on the same data and recipe, training goes on
    after the last finished epoch, and ends with the weights of an undisturbed run.

    Returns
    -------
    int
        Epochs that were trained, over all calls.
    """
    objective = NextItem(split.train, recipe)
    optimizer = adamw(model, recipe)
    schedule = warmup_and_decay(optimizer, recipe, objective.windows)
    average = running_average(model, recipe, objective.windows)
    epoch, best, best_epoch, best_weights = 0, -1.0, 0, weights_of(model)
    if (state := load_checkpoint(checkpoint)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        average.load_state_dict(state["average"])
        epoch, best, best_epoch = state["epoch"], state["best"], state["best_epoch"]
        best_weights = state["best_weights"]

    def after_step() -> None:
        schedule.step()
        average.update_parameters(model)

    while epoch < recipe.epochs and epoch - best_epoch < recipe.patience:
        with seeded(recipe.seed, Stage.FINETUNE, epoch) as generator:
            loss = train_epoch(model, optimizer, objective, recipe, generator, after=after_step)
        epoch += 1
        validation = evaluate(average.module, interactions, split, part="validation")["NDCG@10"]
        if validation > best:
            best, best_epoch, best_weights = validation, epoch, weights_of(average.module)
        save_checkpoint(
            checkpoint,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "average": average.state_dict(),
                "epoch": epoch,
                "best": best,
                "best_epoch": best_epoch,
                "best_weights": best_weights,
            },
        )
        if log:
            log(epoch, {"loss": loss, "validation NDCG@10": validation})
        if progress:
            text = f"loss {loss:.4f}, validation NDCG@10 {validation:.4f} (best {best:.4f})"
            progress(epoch, recipe.epochs, f"fine-tuning: {text}")
    model.load_state_dict(best_weights)
    return epoch


def train_local(
    model: SequentialRecommender,
    interactions: Interactions,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    proximal_mu: float = 0.0,
    progress: Progress | None = None,
) -> float:
    """Train in place on one site's events: a federated client's share of a round.

    Parameters
    ----------
    interactions
        Training events only; the vocabulary is the model's.
    seed
        Give each round another one, or each round repeats the same order and dropout.
    proximal_mu
        Adds ``mu / 2 * ||w - w0||²``, w0 the weights at the call (FedProx, Li et al., 2020).

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
    start = weights_of(model)

    def stay_close() -> None:
        for name, parameter in model.named_parameters():
            parameter.grad.add_(parameter.detach() - start[name], alpha=proximal_mu)

    loss = 0.0
    for epoch in range(epochs):
        with seeded(seed, Stage.LOCAL, epoch) as generator:
            loss = train_epoch(
                model,
                optimizer,
                objective,
                recipe,
                generator,
                before=stay_close if proximal_mu else None,
            )
        if progress:
            progress(epoch + 1, epochs, f"local training: loss {loss:.4f}")
    return loss
