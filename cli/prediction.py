"""Training of the models beside the recommender, for ratings, clicks and search, into the store."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl

from cli import learning
from cli.application import Progress
from cli.environment import Environment
from cli.errors import CommandError
from cli.steps import recorded
from recsys.click import ClickRecipe, save_click, train_click
from recsys.data.catalogue import load_catalogue
from recsys.data.impressions import load_impressions
from recsys.data.queries import load_judgments
from recsys.data.ratings import load_ratings
from recsys.data.report import Report
from recsys.rating import RatingRecipe, save_rating, train_rating
from recsys.recipe import checked_fields
from recsys.search.ranker import SearchModel, save_search, train_search
from recsys.search.towers import TowerRecipe
from recsys.spread import Spread, write_spread
from recsys.spreads import click_spread, rating_spread, search_spread


@dataclass(frozen=True)
class Task:
    """What is predicted: how its log is read, how a model is made of it and kept.

    `spread` tells what model and log say of later requests and answers, if anything.
    """

    recipe: type[RatingRecipe] | type[ClickRecipe] | type[TowerRecipe]
    load: Callable[..., pl.DataFrame]
    train: Callable[..., tuple[Any, dict[str, float]]]
    save: Callable[[Path, Any, dict[str, float]], Path]
    spread: Callable[[Any, pl.DataFrame], Spread | None]


def task_of(name: str, judgments: str | None = None) -> Task:
    """The task ``rating``, ``click`` or ``search``; the last takes judged queries."""
    return {
        "rating": Task(RatingRecipe, load_ratings, train_rating, save_rating, rating_spread),
        "click": Task(ClickRecipe, load_impressions, train_click, save_click, click_spread),
        "search": _search(judgments),
    }[name]


def _search(judgments: str | None) -> Task:
    @cache
    def judged() -> dict[str, dict[str, float]] | None:
        return load_judgments(judgments).by_query() if judgments else None

    def train_towers(
        catalogue: pl.DataFrame, recipe: TowerRecipe, *, progress: Progress
    ) -> tuple[SearchModel, dict[str, float]]:
        return train_search(catalogue, recipe, judged=judged(), progress=progress), {}

    def spread(model: SearchModel, catalogue: pl.DataFrame) -> Spread | None:
        return search_spread(model, list(judged() or ()))

    return Task(TowerRecipe, load_catalogue, train_towers, _save_search, spread)


def _save_search(folder: Path, model: SearchModel, metrics: dict[str, float]) -> Path:
    return save_search(folder, model)


@recorded("train")
def train(
    environment: Environment,
    name: str,
    data: str,
    changes: dict[str, Any],
    progress: Progress,
    judgments: str | None = None,
    *,
    drop_bad_rows: bool = False,
) -> learning.Trained:
    """Train and store a model; no channel points to it before it is deployed.

    Parameters
    ----------
    name
        ``rating``, ``click`` or ``search``.
    data
        A log of ratings or of impressions, or a catalogue: a path, s3:// or gs://; but for
        impressions also `synthetic`.
    changes
        Fields of the task's recipe that differ from its defaults.
    judgments
        Of search: judged queries that fit the weights of its signals; the generated shop has some.
    drop_bad_rows
        Leave out rows that cannot be read, and say how many, instead of refusing the data.

    Raises
    ------
    CommandError, recsys.errors.RecipeError
        There are no generated impressions, or the recipe has a wrong field: exit code 2.
    """
    address = _address(environment, name, data)
    # What the lineage tells: the generated shop is the same wherever it lies.
    told = judgments
    if name == "search" and data == learning.SYNTHETIC:
        judgments, told = judgments or address, judgments or data
    task = task_of(name, judgments)
    recipe = task.recipe(**checked_fields(task.recipe, changes))
    start = time.monotonic()
    report = Report() if drop_bad_rows else None
    log = task.load(address, report=report)
    for finding in report.findings if report else ():
        progress(0, 1, f"{finding.rows} rows {finding.action}: {finding.problem} ({finding.example})")
    model, metrics = task.train(log, recipe, progress=progress)
    columns = "\n".join(log.columns)
    lineage = {
        "made_by": f"train --task {name}",
        "data": {
            "address": data if data == learning.SYNTHETIC else address,
            "fingerprint": sha256(columns.encode() + log.write_ndjson().encode()).hexdigest(),
            "rows": len(log),
        }
        | ({"dropped": report.dropped} if report else {})
        | ({"judgments": told} if told else {}),
        "recipe": asdict(recipe),
        "stages": [{"stage": f"train {name}"}],
        "metrics": metrics,
        "code": learning.code_version(),
    }
    with tempfile.TemporaryDirectory(prefix="hybrid-train-") as scratch:
        artifact = task.save(Path(scratch) / "artifact", model, metrics)
        if spread := task.spread(model, log):
            write_spread(artifact, spread)
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
