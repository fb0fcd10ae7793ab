"""What every strategy keeps to."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from federation.strategies.adaptive import FedAdam, FedAvgM, FedYogi
from federation.strategies.averaging import FedAvg
from federation.strategies.buffered import FedBuff
from federation.strategies.robust import Krum, TrimmedMean
from federation.strategies.scaffold import Scaffold
from federation.updates import Update, Weights

STRATEGIES = {
    "fedavg": FedAvg,
    "fedavg by row": lambda: FedAvg(by_row=True),
    "fedavgm": lambda: FedAvgM(momentum=0.6),
    "fedadam": lambda: FedAdam(rate=0.1),
    "fedyogi": lambda: FedYogi(rate=0.1),
    "scaffold": lambda: Scaffold(sites=9),
    "krum": lambda: Krum(wrong=2),
    "multi-krum": lambda: Krum(wrong=2, several=True),
    "trimmed mean": lambda: TrimmedMean(wrong=1),
    "fedbuff": lambda: FedBuff(buffer=7),
}


def after(make: Callable, weights: Weights, rounds: list[list[Update]]) -> tuple[Weights, Weights]:
    state: Weights = {}
    for updates in rounds:
        # A new object every time: nothing but `state` may be remembered.
        weights, state = make().aggregate(weights, updates, state)
    return weights, state


@pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES)
def test_the_order_of_arrival_changes_no_byte(
    make: Callable, weights: Weights, updates: list[Update]
) -> None:
    shuffled = [random.Random(seed).sample(updates, len(updates)) for seed in range(2)]
    expected = after(make, weights, [updates, updates])
    for mine, theirs in zip(after(make, weights, shuffled), expected, strict=True):
        assert {n: a.tobytes() for n, a in mine.items()} == {
            n: a.tobytes() for n, a in theirs.items()
        }


@pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES)
def test_shapes_types_and_what_is_not_trained_stay(
    make: Callable, weights: Weights, updates: list[Update]
) -> None:
    before = {name: array.copy() for name, array in weights.items()}
    moved, state = after(make, weights, [updates] * 20)
    for name, array in moved.items():
        assert isinstance(array, np.ndarray)
        assert (array.shape, array.dtype) == (before[name].shape, before[name].dtype)
        assert np.isfinite(array).all()
        assert (weights[name] == before[name]).all(), "the received weights were written to"
    assert all(isinstance(array, np.ndarray) for array in state.values())
    assert moved["steps"] == [7]
    assert (moved["layer"] != before["layer"]).any()
