from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from federation.strategies.averaging import FedAvg, mean_delta
from federation.updates import Rows, Update, Weights
from tests.federation.strategies.plain import numbers, places


def update(site: str, examples: int, **delta: np.ndarray | Rows) -> Update:
    return Update(site, delta, examples, 1.0)


def test_the_average_counts_examples() -> None:
    start = {"w": np.ones(2, np.float32), "b": np.zeros((1, 2), np.float64)}
    north = update("north", 30, w=np.float32([1, 2]), b=np.array([[4.0, 0.0]]))
    south = update("south", 10, w=np.float32([5, -2]), b=np.array([[0.0, 8.0]]))
    result, state = FedAvg().aggregate(start, [north, south], {})
    # Worked out by hand: three parts of north to one of south.
    np.testing.assert_array_equal(result["w"], np.float32([3, 2]))
    np.testing.assert_array_equal(result["b"], [[3.0, 2.0]])
    assert state == {}
    assert {name: array.dtype for name, array in result.items()} == {
        name: array.dtype for name, array in start.items()
    }


arrays = hnp.arrays(
    np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(arrays, st.integers(1, 10**9)), min_size=1, max_size=6), st.randoms())
def test_it_is_numpys_weighted_average_in_any_order(sent, random) -> None:
    updates = [update(f"site-{i}", count, w=array) for i, (array, count) in enumerate(sent)]
    start = {"w": np.zeros((3, 4), np.float32)}
    result = FedAvg().aggregate(start, updates, {})[0]["w"]
    expected = np.average(
        [array.astype(np.float64) for array, _ in sent], axis=0, weights=[n for _, n in sent]
    )
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-9)
    random.shuffle(updates)
    again = FedAvg().aggregate(start, updates, {})[0]["w"]
    assert again.tobytes() == result.tobytes()


def test_arrays_that_no_site_changed_stay_as_they_were() -> None:
    start = {"w": np.float32([1, 2]), "steps": np.array([7]), "mask": np.array([True, False])}
    result, _ = FedAvg().aggregate(start, [update("a", 1), update("b", 3, w=np.float32([4, 0]))], {})
    # A site that did not change the array counts as one that sent zeros.
    assert {name: array.tolist() for name, array in result.items()} == {
        "w": [4, 2], "steps": [7], "mask": [True, False],
    }  # fmt: skip


def test_rows_are_averaged_like_the_tables_that_they_stand_for() -> None:
    some = Rows(np.array([0, 3]), np.float32([[1, 2], [3, 4]]))
    others = Rows(np.array([2, 3]), np.float32([[8, 0], [5, 6]]))
    whole = np.arange(8, dtype=np.float32).reshape(4, 2)
    sparse = mean_delta([update("a", 1, t=some), update("b", 3, t=others)])["t"]
    dense = mean_delta([update("a", 1, t=some.dense(4)), update("b", 3, t=others.dense(4))])["t"]
    assert sparse.index.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(sparse.dense(4), dense)
    mixed = mean_delta([update("a", 1, t=some), update("b", 3, t=whole)])["t"]
    np.testing.assert_array_equal(mixed, some.dense(4) / 4 + whole * 3 / 4)


@pytest.mark.parametrize("by_row", [False, True])
def test_every_number_is_the_mean_of_its_changes(
    by_row: bool, weights: Weights, updates: list[Update]
) -> None:
    moved, state = FedAvg(by_row=by_row).aggregate(weights, updates, {})
    present = places(moved)
    for place, before in places(weights).items():
        total = change = 0.0
        for update in updates:
            touched = place in numbers(update)
            total += update.examples if touched or not by_row else 0
            change += update.examples * numbers(update).get(place, 0.0)
        assert present[place] == pytest.approx(before + change / max(total, 1), rel=1e-5, abs=1e-6)
    assert state == {}


def test_a_row_that_one_site_sells_moves_by_all_of_its_change() -> None:
    rows = Rows(np.array([2]), np.float32([[8.0]]))
    sent = [
        Update("north", {"table": rows}, 1, 1.0),
        Update("south", {"table": Rows(np.array([0]), np.float32([[4.0]]))}, 3, 1.0),
    ]
    table = {"table": np.zeros((3, 1), np.float32)}
    assert FedAvg().aggregate(table, sent, {})[0]["table"].ravel().tolist() == [3, 0, 2]
    assert FedAvg(by_row=True).aggregate(table, sent, {})[0]["table"].ravel().tolist() == [4, 0, 8]
