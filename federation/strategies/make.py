"""Which strategy a run's settings ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from federation.strategies.averaging import FedAvg
from federation.updates import Update, Weights

if TYPE_CHECKING:
    from federation.settings import RunSettings


class Strategy(Protocol):
    """How the server combines what the sites send: a pure function of its arguments."""

    def aggregate(
        self, weights: Weights, updates: Sequence[Update], state: Weights
    ) -> tuple[Weights, Weights]:
        """Combine the updates of a round; see :class:`federation.strategies.averaging.FedAvg`.

        `state` is the strategy's own arrays, ``{}`` before the first round; it is saved with the
        round's checkpoint and handed to the next round.
        """


def make_strategy(settings: RunSettings) -> Strategy:
    """Make the strategy that `settings` name."""
    return {"fedavg": FedAvg, "fedprox": FedAvg}[settings.strategy]()
