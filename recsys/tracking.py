"""Where the figures of a run go while it runs: TensorBoard always, Weights & Biases on request."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from recsys.errors import RecsysError


class Tracker:
    """Figures of one run by stage and epoch.

    Parameters
    ----------
    folder
        The run's; ``tensorboard/`` and ``wandb/`` are made in it.
    configuration
        What the run is made of, shown beside its figures.
    wandb_project
        Project on Weights & Biases, which is a server of another company: nothing is sent there
        unless a project is named. WANDB_MODE=offline keeps the record in the folder.

    Raises
    ------
    RecsysError
        A project is named, and W&B is not installed or does not let us in.
    """

    def __init__(
        self, folder: Path, configuration: dict[str, Any], wandb_project: str | None = None
    ) -> None:
        self._run = _start_wandb(folder, configuration, wandb_project) if wandb_project else None
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        if self._run is not None:
            self._run.finish(exit_code=0 if kind is None else 1)

    def log(self, stage: str, epoch: int, figures: dict[str, float]) -> None:
        """Record figures of a stage after one of its epochs, from 1."""
        for name, value in figures.items():
            self._writer.add_scalar(f"{stage}/{name}", value, epoch)
        self._writer.flush()
        if self._run is not None:
            # Each stage counts its own epochs; W&B's own step only ever rises.
            named = {f"{stage}/{name}": value for name, value in figures.items()}
            self._run.log({f"{stage}/epoch": epoch, **named})


def _start_wandb(folder: Path, configuration: dict[str, Any], project: str) -> Any:
    try:
        import wandb
    except ImportError:
        raise RecsysError(
            f"Weights & Biases is not installed, so there is no project {project!r} to report to: "
            "pip install wandb, or leave it out"
        ) from None
    place = os.path.realpath(folder)
    try:
        return wandb.init(
            project=project,
            # One run of ours is one run there, however often it is resumed.
            id=hashlib.sha256(place.encode()).hexdigest()[:16],
            resume="allow",
            name=folder.name,
            dir=folder,
            config=configuration,
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.Error as error:
        raise RecsysError(
            f"Weights & Biases does not take project {project!r} ({error}): run wandb login, or set "
            "WANDB_MODE=offline"
        ) from None
