from __future__ import annotations

import numpy as np
import pytest

from federation.strategies.scaffold import Scaffold
from federation.updates import Update, Weights
from tests.federation.strategies.plain import numbers, places

RATE, STEPS = 0.1, 4
# Two sites' losses a/2 (x - b)²: their mean is least at 2.2, FedAvg of several steps is elsewhere.
SITES = {"north": (1.0, -2.0), "south": (3.0, 3.6)}


def test_model_and_control_variate_move_as_in_algorithm_1(
    weights: Weights, updates: list[Update]
) -> None:
    strategy = Scaffold(sites=10)
    first, state = strategy.aggregate(weights, updates, {})
    _, again = strategy.aggregate(first, updates, state)
    present = places(first)
    for place, before in places(weights).items():
        change = 0.0
        for update in updates:
            change += numbers(update).get(place, 0.0) / 7
        assert present[place] == pytest.approx(before + change, rel=1e-5, abs=1e-6)
    for place in range(4):
        change = 0.0
        for update in updates:
            change += numbers(update, "extra")["layer", place] / 10
        assert state["layer"][place] == pytest.approx(change, rel=1e-5)
        assert again["layer"][place] == pytest.approx(2 * change, rel=1e-5)


def test_it_finds_the_common_minimum_that_averaging_misses() -> None:
    """The site's part is written out here as in the paper, with option II."""
    weights, state = {"x": np.zeros(1, np.float64)}, {}
    own = dict.fromkeys(SITES, 0.0)
    averaged = 0.0
    for _ in range(200):
        sent, ends = [], []
        x, c = weights["x"].item(), state.get("x", np.zeros(1)).item()
        for site, (a, b) in SITES.items():
            y, plain = x, averaged
            for _ in range(STEPS):
                y -= RATE * (a * (y - b) + c - own[site])
                plain -= RATE * a * (plain - b)
            renewed = own[site] - c + (x - y) / (STEPS * RATE)
            sent.append(
                Update(site, {"x": np.array([y - x])}, 1, 1.0,
                       extra={"x": np.array([renewed - own[site]])})
            )  # fmt: skip
            own[site] = renewed
            ends.append(plain)
        weights, state = Scaffold(sites=2).aggregate(weights, sent, state)
        averaged = sum(ends) / len(ends)
    assert weights["x"].item() == pytest.approx(2.2, abs=1e-6)
    assert abs(averaged - 2.2) > 0.1
