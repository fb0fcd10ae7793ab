"""Server optimisers: the mean change of a round is taken for a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from federation.strategies.averaging import mean_delta
from federation.updates import Rows, Update, Weights

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99
# Degree of adaptivity, tau: what the second moments begin at is its square.
ADAPTIVITY = 1e-3


class FedAvgM:
    """Averaging with momentum at the server (Hsu et al., 2019, eq. 2, with a server rate of 1).

    What one of many sites learns of a row moves its mean by little; with momentum it goes on moving,
    up to ``1 / (1 - momentum)`` times as far. A row that no site touched goes on by its momentum.

    Parameters
    ----------
    momentum : float
        beta, in (0, 1).
    by_row : bool
        See :func:`federation.strategies.averaging.mean_delta`.
    """

    def __init__(self, momentum: float, *, by_row: bool = False) -> None:
        self._momentum, self._by_row = momentum, by_row

    def aggregate(
        self, weights: Weights, updates: Sequence[Update], state: Weights
    ) -> tuple[Weights, Weights]:
        """Move by the momentum, which `state` holds of every array that ever changed, in float32."""
        change = mean_delta(updates, by_row=self._by_row)
        moved, momenta = dict(weights), {}
        for name in sorted(state.keys() | change.keys()):
            before = weights[name]
            momentum = state.get(name, np.zeros_like(before)).astype(np.float64)
            momentum = self._momentum * momentum + _dense(change.get(name), before)
            # Arithmetic on an array without axes gives a number: it is made an array again.
            moved[name] = np.asarray(before + momentum, before.dtype)
            momenta[name] = np.asarray(momentum, np.float32)
        return moved, momenta


class FedAdam:
    """FedAdam (Reddi et al., 2021, algorithm 2), whose server takes Adam's steps.

    As in the paper the moments have no bias correction and the second ones begin at tau². A row
    that no site touched has the change 0: its moments decay, and it goes on moving by them.

    Parameters
    ----------
    rate : float
        Server learning rate eta.
    by_row : bool
        See :func:`federation.strategies.averaging.mean_delta`.
    """

    def __init__(self, rate: float, *, by_row: bool = False) -> None:
        self._rate, self._by_row = rate, by_row

    def aggregate(
        self, weights: Weights, updates: Sequence[Update], state: Weights
    ) -> tuple[Weights, Weights]:
        """Take one step of the server's optimiser.

        `state` holds the moments of every array that ever changed, as ``first/NAME`` and
        ``second/NAME`` in float32: twice the model.
        """
        change = mean_delta(updates, by_row=self._by_row)
        known = {key.split("/", 1)[1] for key in state}
        moved, moments = dict(weights), {}
        for name in sorted(known | change.keys()):
            before = weights[name]
            delta = _dense(change.get(name), before)
            first = state.get(f"first/{name}", np.zeros_like(before)).astype(np.float64)
            second = state.get(f"second/{name}", np.full_like(before, ADAPTIVITY**2))
            first = FIRST_DECAY * first + (1 - FIRST_DECAY) * delta
            second = self._second_moment(second.astype(np.float64), np.square(delta))
            step = self._rate * first / (np.sqrt(second) + ADAPTIVITY)
            # Arithmetic on an array without axes gives a number: it is made an array again.
            moved[name] = np.asarray(before + step, before.dtype)
            moments[f"first/{name}"] = np.asarray(first, np.float32)
            moments[f"second/{name}"] = np.asarray(second, np.float32)
        return moved, moments

    def _second_moment(self, second: np.ndarray, square: np.ndarray) -> np.ndarray:
        return SECOND_DECAY * second + (1 - SECOND_DECAY) * square


class FedYogi(FedAdam):
    """FedYogi (Reddi et al., 2021, algorithm 2): second moments that move by bounded steps."""

    def _second_moment(self, second: np.ndarray, square: np.ndarray) -> np.ndarray:
        return second - (1 - SECOND_DECAY) * square * np.sign(second - square)


def _dense(change: np.ndarray | Rows | None, like: np.ndarray) -> np.ndarray:
    if change is None:
        return np.zeros(like.shape)
    return change.dense(len(like)) if isinstance(change, Rows) else change
