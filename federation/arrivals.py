"""Updates that have arrived and not yet made a model, one file each, in their order of arrival.

What a buffered run (:mod:`federation.asynchronous`) writes down before it counts. The number of a
file goes on over all versions of a run, so that after a crash those that a version was made of are
known from the others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from federation.errors import FederationError
from federation.ledger import read_updates, write_updates
from federation.updates import Update


@dataclass(frozen=True)
class Arrival:
    """An update, and what is known of how it came.

    Attributes
    ----------
    version : int
        Version of the model that the site received.
    update : Update
    figures : dict of str to float
        The site's metrics of that version on its held-out users.
    answered : float
        Seconds from the question to the answer.
    moved : int
        Bytes of both.
    """

    version: int
    update: Update
    figures: dict[str, float]
    answered: float
    moved: int

    @property
    def site(self) -> str:
        """Who sent it."""
        return self.update.site


class Arrivals:
    """The updates of a run that wait in a folder.

    Parameters
    ----------
    folder : Path
    counted : int
        How many made models already: the first ones of the run.
    """

    def __init__(self, folder: Path, *, counted: int) -> None:
        self._folder, self._counted = folder, counted
        self._next = counted + 1
        folder.mkdir(exist_ok=True)

    def load(self) -> list[Arrival]:
        """Those that have made no model yet; files of others are deleted.

        Raises
        ------
        FederationError
            If a file is damaged.
        """
        self.forget(0)
        found = []
        while (path := self._file(self._next)).exists():
            (update,), about = read_updates(path)
            try:
                found.append(Arrival(update=update, **json.loads(about["arrival"])))
            except (KeyError, ValueError, TypeError) as error:
                raise FederationError(f"{path} is damaged: {error}.") from error
            self._next += 1
        return found

    def keep(self, arrival: Arrival) -> None:
        """Write an update down.

        Raises
        ------
        FederationError
            If the disk is full.
        """
        about = {
            "version": arrival.version, "figures": arrival.figures,
            "answered": arrival.answered, "moved": arrival.moved,
        }  # fmt: skip
        write_updates(self._file(self._next), [arrival.update], {"arrival": json.dumps(about)})
        self._next += 1

    def forget(self, count: int) -> None:
        """Delete the next so many, of which a model was made."""
        self._counted += count
        for path in self._folder.glob("*.safetensors"):
            if int(path.stem) <= self._counted:
                path.unlink()

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.safetensors"
