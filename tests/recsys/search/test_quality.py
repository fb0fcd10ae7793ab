from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.search.quality import ndcg

GRADES = st.dictionaries(st.integers(0, 30), st.integers(0, 3).map(float), max_size=25)


def reference(ranked: list[int], grades: dict[int, float]) -> float:
    def dcg(order: list[int]) -> float:
        gains = [(2 ** grades.get(item, 0) - 1) / math.log2(r + 2) for r, item in enumerate(order)]
        return sum(gains[:10])

    ideal = dcg(sorted(grades, key=lambda item: -grades[item]))
    return dcg(ranked) / ideal if ideal else 0.0


@given(st.permutations(range(31)), GRADES)
def test_ndcg_is_that_of_its_definition(ranked: list[int], grades: dict[int, float]) -> None:
    assert ndcg(ranked, grades) == pytest.approx(reference(ranked, grades))
    judged = [item for item in ranked if item in grades]
    assert ndcg(ranked, grades, condensed=True) == pytest.approx(reference(judged, grades))


def test_an_unjudged_item_counts_against_the_ranking_unless_it_is_condensed() -> None:
    assert ndcg([7, 1], {1: 3.0}) == pytest.approx(1 / math.log2(3))
    assert ndcg([7, 1], {1: 3.0}, condensed=True) == 1.0
