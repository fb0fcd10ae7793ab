from __future__ import annotations

import numpy as np
import pytest

from federation.contribution import contributions
from federation.strategies.adaptive import FedAdam
from federation.strategies.averaging import FedAvg
from federation.strategies.buffered import FedBuff
from federation.strategies.robust import Krum
from federation.updates import Update, Weights


def sent(site: str, examples: int, change: float) -> Update:
    return Update(site, {"x": np.float32([change])}, examples, 1.0)


START: Weights = {"x": np.float32([0.0])}
ROUNDS = [
    (1, [sent("good", 10, 2.0), sent("bad", 10, -2.0), sent("idle", 20, 0.0)]),
    (2, [sent("good", 10, 1.0), sent("bad", 10, -1.0)]),
    (3, [sent("good", 10, 4.0)]),
]


def nearness(weights: Weights) -> float:
    """Best at 4."""
    return -abs(float(weights["x"][0]) - 4)


def test_a_site_is_worth_what_its_round_loses_without_it() -> None:
    # By hand. Round 1 ends at 0: without good at -2/3, without bad at 2/3, without idle at 0.
    # Round 2 ends at 0: without good at -1, without bad at 1. Round 3 ends at 4, else at 0.
    found = contributions(START, ROUNDS, FedAvg(), nearness)
    assert found[0] == pytest.approx({"good": 2 / 3, "bad": -2 / 3, "idle": 0.0})
    assert found[1] == pytest.approx({"good": 1.0, "bad": -1.0})
    assert found[2] == pytest.approx({"good": 4.0})


def test_the_strategys_memory_is_that_of_the_run_with_all_sites() -> None:
    strategy = FedAdam(rate=0.5)
    weights, state = START, {}
    for _, updates in ROUNDS[:1]:
        weights, state = strategy.aggregate(weights, updates, state)
    whole, _ = strategy.aggregate(weights, ROUNDS[1][1], state)
    without, _ = strategy.aggregate(weights, ROUNDS[1][1][1:], state)
    found = contributions(START, ROUNDS, strategy, nearness)
    assert found[1]["good"] == nearness(whole) - nearness(without)


def test_where_the_strategy_needs_a_site_the_model_stays_without_it() -> None:
    crowd = [sent(f"site-{n}", 1, 1.0) for n in range(3)]
    (found,) = contributions(START, [(1, crowd)], Krum(0), nearness)
    assert found == {"site-0": 1.0, "site-1": 1.0, "site-2": 1.0}


def test_without_a_site_a_buffer_has_a_gap_that_moves_nothing() -> None:
    late = Update("late", {"x": np.float32([3.0])}, 1, 1.0, staleness=3)
    (found,) = contributions(START, [(1, [sent("good", 5, 2.0), late])], FedBuff(2), nearness)
    # 2 / 2 and 3 / 2 / sqrt(1 + 3).
    assert found == pytest.approx({"good": 1.0, "late": 0.75})
