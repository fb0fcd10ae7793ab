from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from federation.errors import FederationError
from federation.strategy import FedAvg, FedProx, Update, average_metrics, check_update


def update(site: str, examples: int, loss: float = 1.0, **weights: np.ndarray) -> Update:
    return Update(site, weights, examples, loss)


def test_the_average_counts_examples() -> None:
    start = {"w": np.zeros(2, np.float32), "b": np.zeros((1, 2), np.float64)}
    north = update("north", 30, w=np.float32([1, 2]), b=np.array([[4.0, 0.0]]))
    south = update("south", 10, w=np.float32([5, -2]), b=np.array([[0.0, 8.0]]))
    result = FedAvg().aggregate(start, [north, south])
    # Worked out by hand: three parts of north to one of south.
    np.testing.assert_array_equal(result["w"], np.float32([2, 1]))
    np.testing.assert_array_equal(result["b"], [[3.0, 2.0]])
    assert {name: array.dtype for name, array in result.items()} == {
        name: array.dtype for name, array in start.items()
    }


arrays = hnp.arrays(
    np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
)


@given(st.lists(st.tuples(arrays, st.integers(1, 10**9)), min_size=1, max_size=6), st.randoms())
def test_it_is_numpys_weighted_average_in_any_order(sent, random) -> None:
    updates = [update(f"site-{i}", count, w=array) for i, (array, count) in enumerate(sent)]
    result = FedAvg().aggregate({"w": np.zeros((3, 4), np.float32)}, updates)["w"]
    expected = np.average(
        [array.astype(np.float64) for array, _ in sent], axis=0, weights=[n for _, n in sent]
    )
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-9)
    random.shuffle(updates)
    again = FedAvg().aggregate({"w": np.zeros((3, 4), np.float32)}, updates)["w"]
    assert again.tobytes() == result.tobytes()


def test_counters_and_masks_stay_the_servers() -> None:
    start = {"steps": np.array([7]), "mask": np.array([True, False])}
    sent = update("north", 1, steps=np.array([9]), mask=np.array([False, False]))
    result = FedAvg().aggregate(start, [sent])
    assert result["steps"].tolist() == [7]
    assert result["mask"].tolist() == [True, False]


def test_fedprox_averages_alike_and_tells_sites_its_mu() -> None:
    start = {"w": np.zeros(2, np.float32)}
    sent = [update("a", 1, w=np.float32([1, 1])), update("b", 3, w=np.float32([5, 9]))]
    strategy = FedProx(proximal_mu=0.1)
    assert strategy.proximal_mu == 0.1
    assert strategy.aggregate(start, sent)["w"].tolist() == [4, 7]


def test_a_fraction_of_the_sites_trains_and_everyone_has_a_turn() -> None:
    sites = [f"site-{i}" for i in range(10)]
    strategy = FedAvg(fraction=0.3, seed=5)
    rounds = [strategy.select(sites, number) for number in range(1, 30)]
    assert all(len(set(chosen)) == 3 for chosen in rounds)
    assert {site for chosen in rounds for site in chosen} == set(sites)
    assert rounds[0] == FedAvg(fraction=0.3, seed=5).select(sites[::-1], 1)
    assert FedAvg(fraction=0.01).select(sites, 1) != []
    assert FedAvg().select(sites, 1) == sites


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"w": np.float32([1, np.nan])}, "NaN or infinity in 'w'"),
        ({"w": np.float32([1, np.inf])}, "NaN or infinity in 'w'"),
        ({"w": np.float32([1, 2, 3])}, r"'w' as float32\[3\]: expected float32\[2\]"),
        ({"w": np.float64([1, 2])}, r"'w' as float64\[2\]: expected float32\[2\]"),
        ({"w": np.float32([1, 2]), "v": np.float32([1])}, "another model: the array 'v'"),
        ({}, "another model: the array 'w'"),
    ],
)
def test_an_unusable_update_is_refused_by_name(sent: dict, sentence: str) -> None:
    start = {"w": np.float32([0, 0])}
    with pytest.raises(FederationError, match=sentence) as caught:
        check_update(start, update("north", 5, **sent))
    assert "'north'" in str(caught.value)


@pytest.mark.parametrize(("examples", "loss"), [(0, 1.0), (-5, 1.0), (5, float("nan"))])
def test_unusable_figures_are_refused(examples: int, loss: float) -> None:
    start = {"w": np.float32([0, 0])}
    with pytest.raises(FederationError, match="'north'"):
        check_update(start, update("north", examples, loss, w=np.float32([1, 2])))


def test_a_usable_update_passes() -> None:
    check_update({"w": np.float32([0, 0])}, update("north", 5, w=np.float32([1, 2])))


def test_metrics_count_users() -> None:
    combined = average_metrics(
        {
            "north": {"HR@10": 0.5, "NDCG@10": 0.3, "users": 300},
            "south": {"HR@10": 0.1, "NDCG@10": 0.1, "users": 100},
        }
    )
    assert combined == pytest.approx({"HR@10": 0.4, "NDCG@10": 0.25, "users": 400})
