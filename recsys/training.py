"""The whole training job: pretrain, fine-tune, test, write the artefact."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.artifact import save_model
from recsys.data.interactions import Interactions
from recsys.data.split import leave_one_out
from recsys.distributed import Workers
from recsys.errors import RecipeError, RecsysError
from recsys.evaluate import CUTOFF, UNMASKED, evaluate, evaluated_users, popularity
from recsys.files import write_atomically
from recsys.finetune import finetune
from recsys.loop import Log, Progress
from recsys.model import SequentialRecommender
from recsys.neighbours import neighbours
from recsys.objectives import NextItem
from recsys.pretrain import pretrain
from recsys.profile import profile_of
from recsys.randomness import Stage, seeded
from recsys.recipe import Recipe
from recsys.sharded import ShardedRecommender, unsharded
from recsys.text import has_texts, read_catalogue
from recsys.tracking import Tracker


@dataclass(frozen=True)
class TrainResult:
    """What came out of a run.

    Attributes
    ----------
    artifact
        The folder that `recsys.artifact.load_model` reads.
    metrics
        Test figures of `recsys.evaluate.evaluate`, and to compare with ``popularity NDCG@10``, of the
        items that have the most training events, without and with those of the history.
    epochs
        Fine-tuning epochs over all attempts.
    seconds
        Wall time of this call.
    """

    artifact: Path
    metrics: dict[str, float]
    epochs: int
    seconds: float


def train(
    interactions: Interactions,
    recipe: Recipe,
    folder: Path | str,
    *,
    progress: Progress | None = None,
    shard_items: bool = False,
    wandb_project: str | None = None,
) -> TrainResult:
    """Train on `interactions` and leave the artefact in ``folder/artifact``.

    A run that was killed goes on where its last checkpoint was written, within an epoch too, and
    ends with the same weights as one that was not (on a CPU, with the same number of threads and
    processes). In processes that `torchrun` started (see `recsys.job`) all call this together.

    Parameters
    ----------
    folder
        One run: checkpoints, ``tensorboard/`` and the artefact. A new or an interrupted one.
    progress
        Called with (epochs done, epochs at most, text).
    shard_items
        Spread the item table over the processes instead of keeping it whole in each.
    wandb_project
        See `recsys.tracking.Tracker`; TensorBoard is written in any case.

    Raises
    ------
    RecsysError
        When the folder holds a run of other data or another recipe, the data are too few, or the
        recipe has an objective that cannot be worked on in parts, and there are several.
    """
    began = time.monotonic()
    folder = Path(folder)
    workers = Workers.current()
    _require_parts(recipe, workers)
    split = leave_one_out(interactions)
    # What cannot be learnt from or tested with is refused before anything is written.
    NextItem(split.train, recipe)
    evaluated_users(split, "test")
    if workers.writes:
        _claim(folder, interactions, recipe)
    else:
        progress = None
    with seeded(recipe.seed, Stage.WEIGHTS):
        make = ShardedRecommender if shard_items else SequentialRecommender
        texts = around = None
        if has_texts(interactions, recipe):
            texts = read_catalogue(interactions.item_text, recipe.text_buckets)
        elif recipe.neighbours:
            around = neighbours(split.train)
        model = make(len(interactions.items), recipe, texts, around).to(workers.device)
    # No process reads a checkpoint before the folder is known to be this run's.
    workers.agree(True)

    total = recipe.pretrain_epochs + recipe.epochs
    configuration = recipe.to_dict() | {"data": interactions.fingerprint()}
    with _tracker(folder, workers, configuration, wandb_project) as tracker:
        pretrain(
            model,
            split.train,
            recipe,
            folder / "pretrain.pt",
            log=_log_to(tracker, "pretrain"),
            progress=_shifted(progress, 0, total),
        )
        epochs = finetune(
            model,
            interactions,
            split,
            recipe,
            folder / "finetune.pt",
            log=_log_to(tracker, "finetune"),
            progress=_shifted(progress, recipe.pretrain_epochs, total),
        )
        metrics = evaluate(model, interactions, split, part="test")
        base = popularity(interactions, split, part="test")
        for name in (f"NDCG@{CUTOFF}", f"NDCG@{CUTOFF}{UNMASKED}"):
            metrics[f"popularity {name}"] = base[name]
        _log_to(tracker, "test")(epochs, metrics)
    whole = unsharded(model, recipe) if shard_items else model
    artifact = folder / "artifact"
    if workers.writes:
        profile = profile_of(whole, interactions, split)
        attributes = interactions.attributes
        save_model(artifact, whole, recipe, interactions.items, metrics, attributes, profile)
    workers.agree(True)
    return TrainResult(artifact, metrics, epochs, time.monotonic() - began)


def _require_parts(recipe: Recipe, workers: Workers) -> None:
    parts = workers.count * recipe.accumulation
    if parts > 1 and recipe.pretrain_epochs and recipe.contrastive:
        raise RecipeError(
            f"recipe: contrastive is {recipe.contrastive}, and its negatives are the other "
            f"sessions of a whole batch, but {workers.count} processes with accumulation "
            f"{recipe.accumulation} make {parts} parts of one: set contrastive to 0, or train "
            "in one process with accumulation 1"
        )


def _claim(folder: Path, interactions: Interactions, recipe: Recipe) -> None:
    """Note what the run is made of, or check that it is the same as when it began."""
    run = {"recipe": recipe.to_dict(), "data": interactions.fingerprint()}
    file = folder / "run.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(run, indent=2) + "\n"
        write_atomically(file, lambda path: path.write_text(text))
        return
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
        changed = [part for part in run if begun[part] != run[part]]
    except (ValueError, KeyError, TypeError) as error:
        raise RecsysError(f"{file} is damaged; train in a new folder") from error
    if changed:
        raise RecsysError(
            f"{folder} holds a run with another {' and another '.join(changed)}; "
            "train in a new folder, or with what that run began with"
        )


def _tracker(
    folder: Path,
    workers: Workers,
    configuration: dict[str, Any],
    wandb_project: str | None,
) -> AbstractContextManager[Tracker | None]:
    """The run's tracker; only the process that writes has one."""
    return Tracker(folder, configuration, wandb_project) if workers.writes else nullcontext()


def _log_to(tracker: Tracker | None, stage: str) -> Log:
    def log(epoch: int, figures: dict[str, float]) -> None:
        if tracker is not None:
            tracker.log(stage, epoch, figures)

    return log


def _shifted(progress: Progress | None, done_before: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _, text: progress(done_before + done, total, text)
