"""The training loop of every stage: optimizer, learning rate, steps, and going on after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.distributed import Workers, average_gradients, is_sharded
from recsys.dropout import set_part, use_part_dropout
from recsys.errors import RecsysError
from recsys.model import SequentialRecommender
from recsys.objectives import Objective
from recsys.packing import FEWEST_STEPS, Windows, batches, events_a_step, pack, part_of
from recsys.randomness import Stage, seed_step, seeded
from recsys.recipe import Recipe
from recsys.sharded import own_part, own_rows, whole_tables

Progress = Callable[[int, int, str], None]
# Called after each epoch with (epoch from 1, figures by name).
Log = Callable[[int, dict[str, float]], None]

# Seconds between two checkpoints within an epoch, which is what a kill loses at most; more where
# writing takes so long that it would need a greater share of the time than this.
CHECKPOINT_SECONDS = 60.0
MOST_TIME_SAVING = 0.01


def adamw(model: SequentialRecommender, recipe: Recipe) -> torch.optim.AdamW:
    """The optimizer of every stage."""
    # A fused step takes whole tensors or sharded ones, not both: they are groups of their own.
    groups = [
        [parameter for parameter in model.parameters() if is_sharded(parameter) is sharded]
        for sharded in (True, False)
    ]
    return torch.optim.AdamW(
        [{"params": group} for group in groups if group],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


@dataclass
class Moments:
    """What AdamW remembers of the gradients, to go on with in another call.

    Attributes
    ----------
    first, second
        Running means of the gradients and of their squares, by the parameters' names; empty before
        the first step.
    steps
        Steps that they are of: while these are few, AdamW takes them for too small.
    """

    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def to(self, optimizer: torch.optim.AdamW, model: SequentialRecommender) -> None:
        """Let the optimizer go on with a copy of them."""
        for name, parameter in model.named_parameters():
            if name in self.first:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.steps), device=parameter.device),
                    "exp_avg": self.first[name].to(parameter.device, copy=True),
                    "exp_avg_sq": self.second[name].to(parameter.device, copy=True),
                }

    def take(self, optimizer: torch.optim.AdamW, model: SequentialRecommender) -> None:
        """Become those of the optimizer."""
        states = {
            name: optimizer.state[parameter]
            for name, parameter in model.named_parameters()
            if parameter in optimizer.state
        }
        self.first = {name: state["exp_avg"] for name, state in states.items()}
        self.second = {name: state["exp_avg_sq"] for name, state in states.items()}
        self.steps = max((int(state["step"]) for state in states.values()), default=0)


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
        torch._foreach_lerp_([own_part(t) for t in averages], [own_part(t) for t in present], taken)

    return AveragedModel(model, multi_avg_fn=torch.no_grad()(blend))


def _steps(recipe: Recipe, windows: Windows) -> int:
    """Optimizer steps in an epoch."""
    return max(1, int(windows.lengths.sum()) // events_a_step(windows, recipe.batch_tokens))


def weights_of(model: SequentialRecommender) -> dict[str, Tensor]:
    """A copy of the weights that training does not touch."""
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


@dataclass
class Tally:
    """What an epoch has done so far.

    Attributes
    ----------
    steps, predictions
        Optimizer steps, and over how many predictions.
    loss
        Sum over the predictions, in nats.
    """

    steps: int = 0
    predictions: int = 0
    loss: float = 0.0


def train_epoch(
    model: SequentialRecommender,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    stage: Stage,
    epoch: int,
    *,
    tally: Tally | None = None,
    before: Callable[[], None] | None = None,
    after: Callable[[], None] | None = None,
    fewest_steps: int = FEWEST_STEPS,
) -> float:
    """One pass over the objective's windows; `before` and `after` run around each optimizer step.

    All randomness follows from `seed`, `stage`, `epoch` and the step's number. A batch is the
    same, and so is its gradient up to rounding, whether one process takes it at once, in
    ``recipe.accumulation`` parts, or together with others.

    Parameters
    ----------
    tally
        Counted on in place: the steps that it holds already are not done again.
    fewest_steps
        See `recsys.packing.events_a_step`.

    Returns
    -------
    float
        Mean loss over all predictions, in nats.
    """
    tally = tally or Tally()
    model.train()
    with seeded(seed, stage, epoch) as generator:
        epoch_batches = batches(objective.windows, recipe.batch_tokens, generator, fewest_steps)
        for step in range(tally.steps, len(epoch_batches)):
            optimizer.zero_grad(set_to_none=True)
            place = (seed, stage, epoch, step)
            loss, predictions = _gradient(model, objective, recipe, epoch_batches[step], place)
            if before:
                before()
            optimizer.step()
            tally.steps += 1
            tally.predictions += predictions
            tally.loss += loss.item() * predictions
            if after:
                after()
    return tally.loss / max(tally.predictions, 1)


def _gradient(
    model: SequentialRecommender,
    objective: Objective,
    recipe: Recipe,
    chosen: np.ndarray,
    place: tuple[int, Stage, int, int],
) -> tuple[Tensor, int]:
    """Leave a batch's gradient in the model; returns mean loss and number of predictions."""
    workers = Workers.current()
    windows = objective.windows
    parts = workers.count * recipe.accumulation
    if parts == 1:
        loss, predictions = objective(model, *pack(windows, chosen), seed_step(*place))
        loss.backward()
        return loss.detach(), predictions

    dropouts = use_part_dropout(model)
    events = int(windows.lengths[chosen].sum())
    total, predictions = torch.zeros((), device=workers.device), 0
    first = workers.rank * recipe.accumulation
    for part in range(first, first + recipe.accumulation):
        own, rows = part_of(windows, chosen, part, parts)
        # With fewer windows than parts some take the first part's too, without weight: what the
        # processes do together, they all do.
        borrowed = not len(own)
        if borrowed:
            own, rows = part_of(windows, chosen, 0, parts)
        set_part(dropouts, (torch.from_numpy(rows).to(workers.device), events))
        loss, count = objective(model, *pack(windows, own), seed_step(*place))
        count = 0 if borrowed else count
        (loss * count).backward()
        total += loss.detach() * count
        predictions += count
    set_part(dropouts, None)
    return average_gradients(model, workers, total, predictions)


class Training:
    """One stage of a run: its optimizer, how far it is, and both on disk between two attempts.

    Made again with the same arguments it goes on where the last checkpoint was written, and ends
    with the weights of an undisturbed run.

    Parameters
    ----------
    schedule
        Of the learning rate, over the optimizer (`adamw`) that takes the steps.
    average
        Of the weights (`running_average`): brought up to date after each step.

    Attributes
    ----------
    epoch
        Epochs finished.
    notes
        What the caller wants kept with the checkpoint: tensors, numbers, texts, dictionaries.

    Raises
    ------
    RecsysError
        When the checkpoint is damaged, or was written with tables sharded and these are not.
    """

    def __init__(
        self,
        model: SequentialRecommender,
        objective: Objective,
        recipe: Recipe,
        stage: Stage,
        checkpoint: Path,
        schedule: torch.optim.lr_scheduler.LambdaLR,
        average: AveragedModel | None = None,
    ) -> None:
        self.model = model
        self.epoch = 0
        self.notes: dict[str, Any] = {}
        self._objective, self._recipe, self._stage = objective, recipe, stage
        self._checkpoint = checkpoint
        self._optimizer, self._schedule, self._average = schedule.optimizer, schedule, average
        self._tally = Tally()
        self._workers = Workers.current()
        if (state := load_checkpoint(checkpoint)) is not None:
            self._restore(state)
        self._next_save = time.monotonic() + CHECKPOINT_SECONDS

    def run_epoch(self) -> float:
        """Finish the epoch that is begun, or do the next; returns its mean loss in nats."""
        loss = train_epoch(
            self.model,
            self._optimizer,
            self._objective,
            self._recipe,
            self._recipe.seed,
            self._stage,
            self.epoch,
            tally=self._tally,
            after=self._after_step,
        )
        self.epoch += 1
        self._tally = Tally()
        return loss

    def save(self) -> None:
        """Write the checkpoint."""
        began = time.monotonic()
        state = whole_tables(
            {
                "model": self.model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "schedule": self._schedule.state_dict(),
                "average": self._average.state_dict() if self._average else {},
                "epoch": self.epoch,
                "tally": asdict(self._tally),
                "notes": self.notes,
            }
        )
        if self._workers.writes:
            save_checkpoint(self._checkpoint, state)
        ended = time.monotonic()
        self._next_save = ended + max(CHECKPOINT_SECONDS, (ended - began) / MOST_TIME_SAVING)

    def _after_step(self) -> None:
        self._schedule.step()
        if self._average:
            self._average.update_parameters(self.model)
        if self._workers.agree(time.monotonic() >= self._next_save):
            self.save()

    def _restore(self, state: dict[str, Any]) -> None:
        sharded = len(state["optimizer"]["param_groups"]) > 1
        if sharded is not (len(self._optimizer.param_groups) > 1):
            raise RecsysError(
                f"{self._checkpoint} is of a run that {'shards' if sharded else 'does not shard'} "
                "its item table; go on as it began, or train in a new folder"
            )
        state = own_rows(state)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        if self._average:
            self._average.load_state_dict(state["average"])
        self.epoch, self.notes = state["epoch"], state["notes"]
        self._tally = Tally(**state["tally"])
