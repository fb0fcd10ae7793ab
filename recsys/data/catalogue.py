"""The catalogue: items with their text and attributes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from recsys.data.columns import ITEM
from recsys.data.report import Report
from recsys.data.source import local_copy
from recsys.data.tables import ATTRIBUTES, Column, data_file, read_table
from recsys.errors import RecsysError

STEMS = ("items", "products", "catalogue")
CATALOGUE_ITEM = replace(ITEM, aliases=(*ITEM.aliases, "id"))
TEXT = Column("text", "text", required=False, blank=True)
# What an item's text is made of where there is no text, in this order.
PARTS = (
    Column("title", "text", ("name",), required=False, blank=True),
    Column("brand", "text", ("supplier", "manufacturer"), required=False, blank=True),
    Column("category", "text", ("main_category",), required=False, blank=True),
    Column("description", "text", ("short_description",), required=False, blank=True),
    Column(
        ATTRIBUTES, "text", ("brand_and_categories", "categories", "genres"),
        required=False, blank=True,
    ),
)  # fmt: skip
PRICE = Column("price", "number", ("unit_price",), required=False, blank=True)
STOCK = Column("stock", "number", ("quantity",), required=False, blank=True)


def load_catalogue(
    path: Path | str, *, endpoint: str | None = None, report: Report | None = None
) -> pl.DataFrame:
    """Read items in the file's order.

    Parameters
    ----------
    path
        A table (see `recsys.data.tables`) or a folder with a file ``items``, ``products`` or
        ``catalogue``; also s3:// and gs://.
    endpoint
        See `recsys.data.source.local_copy`.
    report
        Bad rows, and items that appear again, are left out and counted here; without it the first
        is an error.

    Returns
    -------
    polars.DataFrame
        ``item`` and ``text`` (String, never null; made of title, brand, category, description and
        attributes where the file has no text), then those of ``title``, ``brand``, ``category``,
        ``description`` (String), ``attributes`` (List of String; parted by ``|`` in the file),
        ``price``, ``stock`` (Float64, in the file's unit) that the file has, then its further
        columns under their own names, as numbers where all values are.

    Raises
    ------
    RecsysError
        When nothing readable is there; a bad row or a repeated item is named.
    """
    with local_copy(path, endpoint=endpoint) as local:
        file = data_file(local, STEMS, what="items")
        items = read_table(file).load(
            [CATALOGUE_ITEM, TEXT, *PARTS, PRICE, STOCK], others=True, report=report
        )
        repeated = items["item"].filter(~items["item"].is_first_distinct()).to_list()
        if repeated and report is None:
            raise RecsysError(
                f"{file}: item {repeated[0]!r} is there more than once; keep one line an item"
            )
    if report is not None:
        report.note("the item is in the catalogue again", len(repeated), "dropped", repeated)
    items = items.unique("item", keep="first", maintain_order=True)
    parts = [pl.col(part.name) for part in PARTS if part.name in items.columns]
    if "text" not in items.columns:
        composed = pl.concat_str(parts, separator=" ", ignore_nulls=True) if parts else pl.lit("")
        items = items.with_columns(composed.str.replace_all("|", " ", literal=True).alias("text"))
    items = items.with_columns(pl.col("text").fill_null(""))
    if ATTRIBUTES in items.columns:
        named = pl.col(ATTRIBUTES).str.split("|").list.eval(pl.element().filter(pl.element() != ""))
        items = items.with_columns(named)
    return items.select("item", "text", pl.exclude("item", "text"))
