from __future__ import annotations

import math

import pytest

from federation.strategies.adaptive import FedAdam, FedAvgM, FedYogi
from federation.updates import Update, Weights
from tests.federation.strategies.plain import numbers, places


@pytest.mark.parametrize("strategy", [FedAdam, FedYogi])
def test_two_rounds_are_those_of_algorithm_2(
    strategy: type[FedAdam], weights: Weights, updates: list[Update]
) -> None:
    rounds = [updates[:3], updates[3:5]]
    moved, state = weights, {}
    for sent in rounds:
        moved, state = strategy(rate=0.05).aggregate(moved, sent, state)

    present = places(moved)
    for place, x in places(weights).items():
        m, v = 0.0, 1e-6  # the paper's m_-1 = 0 and v_-1 = tau²
        for sent in rounds:
            examples = sum(update.examples for update in sent)
            delta = 0.0
            for update in sent:
                delta += numbers(update).get(place, 0.0) * update.examples / examples
            m = 0.9 * m + 0.1 * delta
            if strategy is FedAdam:
                v = 0.99 * v + 0.01 * delta**2
            elif v > delta**2:
                v = v - 0.01 * delta**2
            elif v < delta**2:
                v = v + 0.01 * delta**2
            x += 0.05 * m / (math.sqrt(v) + 1e-3)
        assert present[place] == pytest.approx(x, rel=1e-4, abs=1e-6), place


def test_three_rounds_of_fedavgm_add_up_what_is_left_of_each_change(
    weights: Weights, updates: list[Update]
) -> None:
    rounds = [updates[:3], updates[3:5], updates[:1]]
    moved, state = weights, {}
    for sent in rounds:
        moved, state = FedAvgM(momentum=0.6).aggregate(moved, sent, state)
    present = places(moved)
    # A change moves by itself, then by 0.6 and by 0.36 of itself.
    reach = [1 + 0.6 + 0.36, 1 + 0.6, 1.0]
    for place, x in places(weights).items():
        for sent, times in zip(rounds, reach, strict=True):
            examples = sum(update.examples for update in sent)
            for update in sent:
                x += times * numbers(update).get(place, 0.0) * update.examples / examples
        assert present[place] == pytest.approx(x, rel=1e-4, abs=1e-6), place


def test_an_untouched_row_goes_on_by_its_momentum(weights: Weights, updates: list[Update]) -> None:
    strategy = FedAdam(rate=0.05)
    first, state = strategy.aggregate(weights, updates[:1], {})
    (row, *_) = updates[0].delta["table"].index
    layer_only = Update("site-9", {"layer": updates[0].delta["layer"]}, 5, 1.0)
    second, _ = strategy.aggregate(first, [layer_only], state)
    moves = [first["table"][row] - weights["table"][row], second["table"][row] - first["table"][row]]
    assert (moves[0] * moves[1] > 0).all()
