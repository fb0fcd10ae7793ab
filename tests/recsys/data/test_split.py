from __future__ import annotations

import numpy as np

from recsys.data.interactions import Interactions
from recsys.data.split import leave_one_out


def test_the_last_is_the_test_and_the_one_before_the_validation() -> None:
    interactions = Interactions(
        users=["long", "none", "two", "three"],
        items=list("abcde"),
        offsets=np.array([0, 5, 5, 7, 10]),
        sequence=np.array([0, 1, 2, 3, 4, 1, 2, 4, 3, 2], dtype=np.int32),
    )
    split = leave_one_out(interactions)
    assert split.test_target.tolist() == [4, -1, -1, 2]
    assert split.validation_target.tolist() == [3, -1, -1, 3]
    histories = {user: split.train.history(user) for user in split.train.users}
    assert histories == {"long": ["a", "b", "c"], "none": [], "two": ["b", "c"], "three": ["e"]}
    assert split.train.items == interactions.items
