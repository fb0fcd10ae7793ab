"""Splits: what is trained on and what is held out.

Leave-one-out holds out each user's last events, whenever they were: it is what most papers report,
but events of other users that lie after a held-out one are trained on. The time split cuts at one
moment for all users, so nothing that is trained on lies after what is predicted (Meng et al.,
Exploring data splitting strategies for the evaluation of recommendation models, RecSys 2020, §3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from recsys.data.interactions import Interactions, load_interactions
from recsys.errors import RecsysError

# Of a time split, in order: the folders in which it is written.
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Training events and the held-out ones.

    Attributes
    ----------
    train
        The same users and items, without each user's last two events.
    validation_target, test_target
        int32[users] item index, or -1 where a user has too few events to be evaluated.
    """

    train: Interactions
    validation_target: np.ndarray
    test_target: np.ndarray


def leave_one_out(interactions: Interactions) -> Split:
    """Split as Kang and McAuley do (SASRec, 2018, §IV-A).

    Users with fewer than three events are not evaluated: all that they did is training data.
    """
    offsets, sequence = interactions.offsets, interactions.sequence
    lengths = offsets[1:] - offsets[:-1]
    evaluated = lengths >= 3
    validation = np.full(len(lengths), -1, dtype=np.int32)
    test = np.full(len(lengths), -1, dtype=np.int32)
    ends = offsets[1:][evaluated]
    validation[evaluated] = sequence[ends - 2]
    test[evaluated] = sequence[ends - 1]
    kept = np.ones(len(sequence), dtype=bool)
    kept[ends - 1] = kept[ends - 2] = False
    return Split(interactions.where(kept), validation_target=validation, test_target=test)


@dataclass(frozen=True)
class TimeSplit:
    """Events before, between and after two moments, over the same users and items each.

    Attributes
    ----------
    train
        Events before `validation_from`.
    validation
        Events from `validation_from` on and before `test_from`.
    test
        Events from `test_from` on.
    validation_from, test_from
        Seconds since 1970.
    """

    train: Interactions
    validation: Interactions
    test: Interactions
    validation_from: float
    test_from: float

    def whole(self) -> Interactions:
        """All events, those of each user in order."""
        parts = [getattr(self, part) for part in PARTS]
        owner = [np.repeat(np.arange(len(part.users)), np.diff(part.offsets)) for part in parts]
        order = np.argsort(np.concatenate(owner), kind="stable")
        return replace(
            self.train,
            offsets=sum(part.offsets for part in parts),
            sequence=np.concatenate([part.sequence for part in parts])[order],
            times=np.concatenate([part.times for part in parts])[order],
        )

    def unseen_items(self, part: Literal["validation", "test"]) -> np.ndarray:
        """Indices of items that occur in a part but not in training: cold for a model of ids."""
        held_out = self.validation if part == "validation" else self.test
        return np.setdiff1d(held_out.sequence, self.train.sequence)


def time_split(
    interactions: Interactions,
    *,
    validation_from: float | None = None,
    test_from: float | None = None,
) -> TimeSplit:
    """Split at two moments that hold for all users; an event at a moment is after it.

    Without the moments, the latest tenth of the events is the test and the tenth before it the
    validation. Events of the same moment are never parted, so the shares are approximate.

    Parameters
    ----------
    validation_from, test_from
        Seconds since 1970.

    Raises
    ------
    RecsysError
        When the events have no times or are out of order, the moments are in the wrong order, or a
        part comes out empty.
    """
    times = interactions.times
    if times is None or not len(times):
        raise RecsysError("the data has no times, so it can only be split by leave-one-out")
    owner = np.repeat(np.arange(len(interactions.users)), np.diff(interactions.offsets))
    unordered = np.flatnonzero((np.diff(times) < 0) & (np.diff(owner) == 0))
    if len(unordered):
        user = interactions.users[owner[unordered[0]]]
        raise RecsysError(f"the events of user {user!r} are not in order of time; sort them first")
    ordered = np.sort(times)
    if test_from is None:
        test_from = float(ordered[int(0.9 * len(ordered))])
    if validation_from is None:
        earlier = ordered[ordered < test_from]
        place = min(int(8 / 9 * len(earlier)), len(earlier) - 1)
        validation_from = float(earlier[place]) if len(earlier) else test_from
    if validation_from > test_from:
        raise RecsysError(
            f"the validation begins at {_date(validation_from)}, after the test at "
            f"{_date(test_from)} (UTC): turn them round"
        )
    split = TimeSplit(
        train=interactions.where(times < validation_from),
        validation=interactions.where((times >= validation_from) & (times < test_from)),
        test=interactions.where(times >= test_from),
        validation_from=validation_from,
        test_from=test_from,
    )
    for part in PARTS:
        if not len(getattr(split, part).sequence):
            raise RecsysError(
                f"no event falls into {part}: the times go from {_date(ordered[0])} to "
                f"{_date(ordered[-1])}, the validation begins at {_date(validation_from)} and the "
                f"test at {_date(test_from)} (UTC)"
            )
    return split


def is_time_split(folder: Path) -> bool:
    """Whether a folder holds the three parts of a time split, each as `write_interactions` leaves
    it."""
    return all((folder / part / "sequences.parquet").exists() for part in PARTS)


def load_time_split(folder: Path) -> TimeSplit:
    """Read the parts of a time split; its moments are those of the first event in each.

    Raises
    ------
    RecsysError
        When a part cannot be read or has no event or times, or they are not of one split.
    """
    parts = [load_interactions(folder / part) for part in PARTS]
    for name, part in zip(PARTS, parts, strict=True):
        if part.times is None or not len(part.times):
            raise RecsysError(f"{folder / name} has no event with a time; split the data again")
        if (part.users, part.items) != (parts[0].users, parts[0].items):
            raise RecsysError(
                f"{folder / name} has other users or items than {folder / PARTS[0]}: they are not "
                "of one split; split the data again"
            )
    return TimeSplit(*parts, *(float(part.times.min()) for part in parts[1:]))


def first_after(
    interactions: Interactions, split: TimeSplit, part: Literal["validation", "test"]
) -> tuple[Interactions, Split]:
    """A time split in the form that `recsys.evaluate` takes: predict the first event after the cut.

    Users without events before the cut or without one in the part are not evaluated.

    Returns
    -------
    tuple
        Each user's events before the cut and, if evaluated, the first one after it, which is the
        last; and the split with those as its *test* targets, whichever the part. With "test" the
        history holds the validation events too; the split's training events never do.
    """
    cut = split.validation_from if part == "validation" else split.test_from
    held_out = split.validation if part == "validation" else split.test
    before = interactions.times < cut
    counts = np.concatenate([[0], np.cumsum(before)])[interactions.offsets]
    evaluated = (np.diff(counts) > 0) & (np.diff(held_out.offsets) > 0)
    targets = np.full(len(interactions.users), -1, dtype=np.int32)
    targets[evaluated] = held_out.sequence[held_out.offsets[:-1][evaluated]]
    kept = before.copy()
    kept[(interactions.offsets[:-1] + np.diff(counts))[evaluated]] = True
    nobody = np.full_like(targets, -1)
    return interactions.where(kept), Split(split.train, nobody, targets)


def _date(seconds: float) -> str:
    return str(np.datetime64(int(seconds), "s"))
