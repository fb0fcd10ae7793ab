"""Each metric against a slow reference that follows its definition word by word."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.metrics import (
    catalogue_coverage,
    discounted_gains,
    expected_calibration_error,
    gini_index,
    hits,
    list_popularity,
    long_tail_shares,
    reciprocal_ranks,
    target_calibration_error,
)

ITEMS = 12
RANKS = st.lists(st.one_of(st.integers(0, 30), st.just(math.inf)), min_size=1, max_size=20)
# Lists of up to three different items, padded as a user's who has no more left.
LISTS = st.lists(
    st.lists(st.integers(0, ITEMS - 1), max_size=3, unique=True).map(
        lambda items: items + [-1] * (3 - len(items))
    ),
    min_size=1,
    max_size=15,
)
EVENTS = st.lists(st.integers(0, 20), min_size=ITEMS, max_size=ITEMS)
CLAIMS = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=40)
MASSES = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), min_size=1, max_size=20
)


@given(RANKS, st.integers(1, 20))
def test_accuracy_per_user(ranks: list[float], k: int) -> None:
    array = np.array(ranks, dtype=np.float64)
    lists = [[place == rank for place in range(k)] for rank in ranks]
    assert hits(array, k).tolist() == [float(any(found)) for found in lists]
    gains = [sum(hit / math.log2(place + 2) for place, hit in enumerate(found)) for found in lists]
    assert discounted_gains(array, k) == pytest.approx(gains)
    found_at = [0.0 if math.isinf(rank) else 1 / (rank + 1) for rank in ranks]
    assert reciprocal_ranks(array) == pytest.approx(found_at)


@given(LISTS, EVENTS)
def test_popularity_of_the_lists(lists: list[list[int]], events: list[int]) -> None:
    shown = [[item for item in row if item >= 0] for row in lists]
    popularity = [sum(events[i] for i in row) / len(row) if row else 0.0 for row in shown]
    assert list_popularity(np.array(lists), np.array(events)) == pytest.approx(popularity)

    by_popularity = sorted(range(ITEMS), key=lambda item: (-events[item], item))
    tail = set(by_popularity[3:])  # a fifth of twelve, rounded up, is the head
    shares = [sum(i in tail for i in row) / len(row) if row else 0.0 for row in shown]
    assert long_tail_shares(np.array(lists), np.array(events)) == pytest.approx(shares)


@given(LISTS)
def test_spread_over_the_catalogue(lists: list[list[int]]) -> None:
    shown = [item for row in lists for item in row if item >= 0]
    recommended = np.array(lists)
    assert catalogue_coverage(recommended, ITEMS) == len(set(shown)) / ITEMS
    exposure = [shown.count(item) for item in range(ITEMS)]
    # Half of the relative mean absolute difference.
    differences = sum(abs(a - b) for a in exposure for b in exposure)
    expected = differences / (2 * ITEMS * sum(exposure)) if shown else 0.0
    assert gini_index(recommended, ITEMS) == pytest.approx(expected)


@given(CLAIMS, st.integers(1, 6))
def test_calibration_of_the_item_on_top(claims: list[tuple[float, bool]], bins: int) -> None:
    confidence, correct = map(np.array, zip(*claims, strict=True))
    edges = [np.quantile(confidence, edge / bins) for edge in range(1, bins)]
    error = 0.0
    for number in range(bins):
        inside = [
            (claim, right)
            for claim, right in claims
            if sum(edge <= claim for edge in edges) == number
        ]
        if inside:
            claimed = sum(claim for claim, _ in inside) / len(inside)
            true = sum(right for _, right in inside) / len(inside)
            error += len(inside) / len(claims) * abs(claimed - true)
    assert expected_calibration_error(confidence, correct, bins) == pytest.approx(error)


@given(MASSES, st.integers(2, 6))
def test_calibration_of_the_target(masses: list[list[float]], bins: int) -> None:
    def within(p: float, above: float, including: float) -> float:
        if p <= above:
            return 0.0
        return 1.0 if p >= including else (p - above) / (including - above)

    levels = [number / bins for number in range(1, bins)]
    gaps = [abs(sum(within(p, *mass) for mass in masses) / len(masses) - p) for p in levels]
    above, including = np.array(masses).T
    got = target_calibration_error(above, including, bins)
    assert got == pytest.approx(sum(gaps) / len(gaps), abs=1e-9)


def test_a_model_that_knows_the_odds_is_calibrated_and_a_sharper_one_is_not() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (20_000, ITEMS))
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = (random.random(len(odds))[:, None] > odds.cumsum(1)).sum(1)

    def errors(temperature: float) -> tuple[float, float]:
        claimed = np.exp(logits / temperature)
        claimed /= claimed.sum(1, keepdims=True)
        at_target = np.take_along_axis(claimed, targets[:, None], 1)
        above = np.where(claimed > at_target, claimed, 0).sum(1)
        top = expected_calibration_error(claimed.max(1), claimed.argmax(1) == targets)
        return top, target_calibration_error(above, above + at_target[:, 0])

    assert max(errors(1.0)) < 0.015
    assert min(errors(0.5)) > 0.05
    assert min(errors(2.0)) > 0.05
