"""Which sites train in a round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def select(sites: Sequence[str], number: int, *, fraction: float = 1.0, seed: int = 0) -> list[str]:
    """Choose the sites that train in round `number`; the same ones if asked again.

    Parameters
    ----------
    sites : sequence of str
        Names to choose from, in any order.
    number : int
        The round.
    fraction : float
        Share of the sites, at least one of them: C in McMahan et al., 2017.
    seed : int
        Seed of the choice.
    """
    count = max(1, round(fraction * len(sites)))
    generator = np.random.default_rng([seed, number])
    chosen = generator.choice(sorted(sites), size=count, replace=False)
    return sorted(str(site) for site in chosen)
