"""The whole job: up → train → federate → deploy → recommend, going on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cli import federation, learning, production, provision
from cli.environment import Environment
from cli.files import write_text
from cli.learning import Trained, environment_store

STEPS = ("up", "train", "federate", "deploy", "recommend")


@dataclass(frozen=True)
class Job:
    """What the pipeline is to do.

    Parameters
    ----------
    data
        `synthetic` or a path.
    recipe
        Fields of the training recipe that differ from its defaults.
    rounds
        Rounds of federation.
    user, k
        Whom to recommend how many items at the end; without a user, the first of the data.
    """

    data: str
    recipe: dict[str, Any]
    rounds: int
    user: str | None
    k: int


@dataclass(frozen=True)
class Outcome:
    """What each step gave."""

    provisioned: provision.Provisioned
    trained: Trained
    federated: Trained
    deployed: production.Deployed
    recommendation: production.Recommendation


class Journal:
    """Finished steps of one job, on disk; a job with other inputs starts an empty one."""

    def __init__(self, path: Path, inputs: str) -> None:
        self.path = path
        self.record: dict[str, Any] = {"inputs": inputs}
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return
        if found.get("inputs") == inputs:
            self.record = found

    def step(self, name: str, work: Callable[[], Trained], still_there: Callable[[str], bool]):
        """The step's recorded model if the store still has it; else do the work and record it."""
        known = self.record.get(name)
        if known is not None and still_there(known["digest"]):
            return Trained(**known)
        trained = work()
        self.record[name] = asdict(trained)
        write_text(self.path, json.dumps(self.record))
        return trained


def run(
    environment: Environment, job: Job, progress_of: Callable[[str], Any], *, fresh: bool = False
) -> Outcome:
    """Do the whole job; the caller holds the environment's lock.

    `up`, `deploy` and `recommend` are done every time: they find out by themselves what is left
    to do. Training and federation are not repeated for the same data, recipe and rounds.

    Parameters
    ----------
    progress_of
        Gives for a step's label a context manager with its progress function.
    fresh
        Forget finished steps first.
    """
    path = environment.folder / "pipeline.json"
    if fresh:
        path.unlink(missing_ok=True)
    with _step(progress_of, "up") as progress:
        provisioned = provision.up(environment, progress)
    fingerprint = learning.load_data(environment, job.data).fingerprint()
    inputs = sha256(repr((fingerprint, sorted(job.recipe.items()), job.rounds)).encode())
    journal = Journal(path, inputs.hexdigest())
    stored = {record.digest for record in environment_store(environment).list()}
    with _step(progress_of, "train") as progress:
        trained = journal.step(
            "train",
            lambda: learning.train(environment, job.data, job.recipe, progress),
            stored.__contains__,
        )
    with _step(progress_of, "federate") as progress:
        federated = journal.step(
            "federate",
            lambda: federation.federate(
                environment, trained.digest, {"rounds": job.rounds}, progress
            ),
            stored.__contains__,
        )
    with _step(progress_of, "deploy") as progress:
        deployed = production.deploy(environment, federated.digest, progress)
    with _step(progress_of, "recommend"):
        recommendation = production.recommend(environment, job.user, job.k)
    return Outcome(provisioned, trained, federated, deployed, recommendation)


def _step(progress_of: Callable[[str], Any], name: str):
    return progress_of(f"[{STEPS.index(name) + 1}/{len(STEPS)}] {name}")
