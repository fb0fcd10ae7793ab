"""What a set of interactions is like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.data.interactions import Interactions
from recsys.data.report import Report

QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Statistics:
    """Sizes and shapes.

    Attributes
    ----------
    users, items, events
        Counts; items without an event are counted.
    unseen_items
        Items without an event.
    density
        Share of all (user, item) pairs that occur.
    repeats
        Share of the events that return to an item that the user had before.
    events_per_user, events_per_item
        Mean, and the quantiles 0, 0.25, 0.5, 0.75, 0.95, 1, by name (``mean``, ``0%``, …).
    first, last
        Earliest and latest time in seconds since 1970; None where there are no times.
    """

    users: int
    items: int
    events: int
    unseen_items: int
    density: float
    repeats: float
    events_per_user: dict[str, float]
    events_per_item: dict[str, float]
    first: float | None
    last: float | None


def statistics(interactions: Interactions) -> Statistics:
    """Count; nothing is sampled."""
    lengths = np.diff(interactions.offsets)
    users, items, events = len(lengths), len(interactions.items), len(interactions.sequence)
    owner = np.repeat(np.arange(users, dtype=np.int64), lengths)
    pairs = len(np.unique(owner * items + interactions.sequence))
    popularity = np.bincount(interactions.sequence, minlength=items)
    times = interactions.times if events else None
    return Statistics(
        users=users,
        items=items,
        events=events,
        unseen_items=int((popularity == 0).sum()),
        density=pairs / max(users * items, 1),
        repeats=1 - pairs / max(events, 1) if events else 0.0,
        events_per_user=_quantiles(lengths),
        events_per_item=_quantiles(popularity),
        first=None if times is None else float(times.min()),
        last=None if times is None else float(times.max()),
    )


def note_oddities(interactions: Interactions, report: Report) -> None:
    """Add to a report what is kept, but of little or no use to a sequential model."""
    lengths = np.diff(interactions.offsets)
    for events, problem, action in (
        (0, "the user has no event", "kept, nothing to learn or test"),
        (1, "the user has one event", "kept, no next item to learn or test"),
        (2, "the user has two events", "kept, trained on but not evaluated"),
    ):
        found = np.flatnonzero(lengths == events)
        report.note(problem, len(found), action, [interactions.users[user] for user in found[:1]])
    popularity = np.bincount(interactions.sequence, minlength=len(interactions.items))
    unseen = np.flatnonzero(popularity == 0)
    examples = [interactions.items[item] for item in unseen[:1]]
    report.note("the item has no event", len(unseen), "kept in the vocabulary", examples)
    if interactions.item_text is not None:
        texts = zip(interactions.items, interactions.item_text, strict=True)
        silent = [item for item, text in texts if not text]
        report.note("the item has no text", len(silent), "kept", silent)


def _quantiles(counts: np.ndarray) -> dict[str, float]:
    if not len(counts):
        return {}
    values = np.quantile(counts, QUANTILES)
    named = {f"{share:.0%}": float(value) for share, value in zip(QUANTILES, values, strict=True)}
    return {"mean": float(counts.mean())} | named
