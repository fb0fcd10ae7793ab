"""Federated runs that have been: what each did, how far it came, and whether it still goes on."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.checkpoint import read_records
from federation.errors import FederationError


@dataclass(frozen=True)
class PastRun:
    """One run, as its folder tells of it.

    Attributes
    ----------
    name : str
        Name of its folder.
    state : str
        "finished", "running" (a ServerApp is at work on it) or "interrupted".
    started : float
        When it was first asked for, in seconds since the epoch.
    settings : dict
        What it does; see :class:`federation.settings.RunSettings`.
    records : list of dict
        One a published round, from round 0, which is the model that it started from.
    """

    name: str
    state: str
    started: float
    settings: dict[str, Any]
    records: list[dict[str, Any]]

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """Records of the rounds that trained."""
        return [record for record in self.records if record["round"] > 0]


def past_runs(folder: Path) -> list[PastRun]:
    """All runs whose folders lie in `folder`, the newest first.

    Raises
    ------
    FederationError
        If a run's settings cannot be read.
    """
    found = [_read(path.parent) for path in folder.glob("*/settings.json")]
    return sorted(found, key=lambda run: (run.started, run.name), reverse=True)


def find_run(folder: Path, name: str | None) -> PastRun:
    """The run of that name or of the first digits of one; without a name the newest.

    Raises
    ------
    FederationError
        If none or several are meant.
    """
    runs = past_runs(folder)
    if name is None:
        if not runs:
            raise FederationError("There is no federated run yet: start one with hybrid federate.")
        return runs[0]
    digits = name.removeprefix("federate-")
    named = {run.name.removeprefix("federate-"): run for run in runs}
    meant = [run for key, run in named.items() if key.startswith(digits)]
    if digits in named:
        meant = [named[digits]]
    if len(meant) != 1:
        known = ", ".join(run.name for run in meant or runs) or "none"
        raise FederationError(
            f"Run {name!r} is {'not one' if meant else 'none'} of the runs: name one of {known}."
        )
    return meant[0]


def _read(folder: Path) -> PastRun:
    path = folder / "settings.json"
    try:
        settings = json.loads(path.read_text())
        if not isinstance(settings, dict):
            raise ValueError("no mapping")
        records = read_records(folder)
    except ValueError as error:
        raise FederationError(
            f"{folder} is damaged ({error}): delete it and run the federation again."
        ) from error
    if (folder / "artifact").exists():
        state = "finished"
    else:
        state = "running" if _is_locked(folder / "lock") else "interrupted"
    return PastRun(folder.name, state, path.stat().st_mtime, settings, records)


def _is_locked(path: Path) -> bool:
    """Whether a ServerApp holds the lock of its run; see `federation.checkpoint.exclusive`."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
