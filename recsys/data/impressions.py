"""Logged impressions: what was shown where, with which probability, and whether it was clicked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from recsys.data.columns import ITEM, TIME
from recsys.data.report import Report
from recsys.data.source import local_copy
from recsys.data.tables import Column, data_file, read_table
from recsys.errors import RecsysError

POSITION = Column(
    "position", "number", ("rank", "slot"),
    allowed=lambda value: (value >= 0) & (value == value.round()) & (value < 2**31),
    wanted="a whole number from 0",
)  # fmt: skip
CLICK = Column(
    "click", "number", ("clicked", "reward"),
    allowed=lambda value: value.is_in([0.0, 1.0]), wanted="0 or 1",
)  # fmt: skip
PROPENSITY = Column(
    "propensity", "number", ("propensity_score", "pscore"),
    allowed=lambda value: (value > 0) & (value <= 1), wanted="a probability in (0, 1]",
)  # fmt: skip
COLUMNS = (replace(TIME, required=True), ITEM, POSITION, CLICK, PROPENSITY)


def load_impressions(
    path: Path | str, *, endpoint: str | None = None, report: Report | None = None
) -> pl.DataFrame:
    """Read one policy's log in the file's order, for example one of the Open Bandit files.

    Parameters
    ----------
    path
        A table (see `recsys.data.tables`) or a folder with ``impressions.csv``; also s3:// and
        gs://.
    endpoint
        See `recsys.data.source.local_copy`.
    report
        Bad rows are left out and counted here; without it the first is an error.

    Returns
    -------
    polars.DataFrame
        ``time`` (Float64, seconds since 1970), ``item`` (String), ``position`` (Int32), ``click``
        (Int8, 0 or 1), ``propensity`` (Float64, probability with which the logging policy showed
        the item at the position), then the file's further columns under their own names: context, as
        numbers where all values are, else text.

    Raises
    ------
    RecsysError
        When nothing readable is there, or a log is empty; a bad row is named by file and line.
    """
    with local_copy(path, endpoint=endpoint) as local:
        file = data_file(local, ("impressions",), what="impressions")
        impressions = read_table(file).load(COLUMNS, others=True, report=report)
        if not len(impressions):
            raise RecsysError(f"{file} holds no impressions")
    return impressions.cast({"position": pl.Int32, "click": pl.Int8})
