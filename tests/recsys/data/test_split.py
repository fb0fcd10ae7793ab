from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.interactions import Interactions, write_interactions
from recsys.data.split import (
    PARTS,
    first_after,
    is_time_split,
    leave_one_out,
    load_time_split,
    time_split,
)
from recsys.errors import RecsysError

# A user is a list of (item, time); times are few, so that many events fall on a cut.
shops = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=8), min_size=1, max_size=6
)


def interactions_of(histories: list[list[tuple[int, int]]]) -> Interactions:
    ordered = [sorted(history, key=lambda event: event[1]) for history in histories]
    flat = [event for history in ordered for event in history]
    return Interactions(
        users=[str(user) for user in range(len(histories))],
        items=list("abcdef"),
        offsets=np.cumsum([0, *map(len, ordered)]),
        sequence=np.array([item for item, _ in flat], dtype=np.int32),
        times=np.array([time for _, time in flat], dtype=np.float64),
    )


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


@given(shops)
def test_leave_one_out_parts_every_history_in_three(histories):
    interactions = interactions_of(histories)
    split = leave_one_out(interactions)
    for user in range(len(histories)):
        held_out = [split.validation_target[user], split.test_target[user]]
        back = [*split.train.of(user), *(item for item in held_out if item >= 0)]
        assert back == interactions.of(user).tolist()
        assert (held_out == [-1, -1]) == (len(back) < 3)
    assert len(split.train.times) == len(split.train.sequence)


@given(shops, st.integers(0, 10), st.integers(0, 10))
def test_a_time_split_parts_all_events_at_two_moments(histories, one, other):
    interactions = interactions_of(histories)
    first, second = sorted((one, other))
    expected = {
        "train": [[e for e in history if e[1] < first] for history in histories],
        "validation": [[e for e in history if first <= e[1] < second] for history in histories],
        "test": [[e for e in history if e[1] >= second] for history in histories],
    }
    cuts = {"validation_from": float(first), "test_from": float(second)}
    if not all(any(part) for part in expected.values()):
        with pytest.raises(RecsysError, match="no event falls into|has no times"):
            time_split(interactions, **cuts)
        return
    split = time_split(interactions, **cuts)
    for name, part in expected.items():
        assert_same(getattr(split, name), interactions_of(part))
    for name in ("validation", "test"):
        held_out = {item for history in expected[name] for item, _ in history}
        trained = {item for history in expected["train"] for item, _ in history}
        assert set(split.unseen_items(name)) == held_out - trained


def assert_same(part: Interactions, expected: Interactions) -> None:
    assert part.users == expected.users and part.items == expected.items
    assert part.offsets.tolist() == expected.offsets.tolist()
    assert part.sequence.tolist() == expected.sequence.tolist()
    assert part.times.tolist() == expected.times.tolist()


@given(shops, st.sampled_from(["validation", "test"]))
def test_the_first_event_after_the_cut_is_predicted_from_those_before(histories, part):
    interactions = interactions_of(histories)
    try:
        split = time_split(interactions, validation_from=3.0, test_from=6.0)
    except RecsysError:
        return
    cut, end = (3, 6) if part == "validation" else (6, 100)
    seen, evaluation = first_after(interactions, split, part)
    for user, history in enumerate(histories):
        history = sorted(history, key=lambda event: event[1])
        before = [item for item, time in history if time < cut]
        after = [item for item, time in history if cut <= time < end]
        evaluated = bool(before and after)
        assert seen.of(user).tolist() == before + after[:1] * evaluated
        assert evaluation.test_target[user] == (after[0] if evaluated else -1)
    assert (evaluation.validation_target == -1).all()
    assert evaluation.train is split.train and (split.train.times < 3).all()


def test_a_written_time_split_is_read_back_and_is_whole_again(tmp_path: Path) -> None:
    interactions = interactions_of([[(0, 1), (1, 4), (2, 8)], [(3, 9), (3, 2)], [(4, 5)], []])
    split = time_split(interactions, validation_from=3.0, test_from=6.0)
    assert not is_time_split(tmp_path)
    for part in PARTS:
        write_interactions(getattr(split, part), tmp_path / part)
    assert is_time_split(tmp_path)
    read = load_time_split(tmp_path)
    for part in PARTS:
        assert_same(getattr(read, part), getattr(split, part))
    assert_same(read.whole(), interactions)
    assert (read.validation_from, read.test_from) == (4.0, 8.0), "of the first events after"
    write_interactions(split.test.select([0]), tmp_path / "test")
    with pytest.raises(RecsysError, match="test has other users or items than .*train"):
        load_time_split(tmp_path)
    write_interactions(split.test.select([2]), tmp_path / "test")
    with pytest.raises(RecsysError, match="test has no event with a time; split the data again"):
        load_time_split(tmp_path)


def test_by_default_the_latest_tenth_is_the_test() -> None:
    interactions = interactions_of([[(0, time) for time in range(100)]])
    split = time_split(interactions)
    assert (split.validation_from, split.test_from) == (80.0, 90.0)


def test_what_cannot_be_split_by_time_is_refused() -> None:
    interactions = interactions_of([[(0, 1), (1, 5), (2, 9)]])
    with pytest.raises(RecsysError, match="no event falls into validation: the times go from 1970"):
        time_split(interactions, validation_from=6.0, test_from=8.0)
    with pytest.raises(RecsysError, match="begins at 1970-01-01T00:00:08, after the test"):
        time_split(interactions, validation_from=8.0, test_from=6.0)
    turned = Interactions(["u"], ["a"], np.array([0, 2]), np.zeros(2, np.int32))
    with pytest.raises(RecsysError, match="the data has no times"):
        time_split(turned)
    unordered = Interactions(**vars(turned) | {"times": np.array([2.0, 1.0])})
    with pytest.raises(RecsysError, match="the events of user 'u' are not in order of time"):
        time_split(unordered)
