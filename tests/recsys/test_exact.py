from __future__ import annotations

import numpy as np
import pytest

from recsys.exact import best_of


def plain(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, count)).astype(np.float32)


def tied(count: int) -> np.ndarray:
    return np.round(plain(count))


def mostly_barred(count: int) -> np.ndarray:
    scores = plain(count)
    scores[:, 25:] = -np.inf
    return scores


@pytest.mark.parametrize("make", [plain, tied, mostly_barred])
@pytest.mark.parametrize("count", [5, 60, 12_101])
@pytest.mark.parametrize("k", [0, 1, 40])
def test_the_best_come_first_however_many_there_are(make, count: int, k: int) -> None:
    scores = make(count)
    values, places = best_of(scores, k)
    np.testing.assert_array_equal(values, -np.sort(-scores, axis=1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(scores, places, 1), values)
    assert all(len(set(row)) == len(row) for row in places.tolist())


@pytest.mark.parametrize("broken", [1, 30, 12_101])
def test_a_score_that_is_no_number_does_not_go_unnoticed(broken: int) -> None:
    scores = plain(12_101)
    scores[:, :broken] = np.nan
    assert np.isnan(best_of(scores, 10)[0]).sum(axis=1).tolist() == [min(broken, 10)] * 3
