"""What a managed trainer is asked for, whichever it is."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.faults import CloudError

PORT = 29500
# Seconds that an answer of a trainer's API may take.
TIMEOUT = 60


class TrainerError(Exception):
    """A job that a trainer cannot be asked for; the message is one sentence for the user."""

    exit_code = 2


@dataclass(frozen=True)
class TrainerJob:
    """One training run.

    Parameters
    ----------
    environment
        Environment that it belongs to, for names and tags.
    image
        Image with this project's Python packages and a torch that knows the GPUs.
    data
        Where the machines read the interactions.
    models
        Address of the model store that receives the result.
    recipe
        Fields of the training recipe that differ from its defaults.
    shard_items
        Spread the item table over the GPUs.
    machine
        Machine type, in the trainer's own words.
    nodes, gpus
        Machines, and GPUs of each; every GPU has a process.
    spot
        Take spare machines, which may be taken away; the run goes on from its checkpoint.
    hours
        After which it is ended.
    """

    environment: str
    image: str
    data: str
    models: str
    recipe: Mapping[str, Any]
    shard_items: bool
    machine: str
    nodes: int
    gpus: int
    spot: bool
    hours: int

    @property
    def name(self) -> str:
        """The same job has the same name, so that it is not run twice."""
        what = [self.image, self.data, self.models, dict(self.recipe), self.shard_items]
        machines = [self.machine, self.nodes, self.gpus, self.spot, self.hours]
        digest = hashlib.sha256(json.dumps([what, machines], sort_keys=True).encode()).hexdigest()
        return f"hybrid-{self.environment}-{digest[:12]}"

    @property
    def tags(self) -> dict[str, str]:
        """Tags, with keys that every cloud takes."""
        return {"hybrid-environment": self.environment, "managed-by": "hybrid"}


def require_readable(job: TrainerJob, *schemes: str) -> None:
    """Refuse data and stores that a trainer's machines cannot reach.

    Raises
    ------
    TrainerError
        An address is of another kind.
    """
    for what, address in (("data", job.data), ("models", job.models)):
        if not address.startswith(schemes):
            raise TrainerError(
                f"The {what} at {address!r} are out of the trainer's reach: give an address that "
                f"begins with {' or '.join(schemes)} (hybrid store sync takes objects there)."
            )


def answered(response: Any) -> dict[str, Any]:
    """The JSON of an HTTP answer.

    Raises
    ------
    CloudError
        It is a refusal, which is told in the cloud's words.
    """
    if response.status_code < 400:
        return response.json()
    try:
        reason = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = response.text[:200]
    raise CloudError(f"The trainer refuses with HTTP {response.status_code}: {reason}")


def script(job: TrainerJob, *, rank: str, master: str, prepare: str, checkpoints: str) -> str:
    """The shell script of each machine: torchrun, then the first machine stores the model.

    Parameters
    ----------
    rank, master
        Shell words for this machine's number and the first one's name.
    prepare
        Commands that come before.
    checkpoints
        Folder that outlives a machine.
    """
    train = [
        "torchrun",
        *("--nnodes", str(job.nodes), "--nproc-per-node", str(job.gpus)),
        *("--node-rank", rank, "--master-addr", master, "--master-port", str(PORT)),
        *("-m", "recsys.job", "--data", shlex.quote(job.data)),
        *("--recipe", "/tmp/recipe.json", "--folder", checkpoints),
        *(["--shard-items"] if job.shard_items else []),
    ]
    lineage = {"made_by": "submit", "job": job.name, "data": {"address": job.data},
               "recipe": dict(job.recipe),
               "stages": [{"stage": "train", "job": job.name}]}  # fmt: skip
    store = [
        *("python", "-m", "model_store", f"{checkpoints}/artifact", shlex.quote(job.models)),
        *("--lineage", shlex.quote(json.dumps(lineage, sort_keys=True))),
        *("--data", f"{checkpoints}/data.json"),
    ]
    return "\n".join(
        [
            "set -eu",
            *([prepare] if prepare else []),
            f"printf %s {shlex.quote(json.dumps(dict(job.recipe), sort_keys=True))}"
            " > /tmp/recipe.json",
            " ".join(train),
            f'if [ "{rank}" = 0 ]; then {" ".join(store)}; fi',
        ]
    )
