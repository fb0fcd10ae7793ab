from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from federation.errors import FederationError
from federation.strategies.robust import ROWS_AT_ONCE, Krum, TrimmedMean
from federation.updates import Rows, Update, Weights
from tests.federation.strategies.plain import numbers, places


@pytest.mark.parametrize("wrong", [0, 1, 2])
@pytest.mark.parametrize("several", [False, True])
def test_krum_keeps_the_updates_nearest_to_others(
    wrong: int, several: bool, weights: Weights, updates: list[Update]
) -> None:
    moved, _ = Krum(wrong, several=several).aggregate(weights, updates, {})
    written = [numbers(update) for update in updates]
    scores = []
    for one in range(7):
        distances = []
        for other in range(7):
            if other != one:
                at = written[one].keys() | written[other].keys()
                pairs = [(written[one].get(p, 0.0), written[other].get(p, 0.0)) for p in at]
                distances.append(math.fsum((left - right) ** 2 for left, right in pairs))
        scores.append((math.fsum(sorted(distances)[: 7 - wrong - 2]), one))
    best = [one for _, one in sorted(scores)[: 7 - wrong if several else 1]]
    present = places(moved)
    for place, before in places(weights).items():
        mean = statistics.fmean(written[one].get(place, 0.0) for one in best)
        assert present[place] == pytest.approx(before + mean, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_the_trimmed_mean_drops_the_extremes_of_every_number(
    cut: int, weights: Weights, updates: list[Update]
) -> None:
    moved, _ = TrimmedMean(cut).aggregate(weights, updates, {})
    present = places(moved)
    for place, before in places(weights).items():
        values = sorted(numbers(update).get(place, 0.0) for update in updates)
        mean = statistics.fmean(values[cut : len(values) - cut])
        assert present[place] == pytest.approx(before + mean, rel=1e-5, abs=1e-6)


def test_a_long_table_is_trimmed_in_parts_as_at_once() -> None:
    rows = 2 * ROWS_AT_ONCE + 5
    generator = np.random.default_rng(3)
    tables = generator.normal(size=(3, rows, 1)).astype(np.float32)
    weights = {"t": np.zeros((rows, 1), np.float32)}
    sent = [
        Update(f"s{n}", {"t": Rows(np.arange(rows), table)}, 1, 1.0)
        for n, table in enumerate(tables)
    ]
    moved = TrimmedMean(1).aggregate(weights, sent, {})[0]["t"]
    np.testing.assert_array_equal(moved, np.median(tables, axis=0))


@pytest.mark.parametrize("strategy", [Krum(2), Krum(2, several=True), TrimmedMean(2)])
def test_two_poisoned_sites_of_seven_do_not_lead_the_model(
    strategy: Krum | TrimmedMean, weights: Weights
) -> None:
    generator = np.random.default_rng(4)
    honest = [
        Update(f"h{n}", {"layer": (1 + generator.normal(0, 0.1, 4)).astype(np.float32)}, 10, 1.0)
        for n in range(5)
    ]
    poisoned = [
        Update(f"p{n}", {"layer": np.full(4, -1e6, np.float32)}, 10**9, 1.0) for n in range(2)
    ]
    moved, _ = strategy.aggregate(weights, honest + poisoned, {})
    np.testing.assert_allclose(moved["layer"] - weights["layer"], 1, atol=0.2)


@pytest.mark.parametrize(("strategy", "needed"), [(Krum, 7), (TrimmedMean, 5)])
def test_too_few_sites_are_counted(
    strategy: type, needed: int, weights: Weights, updates: list[Update]
) -> None:
    sentence = f"{needed - 1} usable updates: .* 2 wrong sites needs {needed}"
    with pytest.raises(FederationError, match=sentence):
        strategy(2).aggregate(weights, updates[: needed - 1], {})
