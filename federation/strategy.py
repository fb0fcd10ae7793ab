"""How the server combines what the sites send.

Plain arithmetic on named NumPy arrays: no Flower, no files, no clock. The same updates give the
same bytes in whatever order they arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from federation.errors import FederationError

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Update:
    """What a site sends back after it trained.

    Attributes
    ----------
    site : str
        The site's name.
    weights : dict of str to ndarray
        All the arrays of its model.
    examples : int
        Number of interactions that it trained on.
    loss : float
        Mean training loss.
    """

    site: str
    weights: Weights
    examples: int
    loss: float


class FedAvg:
    """Federated averaging (McMahan et al., 2017, algorithm 1).

    Parameters
    ----------
    fraction : float
        Share of the sites that train in a round: C in the paper.
    seed : int
        Seed of the choice.
    """

    proximal_mu = 0.0

    def __init__(self, *, fraction: float = 1.0, seed: int = 0) -> None:
        self._fraction = fraction
        self._seed = seed

    def select(self, sites: Sequence[str], number: int) -> list[str]:
        """Choose the sites that train in round `number`; the same ones if asked again."""
        count = max(1, round(self._fraction * len(sites)))
        generator = np.random.default_rng([self._seed, number])
        chosen = generator.choice(sorted(sites), size=count, replace=False)
        return sorted(str(site) for site in chosen)

    def aggregate(self, weights: Weights, updates: Sequence[Update]) -> Weights:
        """Average the sites' weights, each counted by its number of examples.

        Parameters
        ----------
        weights : dict of str to ndarray
            Global weights that the sites started from.
        updates : sequence of Update
            At least one, each accepted by :func:`check_update`.

        Returns
        -------
        dict of str to ndarray
            New global weights, of the same names, shapes and types. Arrays that are not floating
            point (masks, counters) are not trained and stay as they were.
        """
        ordered = sorted(updates, key=lambda update: update.site)
        total = sum(update.examples for update in ordered)
        combined: Weights = {}
        for name, present in weights.items():
            if not np.issubdtype(present.dtype, np.floating):
                combined[name] = present
                continue
            # Summed in double precision: with many sites, single precision loses the small ones.
            average = np.zeros(present.shape, np.float64)
            for update in ordered:
                average += update.weights[name].astype(np.float64) * (update.examples / total)
            combined[name] = average.astype(present.dtype)
        return combined


class FedProx(FedAvg):
    """FedProx (Li et al., 2020, algorithm 2): FedAvg whose sites stay close to the global model.

    The server averages as FedAvg does; each site adds ``mu/2 · ||w - w_global||²`` to its loss.

    Parameters
    ----------
    proximal_mu : float
        Weight mu of the proximal term.
    fraction, seed
        See :class:`FedAvg`.
    """

    def __init__(self, *, proximal_mu: float, fraction: float = 1.0, seed: int = 0) -> None:
        super().__init__(fraction=fraction, seed=seed)
        self.proximal_mu = proximal_mu


def check_update(weights: Weights, update: Update) -> None:
    """Refuse an update that would damage the global model.

    Raises
    ------
    FederationError
        If the arrays differ from the global ones in name, shape or type, a number is not finite,
        or the number of examples is not positive.
    """
    site = f"Site {update.site!r}"
    if update.examples < 1:
        raise FederationError(f"{site} trained on {update.examples} interactions: expected some.")
    if not np.isfinite(update.loss):
        raise FederationError(f"{site} sent a training loss of {update.loss}: its training failed.")
    if unlike := sorted(weights.keys() ^ update.weights.keys()):
        raise FederationError(
            f"{site} sent another model: the array {unlike[0]!r} is not on both sides."
        )
    for name, present in weights.items():
        sent = update.weights[name]
        if sent.shape != present.shape or sent.dtype != present.dtype:
            raise FederationError(
                f"{site} sent {name!r} as {sent.dtype}{list(sent.shape)}: expected "
                f"{present.dtype}{list(present.shape)}."
            )
        if not np.isfinite(sent).all():
            raise FederationError(f"{site} sent NaN or infinity in {name!r}: its training failed.")


def average_metrics(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Average the sites' metrics, each counted by its number of evaluated users.

    Parameters
    ----------
    metrics : dict of str to dict
        By site: the same names everywhere, among them "users".

    Returns
    -------
    dict of str to float
        The averages, and under "users" the sum.
    """
    users = sum(values["users"] for values in metrics.values())
    names = next(iter(metrics.values())).keys() - {"users"}
    averages = {
        name: sum(metrics[site][name] * metrics[site]["users"] for site in sorted(metrics))
        / max(users, 1)
        for name in sorted(names)
    }
    return averages | {"users": int(users)}
