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

    There is no generator state to store: initial weights and an epoch's order follow from the
    seed, the stage and the epoch's number, and a step's masks and dropout from `seed_step`.
    """
    with torch.random.fork_rng(devices=[]):
        yield _seed((seed, int(stage), epoch))


def seed_step(seed: int, stage: Stage, epoch: int, step: int) -> np.random.Generator:
    """Seed torch's generators for one optimizer step, and return a numpy one.

    Within `seeded`, which gives the CPU's generator back. Called again for the same step it gives
    the same numbers: a killed run repeats them, and so do processes that share a step's batch.
    """
    # Trailing zeros do not change a SeedSequence: step 0 would repeat the epoch's own stream.
    return _seed((seed, int(stage), epoch, step + 1))


def _seed(entropy: tuple[int, ...]) -> np.random.Generator:
    sequence = np.random.SeedSequence(entropy)
    number = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
    # torch.manual_seed would also keep a stack trace for a GPU that is not in use: 20 times slower.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(number)
    return np.random.default_rng(sequence)


def uniform_at(places: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random number in [0, 1) for each place, whatever the other places are.

    A batch that is worked on in parts gets the numbers that it would get as a whole, if the
    parts' generators are in the same state: one key is drawn, and each place is hashed with it
    (the finaliser of SplitMix64: Steele, Lea and Flood, 2014, Figure 15).
    """
    key = generator.integers(2**64, dtype=np.uint64)
    mixed = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
