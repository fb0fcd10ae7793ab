"""Baskets: what was bought together, how much of it, at which price; and sales without baskets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from recsys.data.columns import ITEM, TIME, USER
from recsys.data.report import Report
from recsys.data.source import local_copy
from recsys.data.tables import Column, data_file, read_table
from recsys.errors import RecsysError

BASKET = Column("basket", "id", ("basket_id", "invoice_no", "invoice", "order_id"))
QUANTITY = Column("quantity", "number", ("qty", "units", "sales"))
PRICE = Column("price", "number", ("unit_price",))
# A customer of the shop may be unknown to it.
CUSTOMER = replace(USER, required=False, blank=True)
DESCRIPTION = Column("text", "text", ("description", "title"), required=False, blank=True)
PROMOTED = Column("promoted", "number", ("feat", "promotion"), required=False)


def load_baskets(
    path: Path | str, *, endpoint: str | None = None, report: Report | None = None
) -> pl.DataFrame:
    """Read the lines of baskets in the file's order, returns included.

    Parameters
    ----------
    path
        A table (see `recsys.data.tables`) or a folder with ``baskets.csv`` or only one data file,
        for example UCI Online Retail; also s3:// and gs://.
    endpoint
        See `recsys.data.source.local_copy`.
    report
        Bad rows are left out and counted here; without it the first is an error.

    Returns
    -------
    polars.DataFrame
        ``basket``, ``item``, ``user`` (String; a user is null where the customer is unknown),
        ``quantity`` (Float64, negative for returns), ``price`` (Float64, of one piece), ``time``
        (Float64, seconds since 1970), ``text`` (String, where the file has one), then the file's
        further columns.

    Raises
    ------
    RecsysError
        When nothing readable is there, or no row; a bad row is named by file and line.
    """
    columns = [BASKET, CUSTOMER, ITEM, QUANTITY, PRICE, replace(TIME, required=True), DESCRIPTION]
    with local_copy(path, endpoint=endpoint) as local:
        file = data_file(local, ("baskets",), what="baskets", or_only=True)
        baskets = read_table(file).load(columns, others=True, report=report)
        if not len(baskets):
            raise RecsysError(f"{file} holds no baskets")
    return baskets


def purchases(baskets: pl.DataFrame, report: Report | None = None) -> pl.DataFrame:
    """What known customers bought, as events: the sequences that lie in baskets.

    Left out are returns (quantity 0 or less), lines that are not sales (price 0 or less) and
    baskets of unknown customers. An item that stands in a basket several times is one event.

    Returns
    -------
    polars.DataFrame
        ``user``, ``item``, ``time`` and, where the baskets have it, ``text``: the oldest first, in
        a basket in the order of its lines.
    """
    report = Report() if report is None else report
    if "user" not in baskets.columns:
        baskets = baskets.with_columns(pl.lit(None, pl.String).alias("user"))
    for problem, wanted in (
        ("quantity is not above 0: a return", pl.col("quantity") > 0),
        ("price is not above 0: not a sale", pl.col("price") > 0),
        ("the customer is unknown", pl.col("user").is_not_null()),
    ):
        kept = baskets.filter(wanted)
        report.note(problem, len(baskets) - len(kept), "dropped")
        baskets = kept
    bought = baskets.unique(["basket", "user", "item"], keep="first", maintain_order=True)
    report.note("the item is in the same basket again", len(baskets) - len(bought), "dropped")
    columns = [name for name in ("user", "item", "time", "text") if name in bought.columns]
    return bought.select(columns).sort("time", maintain_order=True)


def load_sales(
    path: Path | str, *, endpoint: str | None = None, report: Report | None = None
) -> pl.DataFrame:
    """Read quantities sold at a price, without baskets or customers, such as Dominick's.

    Parameters
    ----------
    path
        A table (see `recsys.data.tables`) or a folder with ``sales.csv`` or only one data file;
        also s3:// and gs://.
    endpoint
        See `recsys.data.source.local_copy`.
    report
        Bad rows are left out and counted here; without it the first is an error.

    Returns
    -------
    polars.DataFrame
        ``item`` (String), ``quantity``, ``price`` (Float64, above 0), then where the file has them
        ``promoted`` (Float64, 1 for an advertised item), ``time`` (Float64, seconds since 1970) and
        the file's further columns.

    Raises
    ------
    RecsysError
        When nothing readable is there, or no row; a bad row is named by file and line.
    """
    item = replace(ITEM, aliases=(*ITEM.aliases, "brand"))
    price = replace(PRICE, allowed=lambda value: value > 0, wanted="a price above 0")
    columns = [item, QUANTITY, price, PROMOTED, TIME]
    with local_copy(path, endpoint=endpoint) as local:
        file = data_file(local, ("sales",), what="sales", or_only=True)
        sales = read_table(file).load(columns, others=True, report=report)
        if not len(sales):
            raise RecsysError(f"{file} holds no sales")
    return sales
