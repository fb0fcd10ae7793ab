"""A look at whatever data lies at an address: what each file is, how much it holds, what is odd."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recsys.data.baskets import BASKET, PRICE, QUANTITY, load_baskets, load_sales, purchases
from recsys.data.catalogue import CATALOGUE_ITEM, load_catalogue
from recsys.data.columns import ITEM, USER
from recsys.data.events import load_events
from recsys.data.impressions import CLICK, PROPENSITY, load_impressions
from recsys.data.interactions import Interactions, interactions_of, load_interactions
from recsys.data.queries import QUERY, RELEVANCE, load_judgments
from recsys.data.report import Report
from recsys.data.source import local_copy
from recsys.data.statistics import note_oddities, statistics
from recsys.data.tables import SUFFIXES, has_known_suffix, read_table
from recsys.errors import RecsysError

# A kind is what a file has these columns for; the first that fits counts.
KINDS = {
    "impressions": (CLICK, PROPENSITY, ITEM),
    "judgments": (QUERY, ITEM, RELEVANCE),
    "baskets": (BASKET, ITEM, QUANTITY, PRICE),
    "events": (USER, ITEM),
    "catalogue": (CATALOGUE_ITEM,),
    "sales": (QUANTITY, PRICE),
}


@dataclass(frozen=True)
class Survey:
    """One file (or one folder of prepared interactions).

    Attributes
    ----------
    path
        Where it lies.
    kind
        A key of `KINDS`, or ``unknown`` for a table of none of these.
    figures
        Counts, quantiles and ranges by name; times in seconds since 1970.
    report
        Bad rows, which `load_…` would refuse, and what else is odd.
    """

    path: str
    kind: str
    figures: dict[str, Any]
    report: Report


def survey(path: Path | str, *, endpoint: str | None = None) -> list[Survey]:
    """Look at a file, or at each data file of a folder.

    Parameters
    ----------
    path, endpoint
        See `recsys.data.source.local_copy`.

    Raises
    ------
    RecsysError
        When nothing readable is there.
    """
    with local_copy(path, endpoint=endpoint) as local:
        shown = str(path).rstrip("/")
        if (local / "sequences.parquet").exists():
            return [Survey(shown, "events", *_interactions(load_interactions(local), Report()))]
        if local.is_file():
            return [_survey(local, shown)]
        files = [file for file in sorted(local.iterdir()) if has_known_suffix(file.name)]
        files = [file for file in files if not file.name.lower().startswith("readme")]
        if not files:
            raise RecsysError(f"{local} holds no data: no file with {', '.join(SUFFIXES)} or .txt")
        return [_survey(file, f"{shown}/{file.name}") for file in files]


def _survey(file: Path, shown: str) -> Survey:
    report, kind = Report(), "events"
    if file.name.endswith(SUFFIXES):
        table = read_table(file)
        fitting = (kind for kind, columns in KINDS.items() if table.has(*columns))
        kind = next(fitting, "unknown")
        if kind == "unknown":
            figures = {"rows": len(table.frame), "columns": table.columns}
            return Survey(shown, kind, figures, report)
    look = {
        "impressions": _impressions,
        "judgments": _judgments,
        "baskets": _baskets,
        "events": _events,
        "catalogue": _catalogue,
        "sales": _sales,
    }[kind]
    return Survey(shown, kind, *look(file, report))


def _events(file: Path, report: Report) -> tuple[dict[str, Any], Report]:
    events = load_events(file, report=report)
    figures, _ = _interactions(interactions_of(events), report)
    for column, name in (("event", "kinds_of_event"), ("rating", "ratings")):
        if column in events.columns:
            figures[name] = _counts(events[column])
    return figures, report


def _interactions(interactions: Interactions, report: Report) -> tuple[dict[str, Any], Report]:
    note_oddities(interactions, report)
    return asdict(statistics(interactions)), report


def _baskets(file: Path, report: Report) -> tuple[dict[str, Any], Report]:
    lines = load_baskets(file, report=report)
    figures = {
        "lines": len(lines),
        "baskets": lines["basket"].n_unique(),
        "lines_per_basket": len(lines) / lines["basket"].n_unique(),
        "price": _range(lines["price"]),
        "turnover": float((lines["price"] * lines["quantity"]).sum()),
    }
    bought = purchases(lines, report)
    if not len(bought):
        return figures, report
    return figures | _interactions(interactions_of(bought), report)[0], report


def _catalogue(file: Path, report: Report) -> tuple[dict[str, Any], Report]:
    items = load_catalogue(file, report=report)
    figures = {
        "items": len(items),
        "with_text": int((items["text"] != "").sum()),
        "words_per_text": items["text"].str.count_matches(r"\S+").mean() or 0.0,
        "columns": items.columns,
    }
    if "price" in items.columns:
        figures["price"] = _range(items["price"])
    return figures, report


def _judgments(file: Path, report: Report) -> tuple[dict[str, Any], Report]:
    judgments = load_judgments(file, report=report)
    queries = len(set(judgments.queries))
    return {
        "judgments": len(judgments.queries),
        "queries": queries,
        "items": len(set(judgments.items)),
        "judgments_per_query": len(judgments.queries) / queries,
        "relevance": _counts(pl.Series(judgments.relevance)),
    }, report


def _impressions(file: Path, report: Report) -> tuple[dict[str, Any], Report]:
    log = load_impressions(file, report=report)
    return {
        "impressions": len(log),
        "items": log["item"].n_unique(),
        "positions": log["position"].n_unique(),
        "click_rate": float(log["click"].mean()),
        "propensity": _range(log["propensity"]),
        "first": log["time"].min(),
        "last": log["time"].max(),
    }, report


def _sales(file: Path, report: Report) -> tuple[dict[str, Any], Report]:
    sales = load_sales(file, report=report)
    return {
        "rows": len(sales),
        "items": sales["item"].n_unique(),
        "quantity": _range(sales["quantity"]),
        "price": _range(sales["price"]),
    }, report


def _range(values: pl.Series) -> list[float]:
    return [values.min(), values.max()]


def _counts(values: pl.Series) -> dict[str, int]:
    counted = values.drop_nulls().value_counts(sort=True).head(10)
    return {f"{value:g}" if isinstance(value, float) else value: n for value, n in counted.rows()}
