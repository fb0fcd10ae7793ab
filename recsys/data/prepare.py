"""From raw events to interactions to train on: clean, filter, and tell what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.data.events import events_file, read_events
from recsys.data.filters import (
    first_engagements,
    k_core,
    of_items,
    of_kinds,
    rated,
    without_duplicates,
)
from recsys.data.interactions import (
    Interactions,
    catalogue_beside,
    interactions_of,
    item_texts,
)
from recsys.data.report import Report
from recsys.data.source import local_copy
from recsys.data.statistics import Statistics, note_oddities, statistics
from recsys.errors import RecsysError


@dataclass(frozen=True)
class Prepared:
    """Interactions, and how they came about.

    Attributes
    ----------
    interactions
        What remains.
    read
        Events that were read, bad rows not counted.
    statistics
        Of what remains.
    report
        What was dropped and why, and what was kept although it is of little use.
    """

    interactions: Interactions
    read: int
    statistics: Statistics
    report: Report


def prepare(
    path: Path | str,
    *,
    min_user_events: int = 1,
    min_item_events: int = 1,
    kinds: Sequence[str] = (),
    min_rating: float | None = None,
    first_only: bool = False,
    known_items_only: bool = False,
    drop_bad_rows: bool = False,
    endpoint: str | None = None,
) -> Prepared:
    """Read events and filter them, in the order of the parameters below.

    With the defaults the result is that of `recsys.data.interactions.load_interactions`.

    Parameters
    ----------
    path
        Events in one of the formats of `recsys.data.events`.
    drop_bad_rows
        Leave out rows that cannot be read instead of refusing the file.
    kinds
        Kinds of events to keep, for example ``purchase``; all where empty.
    min_rating
        Least rating to keep.
    first_only
        Keep only the first event of a user with an item, as is always done with logs that have
        several kinds of events.
    known_items_only
        Leave out events with items that the catalogue beside the events does not have.
    min_user_events, min_item_events
        See `recsys.data.filters.k_core`. It comes last, so that it holds for the result. Items of
        the catalogue without an event belong to the vocabulary only if `min_item_events` is 1.
    endpoint
        See `recsys.data.source.local_copy`.

    Raises
    ------
    RecsysError
        When the data cannot be read, or nothing remains.
    """
    report = Report()
    with local_copy(path, endpoint=endpoint) as local:
        if local.is_dir() and (local / "sequences.parquet").exists():
            raise RecsysError(f"{local} is prepared already; give the data that it was made of")
        file = events_file(local)
        events = read_events(
            file,
            ratings=min_rating is not None,
            report=report,
            bad_rows=report if drop_bad_rows else None,
        )
        catalogue = catalogue_beside(file)
        texts = item_texts(catalogue, events)
    read = len(events)
    events = without_duplicates(events, report)
    if kinds:
        events = of_kinds(events, kinds, report)
    if min_rating is not None:
        events = rated(events, min_rating, report)
    if first_only or "event" in events.columns:
        events = first_engagements(events, report)
    if known_items_only:
        if texts is None:
            raise RecsysError(f"there is no catalogue (items.csv, …) with texts beside {file}")
        events = of_items(events, texts, report)
    events = k_core(
        events, min_user_events=min_user_events, min_item_events=min_item_events, report=report
    )
    if texts is not None and min_item_events > 1:
        remaining = set(events["item"].unique())
        texts = {item: text for item, text in texts.items() if item in remaining}
    interactions = interactions_of(events, texts, catalogue)
    note_oddities(interactions, report)
    return Prepared(interactions, read, statistics(interactions), report)
