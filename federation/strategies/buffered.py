"""Asynchronous rounds: the server does not wait for the slowest site."""

from __future__ import annotations

import math
from collections.abc import Sequence

from federation.errors import FederationError
from federation.strategies.averaging import in_order, weighted_sum
from federation.updates import Delta, Update, Weights, add


class FedBuff:
    """FedBuff (Nguyen et al., 2022, algorithm 1), one call for each time its buffer is full.

    Who calls keeps the buffer: it takes the first `buffer` updates that come, whichever versions of
    the model they started from, and leaves the others for the next call.

    Parameters
    ----------
    buffer : int
        Updates that make a new version of the model: K in the paper.
    rate : float
        Server learning rate eta_g.
    """

    def __init__(self, buffer: int, rate: float = 1.0) -> None:
        self._buffer, self._rate = buffer, rate

    def aggregate(
        self, weights: Weights, updates: Sequence[Update], state: Weights
    ) -> tuple[Weights, Weights]:
        """Add the buffer's mean, each update times ``1 / sqrt(1 + staleness)``.

        Raises
        ------
        FederationError
            If the buffer is not full.
        """
        return add(weights, self.change(updates)), state

    def change(self, updates: Sequence[Update]) -> Delta:
        """What :meth:`aggregate` adds to the weights.

        The mean is over K as in the paper, not over the weights: stale updates move the model less.
        """
        if len(updates) != self._buffer:
            raise FederationError(
                f"{len(updates)} updates: the buffer holds {self._buffer} of them."
            )
        ordered = in_order(updates)
        shares = [
            self._rate / (self._buffer * math.sqrt(1 + update.staleness)) for update in ordered
        ]
        return weighted_sum([u.delta for u in ordered], shares)
