"""Ratings: who gave which item how many stars, and when."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recsys.data.columns import ITEM, RATING, TIME, USER
from recsys.data.report import Report
from recsys.data.source import local_copy
from recsys.data.tables import data_file, read_table


def load_ratings(
    path: Path | str, *, endpoint: str | None = None, report: Report | None = None
) -> pl.DataFrame:
    """Read ratings in the file's order.

    Parameters
    ----------
    path
        A table (see `recsys.data.tables`) or a folder with ``ratings.csv``; also s3:// and gs://.
    endpoint
        See `recsys.data.source.local_copy`.
    report
        Rows without a user, an item or a finite rating are left out and counted here; without it
        the first is an error.

    Returns
    -------
    polars.DataFrame
        ``user``, ``item`` (String), ``rating`` (Float64) and ``time`` (Float64, seconds since 1970;
        null where the file has no times).

    Raises
    ------
    RecsysError
        When nothing readable is there; a bad row is named by file and line.
    """
    with local_copy(path, endpoint=endpoint) as local:
        file = data_file(local, ("ratings", "reviews"), what="ratings")
        ratings = read_table(file).load([USER, ITEM, RATING, TIME], report=report)
    if "time" not in ratings.columns:
        ratings = ratings.with_columns(pl.lit(None, pl.Float64).alias("time"))
    return ratings
