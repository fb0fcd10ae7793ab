"""Leave-one-out: the last event of a user is the test, the one before it the validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.data.interactions import Interactions


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
    train_lengths = lengths - 2 * evaluated
    train = Interactions(
        users=interactions.users,
        items=interactions.items,
        offsets=np.concatenate([[0], np.cumsum(train_lengths)]).astype(np.int64),
        sequence=sequence[kept],
        item_text=interactions.item_text,
    )
    return Split(train=train, validation_target=validation, test_target=test)
