from __future__ import annotations

from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.filters import (
    first_engagements,
    k_core,
    of_items,
    of_kinds,
    rated,
    without_duplicates,
)
from recsys.data.report import Report
from recsys.errors import RecsysError

pairs = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), max_size=40)


def events_of(rows: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String}, orient="row")


def plain_k_core(rows: list[tuple[str, str]], least_user: int, least_item: int) -> list:
    while True:
        users, items = Counter(user for user, _ in rows), Counter(item for _, item in rows)
        kept = [(u, i) for u, i in rows if users[u] >= least_user and items[i] >= least_item]
        if len(kept) == len(rows):
            return kept
        rows = kept


@given(pairs, st.integers(1, 4), st.integers(1, 4))
def test_the_k_core_is_the_plain_one_and_every_loss_is_reported(rows, least_user, least_item):
    expected, report = plain_k_core(rows, least_user, least_item), Report()
    limits = {"min_user_events": least_user, "min_item_events": least_item}
    if not expected:
        with pytest.raises(RecsysError, match="no events remain"):
            k_core(events_of(rows), **limits, report=report)
        return
    assert k_core(events_of(rows), **limits, report=report).rows() == expected
    assert report.dropped == len(rows) - len(expected)


def test_duplicates_are_those_of_the_same_moment() -> None:
    events = pl.DataFrame(
        {"user": ["u"] * 4, "item": ["a", "a", "a", "b"], "time": [1.0, 1.0, 2.0, 1.0]}
    )
    report = Report()
    assert without_duplicates(events, report)["time"].to_list() == [1.0, 2.0, 1.0]
    assert report.dropped == 1
    assert len(without_duplicates(events.drop("time"), report)) == 4


def test_first_engagements_keep_the_order() -> None:
    report = Report()
    kept = first_engagements(events_of([("u", "b"), ("u", "a"), ("u", "b"), ("v", "b")]), report)
    assert kept.rows() == [("u", "b"), ("u", "a"), ("v", "b")] and report.dropped == 1


def test_kinds_of_events() -> None:
    events = events_of([("u", "a")] * 3).with_columns(event=pl.Series(["view", "buy", None]))
    report = Report()
    assert of_kinds(events, ["buy"], report).rows() == [("u", "a", "buy")] and report.dropped == 2
    with pytest.raises(RecsysError, match="no event is a 'sell'; the data has buy, view"):
        of_kinds(events, ["buy", "sell"], report)
    with pytest.raises(RecsysError, match="no column event"):
        of_kinds(events.drop("event"), ["buy"], report)


def test_ratings_from_a_least_one_on() -> None:
    events = events_of([("u", "a"), ("u", "b")]).with_columns(rating=pl.Series([3.0, 4.0]))
    report = Report()
    assert rated(events, 4, report)["item"].to_list() == ["b"] and report.dropped == 1
    with pytest.raises(RecsysError, match="no event is rated 4.5 or better; the best rating is 4"):
        rated(events, 4.5, report)
    with pytest.raises(RecsysError, match="no column rating"):
        rated(events.drop("rating"), 4, report)


def test_unseen_items_are_left_out_and_one_is_named() -> None:
    events, report = events_of([("u", "a"), ("u", "new"), ("v", "new")]), Report()
    assert of_items(events, ["a", "b"], report).rows() == [("u", "a")]
    assert (report.dropped, report.findings[0].example) == (2, "new")
    with pytest.raises(RecsysError, match="none of the 2 items in the events is among the 1 that"):
        of_items(events, {"other": "text"}, report)
