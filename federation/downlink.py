"""How the model gets from the server to sites that hold an earlier one: as what changed since.

The model of round n is the model of round n - 1 plus what message n says. The server adds the
message to its own model as the sites do to theirs, so that all end a round with the same bytes;
what the message leaves out waits at the server for the next one. A site that missed rounds gets
their messages one after the other, or the whole model where that is not larger.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from federation.compression import Compression, decode, encode
from federation.files import write_private
from federation.updates import Delta, Rows, Weights

# Rows that are compared at a time: a table as large as the model's would take its memory again.
CHUNK_ROWS = 1 << 14


def advance(
    weights: Weights, change: Delta, residual: Delta, compression: Compression
) -> tuple[bytes, Delta]:
    """Change the model in place by what a message can say, and give the message.

    Parameters
    ----------
    weights : dict of str to ndarray
        What every site holds; afterwards, what every site holds that has read the message.
    change : dict of str to ndarray or Rows
        What the round changed.
    residual : dict of str to ndarray or Rows
        What earlier messages left out.
    compression : Compression
        How to write it.

    Returns
    -------
    bytes, dict of str to ndarray or Rows
        The message, and what waits for the next.
    """
    single = {name: _in_float32(part) for name, part in change.items()}
    message, residual = encode(single, residual, compression)
    receive(weights, message)
    return message, residual


def receive(weights: Weights, message: bytes) -> None:
    """Change the model in place by what a message says.

    Raises
    ------
    FederationError
        If the message cannot be read; the model is as it was then.
    """
    for name, change in decode(message, weights).items():
        if isinstance(change, Rows):
            weights[name][change.index] += change.values
        else:
            weights[name] += change


def changed(before: Weights, after: Weights) -> Delta:
    """After minus before, as rows where there are rows; little memory besides what changed."""
    delta: Delta = {}
    for name, old in before.items():
        new = after[name]
        if not np.issubdtype(old.dtype, np.floating) or new is old:
            continue
        if old.ndim < 2:
            if (new != old).any():
                delta[name] = new - old
            continue
        starts = range(0, len(old), CHUNK_ROWS)
        parts = (slice(start, start + CHUNK_ROWS) for start in starts)
        index = np.concatenate(
            [
                part.start + np.flatnonzero((new[part] != old[part]).reshape(len(old[part]), -1).any(1))
                for part in parts
            ]
            or [np.zeros(0, np.int64)]
        )
        if len(index):
            delta[name] = Rows(index, new[index] - old[index])
    return delta


class Messages:
    """The messages of a run's rounds, in a folder.

    Parameters
    ----------
    folder : Path
        Made when the first message is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, number: int, message: bytes) -> None:
        """Keep the message that makes the model of round `number` from the one before."""
        self._folder.mkdir(exist_ok=True)
        write_private(self._file(number), message)

    def since(self, held: int | None, number: int, most: int) -> list[bytes] | None:
        """The messages that make the model of round `number` from the one that a site holds.

        Parameters
        ----------
        held : int or None
            Round of the model that the site holds; None if it has none.
        number : int
            Round of the model that it shall hold.
        most : int
            Bytes of the whole model.

        Returns
        -------
        list of bytes or None
            In order; None if the site must get the whole model.
        """
        if held is None or held > number:
            return None
        messages: list[bytes] = []
        with contextlib.suppress(FileNotFoundError):
            for each in range(held + 1, number + 1):
                messages.append(self._file(each).read_bytes())
        if len(messages) < number - held or sum(map(len, messages)) >= most:
            return None
        return messages

    def forget(self, before: int) -> None:
        """Delete the messages of the rounds before a round, which no site needs any more."""
        for file in self._folder.glob("*.bin"):
            if int(file.stem) < before:
                file.unlink(missing_ok=True)

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.bin"


def replay(weights: Weights, messages: Sequence[bytes]) -> None:
    """Change the model in place by one message after the other."""
    for message in messages:
        receive(weights, message)


def _in_float32(part: np.ndarray | Rows) -> np.ndarray | Rows:
    if isinstance(part, Rows):
        return Rows(part.index, part.values.astype(np.float32, copy=False))
    return part.astype(np.float32, copy=False)
