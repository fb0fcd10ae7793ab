from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from recsys.significance import bootstrap_means, paired_permutation


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    # 300 samples of skewed values like a gain: mostly nothing, sometimes something.
    random = np.random.default_rng(0)
    samples = (random.random((400, 300)) < 0.1) * random.random((400, 300))
    low, high = bootstrap_means(samples, seed=0, resamples=1000)
    held = np.mean((low <= 0.05) & (high >= 0.05))
    assert 0.91 < held < 0.98


def test_a_column_has_the_interval_that_it_has_alone_and_a_seed_repeats_it() -> None:
    values = np.random.default_rng(1).random((50, 3))
    low, high = bootstrap_means(values, seed=5)
    alone_low, alone_high = bootstrap_means(values[:, 1:2], seed=5)
    assert (low[1], high[1]) == pytest.approx((alone_low[0], alone_high[0]))
    assert (low < values.mean(0)).all() and (values.mean(0) < high).all()


def test_p_values_of_few_users_are_those_of_trying_all_signs() -> None:
    differences = np.array([[0.5, -1.0], [0.2, 3.0], [0.9, -0.5], [0.1, 0.3], [0.0, 0.0]])
    p = paired_permutation(differences, seed=0)
    for column, got in zip(differences.T, p, strict=True):
        sums = [sum(s * d for s, d in zip(signs, column)) for signs in product([1, -1], repeat=4)]
        at_least = np.mean([total >= column.sum() - 1e-9 for total in sums])
        at_most = np.mean([total <= column.sum() + 1e-9 for total in sums])
        assert got == pytest.approx(min(1.0, 2 * min(at_least, at_most)))


def test_p_values_tell_a_difference_from_none() -> None:
    random = np.random.default_rng(2)
    differences = random.normal([0.0, 0.5], 1.0, (300, 2))
    none, some = paired_permutation(differences, seed=0)
    assert none > 0.05 and some < 0.01


def test_equal_models_do_not_differ() -> None:
    assert paired_permutation(np.zeros((30, 2)), seed=0).tolist() == [1.0, 1.0]
