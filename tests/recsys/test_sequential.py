"""Intervals that may be looked at always: they hold then, where ordinary ones do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.sequential import confidence_sequence

ERROR = 0.05


def misses(low: np.ndarray, high: np.ndarray, mean: float) -> bool:
    """Whether somebody who looks after every value sees the mean outside at least once."""
    return bool(((low > mean) | (high < mean)).any())


@pytest.mark.parametrize("rate", [0.005, 0.05, 0.5])
def test_looking_after_every_value_they_miss_as_seldom_as_they_say(rate: float) -> None:
    draw = np.random.default_rng(7)
    runs, length = 200, 2000
    always = ordinary = 0
    for _ in range(runs):
        values = (draw.random(length) < rate).astype(float)
        always += misses(*confidence_sequence(values, ERROR), rate)
        count = np.arange(1, length + 1)
        means = values.cumsum() / count
        radius = 1.96 * np.sqrt(np.maximum(means * (1 - means), 1e-12) / count)
        late = slice(100, None)  # where the normal approximation is good
        ordinary += misses((means - radius)[late], (means + radius)[late], rate)
    assert always <= ERROR * runs
    assert ordinary > 2 * ERROR * runs


def test_values_that_depend_on_those_before_are_covered_too() -> None:
    """A rate that follows what came: what is covered is the average of the expectations."""
    draw = np.random.default_rng(3)
    missed = 0
    for _ in range(100):
        expected, values = [0.2], []
        for _ in range(400):
            values.append(float(draw.random() < expected[-1]))
            expected.append(0.1 + 0.5 * values[-1])
        average = np.cumsum(expected[:-1]) / np.arange(1, 401)
        low, high = confidence_sequence(np.array(values), ERROR)
        missed += bool(((low > average) | (high < average)).any())
    assert missed <= 5


def test_they_become_narrow_and_narrower_for_rare_things() -> None:
    draw = np.random.default_rng(1)
    widths = {}
    for rate in (0.01, 0.5):
        low, high = confidence_sequence((draw.random(50_000) < rate).astype(float), ERROR)
        widths[rate] = high - low
        assert widths[rate][-1] < widths[rate][5000] / 2 < widths[rate][500]
    assert widths[0.01][-1] < 0.005 and widths[0.5][-1] < 0.03


def test_nothing_that_never_happened_is_thought_impossible() -> None:
    low, high = confidence_sequence(np.zeros(2000), ERROR)
    assert low[-1] == 0 and 0 < high[-1] < 0.01


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.001, 0.5))
def test_they_hold_the_mean_and_lie_between_0_and_1(values: list[float], error: float) -> None:
    low, high = confidence_sequence(np.array(values), error)
    means = np.cumsum(values) / np.arange(1, len(values) + 1)
    assert (low <= means + 1e-9).all() and (means - 1e-9 <= high).all()
    assert (low >= 0).all() and (high <= 1).all()


def test_a_smaller_error_is_a_wider_interval() -> None:
    values = np.tile([0.0, 1.0], 200)
    (low, high), (wide_low, wide_high) = (confidence_sequence(values, e) for e in (0.1, 0.001))
    assert (wide_low <= low).all() and (wide_high >= high).all()
    assert wide_high[-1] - wide_low[-1] > high[-1] - low[-1]
