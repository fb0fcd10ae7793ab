from __future__ import annotations

import numpy as np
import pytest

from federation.errors import FederationError
from federation.updates import Rows, Update, add, check_update, difference


def rows(index: list[int], *values: list[float]) -> Rows:
    return Rows(np.array(index, np.int64), np.array(values, np.float32))


def test_the_difference_is_what_was_trained() -> None:
    before = {"w": np.float32([1, 2]), "same": np.float32([3]), "steps": np.array([7])}
    before["scale"] = np.array(1, np.float32)
    trained = {"w": np.float32([1.5, 2]), "same": np.float32([3]), "steps": np.array([9])}
    trained["scale"] = np.array(3, np.float32)
    delta = difference(trained, before)
    assert {name: change.tolist() for name, change in delta.items()} == {"w": [0.5, 0], "scale": 2}
    assert all(isinstance(change, np.ndarray) for change in delta.values())
    after = add(before, delta)
    assert {name: array.tolist() for name, array in after.items()} == {
        "w": [1.5, 2], "same": [3], "steps": [7], "scale": 3,
    }  # fmt: skip
    assert {name: array.dtype for name, array in after.items()} == {
        name: array.dtype for name, array in before.items()
    }
    assert before["w"].tolist() == [1, 2]


def test_rows_are_the_table_that_they_stand_for() -> None:
    change = rows([0, 2], [1, 2], [3, 4])
    assert change.dense(4).tolist() == [[1, 2], [0, 0], [3, 4], [0, 0]]
    table = {"t": np.ones((4, 2), np.float32)}
    after = add(table, {"t": change})["t"]
    assert after.dtype == np.float32
    assert after.tolist() == add(table, {"t": change.dense(4)})["t"].tolist()
    assert table["t"].tolist() == [[1, 1]] * 4


START = {"w": np.float32([0, 0]), "t": np.zeros((3, 2), np.float32), "mask": np.array([True])}


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"w": np.float32([1, np.nan])}, "NaN or infinity in 'w'"),
        ({"w": np.float32([1, np.inf])}, "NaN or infinity in 'w'"),
        ({"w": np.float32([1, 2, 3])}, r"'w' as float32\[3\]: expected float32\[2\]"),
        ({"w": np.float64([1, 2])}, r"'w' as float64\[2\]: expected float32\[2\]"),
        ({"v": np.float32([1])}, "another model: 'v' is no trained array"),
        ({"mask": np.array([False])}, "another model: 'mask' is no trained array"),
        ({"t": rows([1], [np.nan, 0])}, "NaN or infinity in 't'"),
        ({"t": rows([1], [1, 2, 3])}, r"rows of 't' as float32\[1, 3\].*of \[3, 2\]"),
        ({"t": Rows(np.array([1.0]), np.float32([[1, 2]]))}, r"rows of 't' .* at float64\[1\]"),
        ({"w": Rows(np.array([1]), np.float32([1]))}, r"rows of 'w' as float32\[1\]"),
        ({"t": rows([-1], [1, 2])}, "rows of 't' that repeat, are out of order or are none"),
        ({"t": rows([3], [1, 2])}, "are none of its 3"),
        ({"t": rows([1, 1], [1, 2], [1, 2])}, "that repeat"),
        ({"t": rows([2, 1], [1, 2], [1, 2])}, "out of order"),
    ],
)
@pytest.mark.parametrize("part", ["delta", "extra"])
def test_an_unusable_update_is_refused_by_name(part: str, sent: dict, sentence: str) -> None:
    update = Update("north", **{"delta": {}, part: sent}, examples=5, loss=1.0)
    with pytest.raises(FederationError, match=sentence) as caught:
        check_update(START, update)
    assert "'north'" in str(caught.value)


@pytest.mark.parametrize(("examples", "loss"), [(0, 1.0), (-5, 1.0), (5, float("nan"))])
def test_unusable_figures_are_refused(examples: int, loss: float) -> None:
    with pytest.raises(FederationError, match="'north'"):
        check_update(START, Update("north", {"w": np.float32([1, 2])}, examples, loss))


def test_a_usable_update_passes() -> None:
    delta = {"w": np.float32([1, 2]), "t": rows([0, 2], [1, 2], [3, 4])}
    check_update(START, Update("north", delta, 5, 1.0))
    check_update(START, Update("north", {"t": rows([0], [1, 2])}, 5, 1.0, extra=delta))
