"""Training state on disk, whole or not at all."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from recsys.errors import RecsysError
from recsys.files import write_atomically


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and texts, such that a kill at any moment loses no older state."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError:
                # torch does not always tell that a disk is full; the file does.
                file.write(bytes(1 << 20))
                file.flush()
                raise

    write_atomically(path, write)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read what `save_checkpoint` wrote, or None if there is nothing yet.

    Raises
    ------
    RecsysError
        When the file is damaged, or holds anything but plain data.
    """
    if not path.exists():
        return None
    damaged = RecsysError(f"checkpoint {path} is damaged; delete it to train from the start")
    # Of anything but an archive, torch would try to read the first bytes as an older format.
    if not zipfile.is_zipfile(path):
        raise damaged
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise damaged from error
