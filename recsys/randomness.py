"""Randomness as a function of where a run stands, so that a resumed run repeats it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Stage(IntEnum):
    """What the randomness is for: no two stages share a stream."""

    WEIGHTS = 0
    PRETRAIN = 1
    FINETUNE = 2
    LOCAL = 3


@contextmanager
def seeded(seed: int, stage: Stage, epoch: int = 0) -> Iterator[np.random.Generator]:
    """Seed torch's CPU generator inside the block, give it back after, and yield a numpy one.

    There is no generator state to store: an epoch's order, masks and dropout follow from the
    seed, the stage and the epoch's number.
    """
    sequence = np.random.SeedSequence((seed, int(stage), epoch))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        yield np.random.default_rng(sequence)
