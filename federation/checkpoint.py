"""The folder of one federated run, from which a broken-off run goes on.

Layout::

    settings.json           what the run does; another run may not use the folder
    flower-run              number of the run on the SuperLink, once it was submitted
    identity                what sites know the run by, the same however often it is taken up
    initial/                artefact of the model that the run starts from
    checkpoint.safetensors  state after the last finished round: weights, strategy, records
    rounds.jsonl            one record a round, in order; grows while the run goes on
    updates/                what the sites sent, if it is kept (federation.ledger)
    arrivals/, versions/    of a buffered run (federation.asynchronous)
    artifact/               the result
    server.log              log of the ServerApp
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.arrays import flatten, pieces, unflatten
from federation.errors import FederationError
from federation.files import room_for, write_private
from federation.updates import Weights

Record = dict[str, Any]
CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Checkpoint:
    """State of a run between two rounds.

    Attributes
    ----------
    number : int
        Last finished round; 0 before the first.
    weights : dict of str to ndarray
        Global weights after it.
    strategy : dict of str to ndarray
        The strategy's own arrays after it.
    records : list of dict
        Records of the rounds up to `number`. The last one still lacks its metrics: the global
        model of a round is evaluated in the same exchange in which the next round trains.
    residual : dict of str to ndarray
        What the messages to the sites have left out so far (:mod:`federation.downlink`).
    """

    number: int
    weights: Weights
    strategy: Weights
    records: list[Record] = field(default_factory=list)
    residual: Weights = field(default_factory=dict)

    def save(self, run: Path) -> None:
        """Write the checkpoint into the folder of its run."""
        state = json.dumps({"number": self.number, "records": self.records})
        parts = {
            "weights": self.weights, "strategy": self.strategy, "residual": self.residual,
        }  # fmt: skip
        _write(run, CHECKPOINT, *pieces(flatten(parts), {"state": state}))

    @classmethod
    def load(cls, run: Path, name: str = CHECKPOINT) -> Checkpoint | None:
        """Read the checkpoint of a run; None if it has finished no round."""
        from safetensors import SafetensorError, safe_open

        path = run / name
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as stored:
                state = json.loads(stored.metadata()["state"])
                parts = unflatten({key: stored.get_tensor(key) for key in stored.keys()})
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise FederationError(
                f"{path} is damaged: delete {run} and run the federation again."
            ) from error
        return cls(
            state["number"],
            parts["weights"],
            parts.get("strategy", {}),
            state["records"],
            parts.get("residual", {}),
        )


def digest(weights: Weights) -> str:
    """SHA-256 of a model's arrays: the same for the same names, forms and bytes."""
    found = hashlib.sha256()
    for piece in pieces(weights):
        found.update(piece)
    return found.hexdigest()


def write_records(run: Path, records: list[Record]) -> None:
    """Publish the records of the finished rounds."""
    lines = "".join(json.dumps(record) + "\n" for record in records)
    _write(run, "rounds.jsonl", lines.encode())


def read_records(run: Path) -> list[Record]:
    """Read the published records; none if no round has finished."""
    try:
        return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return []


def _write(run: Path, name: str, *content: bytes | memoryview) -> None:
    """Write a file of the run, or leave the old one there and say so."""
    with room_for(run / name):
        write_private(run / name, *content)


def identity(run: Path) -> str:
    """What the sites know a run by; made at the first call."""
    path = run / "identity"
    if not path.exists():
        _write(run, path.name, secrets.token_hex(16).encode())
    return path.read_text()


@contextlib.contextmanager
def exclusive(run: Path, *, patience: float = 60.0) -> Iterator[None]:
    """Keep other ServerApps out of a run's folder.

    After a stop, the old ServerApp may need a moment to notice; a new one waits for it. The
    operating system frees the lock when its holder dies.

    Raises
    ------
    FederationError
        If another ServerApp still works on the run after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    with (run / "lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FederationError(
                        f"Another ServerApp is at work on {run}: wait for it or stop it."
                    ) from None
                time.sleep(0.2)
        yield
