"""Training of the models beside the recommender, for ratings and for clicks, into the store."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl

from cli import learning
from cli.application import Progress
from cli.environment import Environment
from cli.errors import CommandError
from recsys.click import ClickRecipe, save_click, train_click
from recsys.data.impressions import load_impressions
from recsys.data.ratings import load_ratings
from recsys.rating import RatingRecipe, save_rating, train_rating
from recsys.recipe import checked_fields


@dataclass(frozen=True)
class Task:
    """What is predicted: how its log is read, and how a model is made of it and kept."""

    recipe: type[RatingRecipe] | type[ClickRecipe]
    load: Callable[[str], pl.DataFrame]
    train: Callable[..., tuple[Any, dict[str, float]]]
    save: Callable[[Path, Any, dict[str, float]], Path]


def task_of(name: str) -> Task:
    """The task ``rating`` or ``click``."""
    return {
        "rating": Task(RatingRecipe, load_ratings, train_rating, save_rating),
        "click": Task(ClickRecipe, load_impressions, train_click, save_click),
    }[name]


def train(
    environment: Environment, name: str, data: str, changes: dict[str, Any], progress: Progress
) -> learning.Trained:
    """Train and store a model; no channel points to it, since those are for what recommends.

    Parameters
    ----------
    name
        ``rating`` or ``click``.
    data
        A log of ratings or of impressions: a path, s3:// or gs://; for ratings also `synthetic`.
    changes
        Fields of the task's recipe that differ from its defaults.

    Raises
    ------
    CommandError, recsys.errors.RecipeError
        There are no generated impressions, or the recipe has a wrong field: exit code 2.
    """
    task = task_of(name)
    recipe = task.recipe(**checked_fields(task.recipe, changes))
    address = _address(environment, name, data)
    start = time.monotonic()
    log = task.load(address)
    model, metrics = task.train(log, recipe, progress=progress)
    columns = "\n".join(log.columns)
    lineage = {
        "made_by": f"train --task {name}",
        "data": {
            "address": data if data == learning.SYNTHETIC else address,
            "fingerprint": sha256(columns.encode() + log.write_csv().encode()).hexdigest(),
            "rows": len(log),
        },
        "recipe": asdict(recipe),
        "stages": [{"stage": f"train {name}"}],
        "metrics": metrics,
        "code": learning.code_version(),
    }
    with tempfile.TemporaryDirectory(prefix="hybrid-train-") as scratch:
        artifact = task.save(Path(scratch) / "artifact", model, metrics)
        digest = learning.store_model(environment, artifact, lineage)
    return learning.Trained(digest, metrics, time.monotonic() - start, [])


def _address(environment: Environment, name: str, data: str) -> str:
    if data != learning.SYNTHETIC:
        return data if "://" in data else str(Path(data).absolute())
    if name == "click":
        raise CommandError(
            "The generated shop logs no impressions: give a log with --data, for example one of "
            "the Open Bandit files.",
            exit_code=2,
        )
    return str(learning.generated_shop(environment))
