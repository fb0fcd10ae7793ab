from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.randomness import Stage, seed_step, seeded, uniform_at


@given(st.permutations(range(40)), st.integers(0, 40), st.integers(0, 99))
def test_a_place_gets_its_number_in_whatever_company(order: list[int], cut: int, seed: int) -> None:
    whole = uniform_at(np.arange(40), np.random.default_rng(seed))
    for part in (np.array(order[:cut], dtype=int), np.array(order[cut:], dtype=int)):
        assert (uniform_at(part, np.random.default_rng(seed)) == whole[part]).all()


def test_places_and_keys_get_uniform_and_unrelated_numbers() -> None:
    generator = np.random.default_rng(0)
    first, second = (uniform_at(np.arange(100_000), generator) for _ in range(2))
    for numbers in (first, second):
        counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
        assert counts.sum() == 100_000 and np.abs(counts - 5000).max() < 350  # 5 deviations
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.016
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.016


def test_each_step_has_a_stream_of_its_own_and_repeats_it() -> None:
    drawn = {}
    with seeded(7, Stage.PRETRAIN, 2) as generator:
        drawn["epoch"] = (generator.random(), torch.rand(1).item())
        for step in (0, 1):
            drawn[step] = (seed_step(7, Stage.PRETRAIN, 2, step).random(), torch.rand(1).item())
        again = (seed_step(7, Stage.PRETRAIN, 2, 0).random(), torch.rand(1).item())
    assert again == drawn[0]
    assert len(set(drawn.values())) == 3
