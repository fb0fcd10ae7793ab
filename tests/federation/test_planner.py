from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.compression import Compression, encode
from federation.errors import FederationError
from federation.planner import (
    SCHEMES,
    Budget,
    Site,
    choose,
    expected_touched,
    measured,
    message_bytes,
    plan,
)
from federation.updates import Delta

SHAPES = {"item_embedding.weight": (10_000, 64), "norm.weight": (64,), "bias": ()}
WHOLE = 4 * (10_000 * 64 + 64 + 1)
FAST = Site("fast", 1.0, bandwidth=10e6, epoch_seconds=10.0)
SLOW = Site("slow", 1.0, bandwidth=1e4, epoch_seconds=10.0)
MIDDLE = Site("middle", 1.0, bandwidth=1e6, epoch_seconds=20.0)
ASKED = {"rounds": 8, "local_epochs": 1, "price": 0.09}


def change(touched: float) -> Delta:
    """A change of so many of the table's rows, as training makes them: few elements are large."""
    generator = np.random.default_rng(0)
    table = generator.laplace(size=(10_000, 64)).astype(np.float32)
    table[generator.random(10_000) >= touched] = 0
    return {
        "item_embedding.weight": table,
        "norm.weight": generator.normal(size=64).astype(np.float32),
        "bias": np.ones((), np.float32),
    }


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("touched", [1.0, 0.02])
def test_the_size_that_is_planned_is_about_what_is_written(
    scheme: Compression, touched: float
) -> None:
    if scheme.method == "none" and touched < 1:
        pytest.skip("none does not look at what changed")
    sent = change(touched)
    written = len(encode(sent, {}, scheme, sent)[0])
    assert written == pytest.approx(message_bytes(SHAPES, scheme, touched), rel=0.2, abs=200)


def test_a_run_without_compression_by_hand() -> None:
    made = plan(SHAPES, [FAST, SLOW], Compression("none"), **ASKED)
    message = WHOLE + 350
    assert (made.bytes_down, made.bytes_up) == (2 * message, 2 * message)
    assert made.cost == pytest.approx(2 * message / 1e9 * 0.09)
    assert made.seconds == pytest.approx(2 * message / 1e4 + 10)
    # Nine models down to each site, the last to be evaluated only, and eight up.
    assert made.run_bytes == 2 * 9 * message + 2 * 8 * message
    assert made.run_cost == pytest.approx(2 * 9 * message / 1e9 * 0.09)
    assert made.run_seconds == pytest.approx(8 * made.seconds + message / 1e4)


def test_a_round_that_does_not_wait_takes_the_answers_of_its_buffer() -> None:
    sites = [FAST, MIDDLE, SLOW]
    message = WHOLE + 350
    made = plan(SHAPES, sites, Compression("none"), **ASKED, buffer=2)
    assert (made.bytes_down, made.bytes_up) == (2 * message, 2 * message)
    each = [2 * message / site.bandwidth + site.epoch_seconds for site in sites]
    assert made.seconds == pytest.approx(2 / sum(1 / seconds for seconds in each))
    # The first model and the last go to all, those between to as many as answer.
    assert made.run_bytes == 2 * 3 * message + 7 * 2 * message + 8 * 2 * message
    with pytest.raises(FederationError, match="fast, middle, slow with"):
        choose(SHAPES, sites, Budget(bytes=1), **ASKED, buffer=3)


def test_sites_that_take_turns_take_longer() -> None:
    sites = [FAST, MIDDLE, SLOW]
    message = WHOLE + 350
    each = [2 * message / site.bandwidth + site.epoch_seconds for site in sites]
    turns = {n: plan(SHAPES, sites, Compression("none"), **ASKED, at_once=n) for n in (0, 1, 2, 9)}
    assert turns[1].seconds == pytest.approx(sum(each))
    assert turns[2].seconds == pytest.approx(max(*each, sum(each) / 2))
    assert turns[9] == turns[0]


def test_the_first_model_is_whole_and_the_rest_are_changes() -> None:
    made = plan(SHAPES, [FAST], Compression("topk", 0.01), **ASKED)
    assert made.bytes_down < WHOLE / 50
    assert made.run_bytes == WHOLE + 350 + 8 * (made.bytes_down + made.bytes_up)


def test_rows_that_change_at_any_site_go_down() -> None:
    sites = [Site("a", 0.1), Site("b", 0.2)]
    made = plan(SHAPES, sites, Compression("rows"), **ASKED)
    union = message_bytes(SHAPES, Compression("rows"), 1 - 0.9 * 0.8)
    assert made.bytes_down == 2 * union
    assert made.seconds is None and made.run_seconds is None


def test_without_a_budget_nothing_is_lost() -> None:
    made = choose(SHAPES, [FAST, SLOW], Budget(), **ASKED)
    assert made == plan(SHAPES, [FAST, SLOW], Compression("none"), **ASKED)


def test_compression_gets_as_strong_as_the_budget_needs() -> None:
    before = math.inf
    for scheme in SCHEMES:
        wanted = plan(SHAPES, [FAST, SLOW], scheme, **ASKED)
        if wanted.run_bytes >= before:
            continue  # all rows changed: "rows" saves nothing over "none"
        before = wanted.run_bytes
        assert choose(SHAPES, [FAST, SLOW], Budget(bytes=wanted.run_bytes), **ASKED) == wanted


def test_then_sites_train_longer_in_fewer_rounds() -> None:
    least = plan(SHAPES, [FAST, SLOW], SCHEMES[-1], **ASKED)
    made = choose(SHAPES, [FAST, SLOW], Budget(bytes=least.run_bytes - 1), **ASKED)
    assert (made.rounds, made.local_epochs) == (4, 2)
    assert made.run_bytes < least.run_bytes


def test_then_the_slowest_site_is_left_out() -> None:
    # The first whole model alone takes the slow site 256 s.
    budget = Budget(seconds=8 * 20 + 25)
    made = choose(SHAPES, [SLOW, FAST, MIDDLE], budget, **ASKED)
    assert made.sites == ("fast", "middle")
    assert made.run_seconds <= budget.seconds


def test_cost_is_a_budget_too() -> None:
    dear = plan(SHAPES, [FAST, SLOW], Compression("none"), **ASKED)
    made = choose(SHAPES, [FAST, SLOW], Budget(cost=dear.run_cost / 5), **ASKED)
    assert made.run_cost <= dear.run_cost / 5
    assert made.compression.method == "signs"


def test_a_budget_that_nothing_meets_tells_the_least() -> None:
    with pytest.raises(FederationError, match=r"topk 0.01 on fast, slow with 4 .* in 2 rounds, takes"):
        choose(SHAPES, [FAST, SLOW], Budget(bytes=1000), **ASKED)


def test_a_budget_of_seconds_needs_measured_sites() -> None:
    with pytest.raises(FederationError, match="new never trained here"):
        choose(SHAPES, [FAST, Site("new")], Budget(seconds=1e9), **ASKED)


def test_finished_rounds_tell_how_fast_sites_are() -> None:
    trained = {"examples": 5, "loss": 1.0, "seconds": 8.0, "answered": 10.0, "bytes": 4_000_000}
    small = trained | {"seconds": 6.0, "answered": 7.0, "bytes": 1000}
    old = {"examples": 5, "loss": 1.0}
    records = [
        {"round": 0},
        {"round": 1, "trained": {"north": trained, "south": small, "east": old}},
        {"round": 2, "trained": {"north": small}},
    ]
    assert measured(records, 2) == {"north": (2e6, 3.5), "south": (1e3, 3.0)}


def test_touched_rows_are_the_sites_own_and_those_drawn() -> None:
    drawn = np.random.default_rng(0).integers(0, 5000, (20, 4000))
    seen = np.mean([len(np.union1d(np.arange(800), draw)) for draw in drawn]) / 5000
    assert expected_touched(5000, 800, 4000) == pytest.approx(seen, rel=0.01)
    assert expected_touched(5000, 5000, 0) == 1.0
    assert expected_touched(1, 0, 0) == 0.0


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(1e3, 1e9)), min_size=1, max_size=6),
    st.floats(1e5, 1e9),
    st.integers(1, 9),
)
def test_whatever_is_chosen_stays_in_the_budget(
    made_of: list[tuple[float, float]], most: float, rounds: int
) -> None:
    sites = [Site(f"s{n}", touched, speed, 1.0) for n, (touched, speed) in enumerate(made_of)]
    budget = Budget(bytes=most, seconds=most / 1e4)
    try:
        made = choose(SHAPES, sites, budget, rounds=rounds, local_epochs=1, price=0.1)
    except FederationError:
        return
    assert made.run_bytes <= most and made.run_seconds <= most / 1e4
    assert made.rounds * made.local_epochs >= rounds
