"""Which strategy a run's settings ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from federation.strategies.adaptive import FedAdam, FedAvgM, FedYogi
from federation.strategies.averaging import FedAvg
from federation.strategies.buffered import FedBuff
from federation.strategies.robust import Krum, TrimmedMean
from federation.strategies.scaffold import Scaffold
from federation.updates import Delta, Update, Weights

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


@runtime_checkable
class Additive(Strategy, Protocol):
    """A strategy that remembers nothing and adds to the weights what follows from the updates."""

    def change(self, updates: Sequence[Update]) -> Delta:
        """What :meth:`aggregate` adds to the weights: as small as what the sites sent."""


STRATEGIES: dict[str, Callable[[RunSettings], Strategy]] = {
    "fedavg": lambda run: FedAvg(by_row=run.by_row),
    "fedprox": lambda run: FedAvg(by_row=run.by_row),
    "fedavgm": lambda run: FedAvgM(run.server_momentum, by_row=run.by_row),
    "fedadam": lambda run: FedAdam(run.server_rate, by_row=run.by_row),
    "fedyogi": lambda run: FedYogi(run.server_rate, by_row=run.by_row),
    "scaffold": lambda run: Scaffold(len(run.sites)),
    "krum": lambda run: Krum(run.wrong_sites),
    "multi-krum": lambda run: Krum(run.wrong_sites, several=True),
    "trimmed-mean": lambda run: TrimmedMean(run.wrong_sites),
    "fedbuff": lambda run: FedBuff(run.buffer),
}
"""How to make each strategy of a run's settings."""

USED_BY = {
    "proximal_mu": ("fedprox",),
    "server_rate": ("fedadam", "fedyogi"),
    "server_momentum": ("fedavgm",),
    "buffer": ("fedbuff",),
    "wrong_sites": ("krum", "multi-krum", "trimmed-mean"),
    "by_row": ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"),
}
"""Settings that only some strategies use; each but the last is one that these need."""


def make_strategy(settings: RunSettings) -> Strategy:
    """Make the strategy that `settings` name."""
    return STRATEGIES[settings.strategy](settings)
