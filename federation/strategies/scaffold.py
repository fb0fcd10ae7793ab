"""SCAFFOLD: control variates that take the sites' drift out of their steps.

The site's part is :class:`recsys.drift.ControlVariates`, which gives the site's new ``c_i``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from federation.strategies.averaging import in_order, weighted_sum
from federation.updates import Update, Weights, add


class Scaffold:
    """SCAFFOLD's server (Karimireddy et al., 2020, algorithm 1, lines 16 and 17; eta_g = 1).

    Parameters
    ----------
    sites : int
        All sites of the run, N in the paper, whether or not they train in a round.
    """

    def __init__(self, sites: int) -> None:
        self._sites = sites

    def aggregate(
        self, weights: Weights, updates: Sequence[Update], state: Weights
    ) -> tuple[Weights, Weights]:
        """Move by the plain mean of the sites' changes, and the control variate by theirs.

        `state` is the server's control variate c by names of the model's arrays, 0 where one is
        missing; sites receive it with the model. Each update brings ``c_i⁺ - c_i`` in `extra`.
        """
        ordered = in_order(updates)
        plain = [1 / len(ordered)] * len(ordered)
        moved = add(weights, weighted_sum([update.delta for update in ordered], plain))
        all_sites = [1 / self._sites] * len(ordered)
        change = weighted_sum([update.extra for update in ordered], all_sites)
        known = {name: np.zeros_like(weights[name]) for name in change} | state
        return moved, add(known, change)
