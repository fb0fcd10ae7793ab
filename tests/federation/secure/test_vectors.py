from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import FederationError
from federation.secure.vectors import layout
from federation.updates import Rows

WEIGHTS = {
    "table": np.zeros((50, 4), np.float32),
    "norm": np.zeros(4, np.float32),
    "scalar": np.zeros((), np.float32),
    "bags": np.zeros(9, np.int64),
}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), sites=st.integers(2, 50), share=st.sampled_from([0.1, 1.0]))
def test_the_sum_of_encoded_changes_is_their_weighted_mean(seed, sites, share):
    generator = np.random.default_rng(seed)
    plan = layout(WEIGHTS, share=share, seed=1, number=2, bound=2.0)
    counts = generator.integers(1, 1000, sites)
    deltas = [
        {
            name: generator.uniform(-2, 2, array.shape).astype(np.float32)
            for name, array in WEIGHTS.items()
            if name != "bags"
        }
        for _ in range(sites)
    ]
    total = np.zeros(plan.size, np.uint32)
    for delta, count in zip(deltas, counts, strict=True):
        total += plan.encode(delta, count / counts.sum())
    # As if the last site had dropped out of a sum that counted with it.
    left = total - plan.encode(deltas[-1], counts[-1] / counts.sum())
    for members, weight, found in (
        (slice(None), 1.0, plan.decode(total, 1.0)),
        (slice(-1), counts[:-1].sum() / counts.sum(), None),
    ):
        found = found or plan.decode(left, weight)
        mean = {
            name: np.average([d[name] for d in deltas[members]], axis=0, weights=counts[members])
            for name in deltas[0]
        }
        for name, change in found.items():
            if isinstance(change, Rows):
                assert len(change.index) == 5
                wanted, change = mean[name][change.index], change.values
            else:
                wanted = mean[name]
            np.testing.assert_allclose(change, wanted, atol=sites * 1e-9 / weight + 3e-7)


def test_only_the_rows_of_the_round_are_sent_and_each_has_its_turn():
    plans = [layout(WEIGHTS, share=0.2, seed=7, number=number, bound=1.0) for number in range(40)]
    assert {len(plan.rows["table"]) for plan in plans} == {10}
    assert set(np.concatenate([plan.rows["table"] for plan in plans])) == set(range(50))
    again = layout(WEIGHTS, share=0.2, seed=7, number=3, bound=1.0)
    assert (again.rows["table"] == plans[3].rows["table"]).all()
    assert plans[0].size == 10 * 4 + 4 + 1


def test_the_length_does_not_tell_what_was_touched():
    plan = layout(WEIGHTS, share=1.0, seed=0, number=1, bound=1.0)
    sparse = Rows(np.array([3]), np.ones((1, 4), np.float32))
    assert len(plan.encode({}, 1.0)) == len(plan.encode({"table": sparse}, 1.0)) == plan.size
    assert (plan.decode(plan.encode({"table": sparse}, 1.0), 1.0)["table"][3] > 0.999).all()


@pytest.mark.parametrize("bad", [1.5, np.nan, -np.inf])
def test_a_change_that_would_wrap_around_is_refused(bad):
    plan = layout(WEIGHTS, share=1.0, seed=0, number=1, bound=1.0)
    with pytest.raises(FederationError, match=r"a number of 'norm' by more than 1, or to no"):
        plan.encode({"norm": np.array([0, 0, bad, 0], np.float32)}, 0.5)
