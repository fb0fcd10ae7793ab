from __future__ import annotations

import math

import pytest

from federation.selection import RULES, Record, select, utilities

SITES = [f"site-{number}" for number in range(10)]


def trained(number: int, **sites: tuple[float, float, float]) -> Record:
    """Record of a round: examples, loss and seconds to the answer by site."""
    return {
        "round": number,
        "trained": {
            name.replace("_", "-"): {"examples": examples, "loss": loss, "answered": answered}
            for name, (examples, loss, answered) in sites.items()
        },
    }


def everyone(number: int = 1) -> Record:
    """Site n has 10 (n + 1) examples and answers after n + 1 seconds."""
    return trained(number, **{f"site_{n}": (10 * (n + 1), 2.0, n + 1.0) for n in range(10)})


def test_a_fraction_of_the_sites_trains_and_everyone_has_a_turn() -> None:
    rounds = [select(SITES, number, fraction=0.3, seed=5) for number in range(1, 30)]
    assert all(len(set(chosen)) == 3 for chosen in rounds)
    assert {site for chosen in rounds for site in chosen} == set(SITES)
    assert select(SITES, 1, fraction=0.01) != []
    assert select(SITES, 1) == SITES


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("history", [[], [{"round": 0}, everyone()]], ids=["first", "later"])
def test_the_same_question_has_the_same_answer(rule: str, history: list[Record]) -> None:
    for number in range(2, 6):
        chosen = select(SITES, number, history, rule=rule, fraction=0.4, seed=3)
        assert chosen == select(SITES[::-1], number, history, rule=rule, fraction=0.4, seed=3)
        assert chosen == sorted(set(chosen)) and len(chosen) == 4
        assert select(SITES, number, history, rule=rule) == SITES


@pytest.mark.parametrize("rule", ["size", "utility", "speed"])
def test_sites_of_which_nothing_is_known_are_tried(rule: str) -> None:
    history: list[Record] = []
    for number in range(1, 25):
        chosen = select(SITES, number, history, rule=rule, fraction=0.3)
        told = {site.replace("-", "_"): (50, 1.0, 1.0) for site in chosen}
        history.append(trained(number, **told))
    assert {site for record in history for site in record["trained"]} == set(SITES)


def test_large_sites_are_drawn_more_often_in_proportion() -> None:
    drawn = [
        site
        for number in range(2, 1002)
        for site in select(SITES, number, [everyone()], rule="size", fraction=0.1)
    ]
    assert drawn.count("site-9") / 1000 == pytest.approx(10 / 55, abs=0.04)
    assert drawn.count("site-0") / 1000 == pytest.approx(1 / 55, abs=0.02)


def test_the_fastest_are_chosen_and_who_misses_the_deadline_is_left_out() -> None:
    choose = {"history": [everyone()], "rule": "speed"}
    assert select(SITES, 2, **choose, fraction=0.3) == ["site-0", "site-1", "site-2"]
    assert select(SITES, 2, **choose, deadline=4.5) == SITES[:4]
    assert select(SITES, 2, **choose, deadline=0.5) == ["site-0"], "someone has to train"


def test_a_site_that_was_slow_gets_another_try() -> None:
    history = [everyone(), *(trained(n, site_0=(10, 1.0, 1.0)) for n in range(2, 12))]
    assert "site-9" not in select(SITES, 11, history, rule="speed", deadline=4.5)
    assert "site-9" in select(SITES, 12, history, rule="speed", deadline=4.5)


@pytest.mark.parametrize("deadline", [2.0, math.inf])
def test_utility_is_oorts(deadline: float) -> None:
    history = [
        {"round": 0},
        trained(1, a=(100, 2.0, 8.0), b=(30, 9.0, 1.0)),
        trained(2, b=(40, 3.0, 3.0), c=(10, 1.0, 0.5)),
    ]
    preferred = 2.0 if deadline == 2.0 else 3.0  # the median of 8, 3 and 0.5
    last = {"a": (1, 200.0, 8.0), "b": (2, 120.0, 3.0), "c": (2, 10.0, 0.5)}
    for site, value in utilities(history, 7, deadline).items():
        round_, statistical, seconds = last[site]
        expected = statistical + 200.0 * (0.1 * math.log(7) / round_) ** 0.5
        if seconds > preferred:
            expected *= (preferred / seconds) ** 2
        assert value == pytest.approx(expected), site


def test_useful_sites_are_drawn_and_a_few_new_ones_explored() -> None:
    losses = {f"site_{n}": (100, 10.0 if n < 3 else 0.1, 1.0) for n in range(8)}
    history = [trained(1, **losses)]
    late = [select(SITES, number, history, rule="utility", fraction=0.3) for number in range(80, 120)]
    for chosen in late:
        # One in five of three is one that never trained: site-8 or site-9.
        assert len({"site-8", "site-9"} & set(chosen)) == 1
        assert len({"site-0", "site-1", "site-2"} & set(chosen)) == 2
