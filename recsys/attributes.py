"""What is known of items beside their events: category, price and stock, by which answers are cut.

They lie in a model's artefact as ``attributes.parquet``, a row an item in the order of its
vocabulary, and tell how things stood when the model was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recsys.errors import RecsysError
from recsys.files import write_atomically

FILE = "attributes.parquet"
KINDS = {"category": pl.String, "price": pl.Float64, "stock": pl.Float64}


def attributes_of(catalogue: pl.DataFrame, items: Sequence[str]) -> pl.DataFrame | None:
    """A row for each of `items`, with those of the columns in `KINDS` that a catalogue has.

    An item that is not in the catalogue has nulls. None where the catalogue knows nothing of any.

    Parameters
    ----------
    catalogue
        As `recsys.data.catalogue.load_catalogue` gives it.
    """
    columns = [name for name in KINDS if name in catalogue.columns]
    known = catalogue.select(
        "item", *(pl.col(name).cast(KINDS[name], strict=False) for name in columns)
    )
    wanted = pl.DataFrame({"item": items}, schema={"item": pl.String})
    rows = wanted.join(known, on="item", how="left", maintain_order="left").drop("item")
    filled = [name for name in columns if rows[name].null_count() < len(rows)]
    return rows.select(filled) if filled else None


def write_attributes(folder: Path, items: Sequence[str], attributes: pl.DataFrame) -> None:
    """Write the attributes into an artefact, with the ids that they belong to."""
    rows = pl.DataFrame({"item": items}, schema={"item": pl.String}).hstack(attributes)
    write_atomically(folder / FILE, rows.write_parquet)


def read_attributes(folder: Path, items: Sequence[str]) -> pl.DataFrame | None:
    """The attributes of an artefact with this vocabulary; None where it has none.

    Raises
    ------
    RecsysError
        When the file is damaged, or its items are not these in this order.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        rows = pl.read_parquet(file)
        names = [name for name in KINDS if name in rows.columns]
        known, rows = rows["item"].to_list(), rows.select(pl.col(n).cast(KINDS[n]) for n in names)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecsysError(f"{file} is damaged ({error}); get the model again") from error
    if known != list(items):
        raise RecsysError(
            f"{file} tells of other items than the {len(items)} in items.json; get the model again"
        )
    return rows


def columns_of(folder: Path, items: Sequence[str]) -> dict[str, list] | None:
    """The same as plain lists by name, as `recsys.filters.ItemFilters` takes them."""
    rows = read_attributes(folder, items)
    return None if rows is None else rows.to_dict(as_series=False)
