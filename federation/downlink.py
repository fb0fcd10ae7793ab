"""How the model gets from the server to sites that hold an earlier one: as what changed since.

The model of round n is the model of round n - 1 plus what message n says. The server adds the
message to its own model as the sites do to theirs, so that all end a round with the same bytes;
what the message leaves out waits at the server for the next one. A site that missed rounds gets
their messages one after the other, or the whole model where that is not larger.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord
from safetensors import SafetensorError
from safetensors.numpy import load, save

from federation.compression import Compression, apply, encode
from federation.errors import FederationError
from federation.files import room_for, write_private
from federation.protocol import write_model
from federation.strategies.make import Additive, Strategy
from federation.updates import Delta, Rows, Update, Weights

# Name of the part of a message that is the whole model; other parts are named by their round.
WHOLE = "whole"
# Rows that are compared at a time: a table as large as the model's would take its memory again.
CHUNK_ROWS = 1 << 14


def advance(
    weights: Weights, change: Delta, residual: Weights, compression: Compression
) -> tuple[bytes, Weights]:
    """Change the model in place by what a message can say, and give the message.

    Parameters
    ----------
    weights : dict of str to ndarray
        What every site holds; afterwards, what every site holds that has read the message.
    change : dict of str to ndarray or Rows
        What the round changed.
    residual : dict of str to ndarray
        What earlier messages left out; see :func:`federation.compression.encode`.
    compression : Compression
        How to write it.

    Returns
    -------
    bytes, dict of str to ndarray
        The message, and what waits for the next.
    """
    single = {name: _in_float32(part) for name, part in change.items()}
    message, residual = encode(single, residual, compression, weights)
    apply(message, weights)
    return message, residual


def combine(
    strategy: Strategy, weights: Weights, updates: Sequence[Update], state: Weights
) -> tuple[Delta, Weights]:
    """What a strategy makes of the updates, as a change of the weights; and its new state."""
    # What only adds something to the weights needs no second table of them.
    if isinstance(strategy, Additive):
        return strategy.change(updates), state
    after, state = strategy.aggregate(weights, updates, state)
    return changed(weights, after), state


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
        """Keep the message that makes the model of round `number` from the one before.

        Raises
        ------
        FederationError
            If it cannot be written.
        """
        with room_for(self._file(number)):
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

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.bin"


class Behind(FederationError):
    """A site does not hold the model that a message goes on from."""


class Outgoing:
    """The model of a round, in the form that each site can read.

    Parameters
    ----------
    weights : dict of str to ndarray
        The model.
    number : int
        Its round.
    messages : Messages or None
        Of the rounds so far; None to send the whole model always.
    held : dict of str to int
        Round of the model that a site is known to hold. Changed: a site that is sent the whole
        model, or has lost what it held, is taken out.
    """

    def __init__(
        self, weights: Weights, number: int, messages: Messages | None, held: dict[str, int]
    ) -> None:
        self._weights, self._number, self._messages = weights, number, messages
        self._held = held if messages else {}
        self._made: dict[tuple[str, ...], ArrayRecord] = {}
        self._size = sum(array.nbytes for array in weights.values())

    @cached_property
    def _whole(self) -> bytes:
        return save(self._weights)

    def message(self, site: str) -> ArrayRecord:
        """What a site is sent: sites that get the same share it, since a model may be large."""
        parts = self._parts(site)
        names = tuple(parts)
        if names not in self._made:
            self._made[names] = write_model(parts)
        return self._made[names]

    def _parts(self, site: str) -> dict[str, bytes]:
        held = self._held.get(site)
        if self._messages is not None and held is not None:
            messages = self._messages.since(held, self._number, self._size)
            if messages is not None:
                return {str(held + 1 + place): each for place, each in enumerate(messages)}
        self._held.pop(site, None)
        return {WHOLE: self._whole}

    def has_lost(self, site: str) -> bool:
        """Note that a site does not hold what it was thought to; False if it was sent all."""
        return self._held.pop(site, None) is not None


def arrived(parts: Mapping[str, bytes], held: Delta, held_number: int | None, number: int) -> Weights:
    """The model of a round at a site, from a message's parts and the model that the site holds.

    Parameters
    ----------
    parts : mapping of str to bytes
        By name, from :meth:`Outgoing.message`.
    held : dict of str to ndarray
        The model that the site holds.
    held_number : int or None
        Its round; None if the site holds none.
    number : int
        Round of the model that the message is about.

    Raises
    ------
    Behind
        If what lies between the two models is not in the message.
    FederationError
        If the message holds no model.
    """
    if WHOLE in parts:
        try:
            return load(parts[WHOLE])
        except SafetensorError as error:
            raise FederationError(f"The message holds no model ({error}).") from error
    missed = [str(each) for each in range((held_number or 0) + 1, number + 1)]
    if held_number is None or held_number > number or not set(missed) <= parts.keys():
        raise Behind(f"the site does not hold a model from which round {number} can be reached.")
    weights = {name: np.array(array) for name, array in held.items()}
    for each in missed:
        apply(parts[each], weights)
    return weights


def _in_float32(part: np.ndarray | Rows) -> np.ndarray | Rows:
    if isinstance(part, Rows):
        return Rows(part.index, part.values.astype(np.float32, copy=False))
    return part.astype(np.float32, copy=False)
