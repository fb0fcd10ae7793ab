"""Events: which user did what with which item, when; the form that all sequences are read into.

Formats, told apart by name and header:

- tables (see `recsys.data.tables`) with a row an event: columns ``user``, ``item`` and, unless the
  rows are in order already, ``time``; perhaps ``event`` (view, cart, …) and ``rating``;
- baskets (see `recsys.data.baskets`), of which `purchases` makes events;
- any other suffix: text without a header, a line an event (``user item``, the SASRec copies) or a
  line a user (``user item item …``, the S3-Rec copies), oldest first within a user.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl

from recsys.data.baskets import BASKET, PRICE, QUANTITY, load_baskets, purchases
from recsys.data.columns import EVENT, ITEM, RATING, TIME, USER
from recsys.data.report import Report
from recsys.data.source import local_copy
from recsys.data.tables import SUFFIXES, Table, data_file, read_table
from recsys.errors import RecsysError

STEMS = ("events", "interactions")
# In the name of a column that tells when something was.
TIME_WORDS = {"time", "timestamp", "date", "datetime"}
# Seconds since 1970 that no item's number is taken for.
MOMENTS = 10**8, 10**11


def load_events(
    path: Path | str, *, endpoint: str | None = None, report: Report | None = None
) -> pl.DataFrame:
    """Read events, the oldest first; those of the same moment stay in the file's order.

    Parameters
    ----------
    path
        A file, or a folder with ``events.csv``, ``interactions.csv`` or only one data file; also
        s3:// and gs://.
    endpoint
        See `recsys.data.source.local_copy`.
    report
        Bad rows (no user, no item, a time or rating that is none) are left out and counted here;
        without it the first is an error, as it always is in text without a header. Times out of
        order are sorted and counted.

    Returns
    -------
    polars.DataFrame
        ``user``, ``item`` (String) and, where the file has them, ``time`` (Float64, seconds since
        1970), ``event`` (String, null where blank), ``rating`` (Float64), and of baskets the item's
        ``text``.

    Raises
    ------
    RecsysError
        When nothing readable is there, or no event; a bad row is named by file and line.
    """
    with local_copy(path, endpoint=endpoint) as local:
        return read_events(events_file(local), ratings=True, report=report, bad_rows=report)


def events_file(path: Path) -> Path:
    """The file of events in a folder, or the path itself where it is a file."""
    return data_file(path, STEMS, what="interactions", or_only=True, text=True)


def read_events(
    file: Path,
    *,
    ratings: bool = False,
    report: Report | None = None,
    bad_rows: Report | None = None,
) -> pl.DataFrame:
    """As `load_events` for a local file.

    Parameters
    ----------
    ratings
        Whether a column ``rating`` is read, and so must hold numbers.
    report
        Is told of times out of order and of the lines of baskets that are no purchases.
    bad_rows
        Where rows that cannot be read are counted; without it the first is an error.
    """
    if not file.name.endswith(SUFFIXES):
        return _read_text(file)
    table = read_table(file)
    if table.has(BASKET, ITEM, QUANTITY, PRICE):
        bought = purchases(load_baskets(file, report=bad_rows), report)
        if not len(bought):
            raise RecsysError(f"{file} holds no purchase of a known customer")
        return bought
    columns = [USER, ITEM, TIME, EVENT, *([replace(RATING, required=False)] if ratings else [])]
    events = table.load(columns, report=bad_rows)
    if not len(events):
        raise RecsysError(f"{file} holds no interactions")
    if "time" not in events.columns:
        _refuse_overlooked_time(table)
        return events
    if report is not None:
        earlier = events.select((pl.col("time").diff().over("user") < 0).sum()).item()
        report.note("time is before that of the user's event above", earlier, "sorted")
    return events.sort("time", maintain_order=True)


def _refuse_overlooked_time(table: Table) -> None:
    """Refuse a table whose rows would be taken as they stand, though a column tells of times."""
    for name, kind in table.frame.schema.items():
        words = re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())
        if TIME_WORDS.intersection(words) or kind in (pl.Date, pl.Datetime):
            raise RecsysError(
                f"{table.file} has no column 'time', but {name!r} looks like one: rename it to "
                "'time', or take it out where the rows are in order already"
            )


def _refuse_table(file: Path, rows: list[list[str]]) -> None:
    """Refuse rows of user, item, perhaps rating, and time, which are no histories of items."""
    if {len(row) for row in rows} in ({3}, {4}) and all(map(_is_moment, (row[-1] for row in rows))):
        raise RecsysError(
            f"{file} has {len(rows[0])} fields a line, the last of them a time such as "
            f"{rows[0][-1]}, so it is a table: name the columns (user, item, time, …) in its first "
            "line and end the file's name with .csv, or .tsv where tabs part the fields"
        )


def _is_moment(text: str) -> bool:
    """Whether a field may count the seconds since 1970, to a day from 1973 to 5138."""
    return text.isdecimal() and MOMENTS[0] <= int(text) < MOMENTS[1]


def _read_text(file: Path) -> pl.DataFrame:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise RecsysError(f"{file} is not readable text: {error}") from error
    users: list[str] = []
    items: list[str] = []
    rows = [line.split() for line in lines]
    for number, fields in enumerate(rows, start=1):
        if not fields:
            continue
        if len(fields) < 2:
            raise RecsysError(
                f"{file}, line {number}: {lines[number - 1]!r} has a user but no item; "
                "a line is a user and one or more items"
            )
        users += fields[:1] * (len(fields) - 1)
        items += fields[1:]
    if not users:
        raise RecsysError(f"{file} holds no interactions")
    _refuse_table(file, [fields for fields in rows if fields])
    return pl.DataFrame({"user": users, "item": items})
