from __future__ import annotations

import numpy as np
import pytest

from recsys.data.interactions import Interactions
from recsys.data.vocabulary import with_vocabulary
from recsys.errors import RecsysError

DATA = Interactions(
    users=["u", "v"],
    items=["a", "b"],
    offsets=np.array([0, 2, 3]),
    sequence=np.array([0, 1, 1], dtype=np.int32),
    item_text=["an a", "a b"],
)


def test_events_stay_the_same_items_under_another_vocabulary() -> None:
    moved = with_vocabulary(DATA, ["c", "b", "a"])
    assert moved.history("u") == ["a", "b"] and moved.history("v") == ["b"]
    assert moved.items == ["c", "b", "a"] and moved.item_text == ["", "a b", "an a"]


def test_an_item_that_the_model_was_not_made_for_is_named() -> None:
    with pytest.raises(RecsysError, match="1 items that the model was not made for, such as 'b'"):
        with_vocabulary(DATA, ["a", "c"])


def test_an_unknown_item_without_events_does_not_matter() -> None:
    only_b = DATA.select([1])
    assert with_vocabulary(only_b, ["b"]).sequence.tolist() == [0]
