"""Filters over events (see `recsys.data.events`); each tells a report what it left out."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from recsys.data.report import Report
from recsys.errors import RecsysError


def without_duplicates(events: pl.DataFrame, report: Report) -> pl.DataFrame:
    """Leave out what a log has twice: the same user, item, event and time.

    Without times nothing is left out, because a user may turn to an item again.
    """
    if "time" not in events.columns:
        return events
    same = [column for column in ("user", "item", "event", "time") if column in events.columns]
    kept = events.unique(same, keep="first", maintain_order=True)
    return _noted(events, kept, "the same event at the same time", report)


def first_engagements(events: pl.DataFrame, report: Report) -> pl.DataFrame:
    """Keep only the first event of each user with each item.

    A log of views, carts and purchases tells of one engagement several times; the first time that
    a user turns to an item is the event to predict.
    """
    kept = events.unique(["user", "item"], keep="first", maintain_order=True)
    return _noted(events, kept, "the user had turned to the item before", report)


def of_kinds(events: pl.DataFrame, kinds: Collection[str], report: Report) -> pl.DataFrame:
    """Keep only some kinds of events, for example purchases.

    Raises
    ------
    RecsysError
        When the events have no kinds, or none is of these.
    """
    if "event" not in events.columns:
        raise RecsysError("the data has no column event: all of its events are of one kind")
    known = sorted(events["event"].drop_nulls().unique())
    for kind in kinds:
        if kind not in known:
            raise RecsysError(f"no event is a {kind!r}; the data has {', '.join(known) or 'none'}")
    kept = events.filter(pl.col("event").is_in(list(kinds)).fill_null(False))
    return _noted(events, kept, f"event is not {' or '.join(kinds)}", report)


def rated(events: pl.DataFrame, least: float, report: Report) -> pl.DataFrame:
    """Keep only what was rated at least this well: a poor rating is no wish for more of the kind.

    Raises
    ------
    RecsysError
        When the events have no ratings, or all are lower.
    """
    if "rating" not in events.columns:
        raise RecsysError("the data has no column rating")
    kept = events.filter(pl.col("rating") >= least)
    if not len(kept):
        best = events["rating"].max()
        raise RecsysError(f"no event is rated {least:g} or better; the best rating is {best:g}")
    return _noted(events, kept, f"rating is below {least:g}", report)


def of_items(events: pl.DataFrame, items: Collection[str], report: Report) -> pl.DataFrame:
    """Keep only events with these items, such as those of a catalogue or a model's vocabulary.

    Raises
    ------
    RecsysError
        When none is known.
    """
    is_known = events["item"].is_in(list(items))
    kept = events.filter(is_known)
    if not len(kept):
        raise RecsysError(
            f"none of the {events['item'].n_unique()} items in the events is among the "
            f"{len(items)} that are known; the events have {events['item'][0]!r}, for example"
        )
    unknown = events["item"].filter(~is_known)
    report.note("the item is unknown", len(unknown), "dropped", unknown.head(1).to_list())
    return kept


def k_core(
    events: pl.DataFrame, *, min_user_events: int, min_item_events: int, report: Report
) -> pl.DataFrame:
    """Leave out rare users and items until all that remain have enough events with each other.

    It is the largest such set of events, and does not hang on the order of leaving out (the k-core
    of the bipartite graph: Seidman, Network structure and minimum degree, 1983). Repeated events
    count as often as they are there.

    Parameters
    ----------
    min_user_events, min_item_events
        Least number of events; 1 keeps all.

    Raises
    ------
    RecsysError
        When nothing remains.
    """
    dropped = {"user": 0, "item": 0}
    least = {"user": min_user_events, "item": min_item_events}
    kept, changed = events, True
    while changed and len(kept):
        changed = False
        for side, minimum in least.items():
            before = len(kept)
            kept = kept.filter(pl.len().over(side) >= minimum)
            dropped[side] += before - len(kept)
            changed |= len(kept) < before
    for side, minimum in least.items():
        report.note(f"the {side} has fewer than {minimum} events", dropped[side], "dropped")
    if not len(kept):
        raise RecsysError(
            f"no events remain with {min_user_events} or more a user and {min_item_events} or more "
            f"an item (there were {len(events)}); take smaller numbers"
        )
    return kept


def _noted(events: pl.DataFrame, kept: pl.DataFrame, problem: str, report: Report) -> pl.DataFrame:
    report.note(problem, len(events) - len(kept), "dropped")
    return kept
