from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.interactions import Interactions
from recsys.packing import Windows, batches, pack, part_of, training_windows


def interactions_of(lengths: list[int]) -> Interactions:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    # Every event has a number of its own, so that a misplaced one shows.
    sequence = np.arange(offsets[-1], dtype=np.int32)
    return Interactions([str(u) for u in range(len(lengths))], [], offsets, sequence)


@given(
    st.lists(st.integers(0, 23), min_size=1, max_size=30),
    st.integers(2, 9),
    st.integers(1, 60),
    st.integers(0, 99),
)
def test_an_epoch_predicts_every_event_but_the_first_of_a_user_once(
    lengths: list[int], length: int, tokens: int, seed: int
) -> None:
    interactions = interactions_of(lengths)
    windows = training_windows(interactions, length, targets=True)
    predicted = []
    for chosen in batches(windows, tokens, np.random.default_rng(seed)):
        packed, places = pack(windows, chosen)
        assert packed.items.tolist() == windows.sequence[places].tolist()
        assert sum(count * size for count, size in packed.groups) == len(places)
        assert int(packed.positions.max()) < length
        at = 0
        for count, size in packed.groups:
            for _ in range(count):
                items = packed.items[at : at + size].tolist()
                assert items == list(range(items[0], items[0] + size))
                assert packed.positions[at : at + size].tolist() == list(range(size))
                at += size
        lasts = np.flatnonzero(np.append(packed.positions[1:] == 0, True))
        assert packed.last.tolist() == lasts.tolist()
        predicted += (places + 1).tolist()
    firsts = set(interactions.offsets[:-1].tolist())
    assert sorted(predicted) == [e for e in range(sum(lengths)) if e not in firsts]


@given(st.lists(st.integers(0, 23), min_size=1, max_size=30), st.integers(2, 9))
def test_windows_without_targets_hold_every_event_once_and_the_latest_are_whole(
    lengths: list[int], length: int
) -> None:
    windows = training_windows(interactions_of(lengths), length, targets=False)
    held = [
        event
        for start, size in zip(windows.starts, windows.lengths, strict=True)
        for event in range(start, start + size)
    ]
    assert sorted(held) == list(range(sum(lengths)))
    ends = np.cumsum(lengths)
    for end, size in zip(ends, lengths, strict=True):
        if size:
            latest = windows.lengths[windows.starts + windows.lengths == end]
            assert latest.tolist() == [min(size, length)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 8))
def test_parts_make_up_the_batch_and_are_about_equally_large(sizes: list[int], parts: int) -> None:
    lengths = np.array(sizes)
    windows = Windows(np.arange(lengths.sum()), np.cumsum(lengths) - lengths, lengths)
    chosen = np.arange(len(sizes))
    _, places = pack(windows, chosen)
    whole = np.full(len(places), -1)
    events = []
    for part in range(parts):
        own, rows = part_of(windows, chosen, part, parts)
        events.append(len(rows))
        if len(own):
            whole[rows] = pack(windows, own)[1]
    assert whole.tolist() == places.tolist()
    # Neighbours in the order of lengths go to different parts, so no more than one of them is over.
    assert max(events) - min(events) <= lengths.max()


def test_little_data_are_taken_in_smaller_steps() -> None:
    def steps(sequences: int, fewest: int = 64) -> int:
        lengths = np.full(sequences, 10)
        windows = Windows(np.zeros(10 * sequences, np.int32), np.cumsum(lengths) - 10, lengths)
        return len(batches(windows, 1024, np.random.default_rng(0), fewest))

    assert steps(100_000) == pytest.approx(1_000_000 / 1024, abs=2)
    assert steps(2_000) == pytest.approx(64, abs=2)
    assert steps(1_000, fewest=16) == pytest.approx(16, abs=2)
    assert steps(200) == pytest.approx(2_000 / 128, abs=2)
