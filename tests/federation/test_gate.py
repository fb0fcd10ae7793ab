from __future__ import annotations

import numpy as np
import pytest

from federation.gate import judge
from recsys.evaluate import Ranking, Rankings
from recsys.report import Comparison, compare


def rankings(ranks: np.ndarray) -> Rankings:
    users = len(ranks)
    ranking = Ranking(
        ranks=ranks.astype(float), recommended=np.zeros((users, 10), np.int64),
        correct=ranks == 0, confidence=np.full(users, 0.5), above=np.zeros(users),
        including=np.ones(users),
    )  # fmt: skip
    everyone = np.arange(users)
    return Rankings(10, everyone, everyone, everyone, np.ones(users, np.int64), ranking, ranking)


def comparison(worse: int, better: int) -> Comparison:
    """Of 200 users so many whose item falls from place 1 to 9, and so many where it rises so."""
    before, after = np.full(200, 4), np.full(200, 4)
    before[:worse], after[:worse] = 0, 8
    before[worse : worse + better], after[worse : worse + better] = 8, 0
    return compare(rankings(before), rankings(after))


@pytest.mark.parametrize(
    ("worse", "better", "passed"),
    [(30, 0, False), (30, 5, False), (0, 30, True), (0, 0, True), (10, 10, True), (2, 1, True)],
)
def test_only_a_model_that_is_below_production_beyond_chance_is_stopped(
    worse: int, better: int, passed: bool
) -> None:
    verdict = judge(comparison(worse, better))
    assert verdict.passed is passed
    assert verdict.reason.startswith("not below" if passed else "below")
    assert "on the same 200 users" in verdict.reason


def test_the_figures_are_told() -> None:
    # A place fallen from 1 to 9 loses 1 - 1/log2(10) = 0.6990; 30 of 200 users lose it.
    assert ": -0.1048 (" in judge(comparison(30, 0)).reason
