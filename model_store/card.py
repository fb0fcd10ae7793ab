"""A model's card: what somebody who finds the model must know, from its files and its lineage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model_store.errors import StoreError

CARD = "card.md"


def write_card(folder: Path, lineage: Mapping[str, Any]) -> Path:
    """Write ``card.md`` beside a model's files; the same model gives the same bytes.

    Raises
    ------
    StoreError
        A file of the model is no JSON, or the card cannot be written.
    """
    card = folder / CARD
    try:
        card.write_text("\n".join(_lines(folder, lineage)) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StoreError(f"The card of {folder} cannot be written: {error}.") from None
    return card


def _lines(folder: Path, lineage: Mapping[str, Any]) -> Iterator[str]:
    yield "# Model card"
    yield ""
    yield f"Made by `hybrid {lineage.get('made_by', '?')}`, code {lineage.get('code', 'unknown')}."
    if parent := lineage.get("parent"):
        yield f"Made from the model `{parent}`."
    if sites := lineage.get("sites"):
        rounds = len(lineage.get("rounds", ()))
        yield f"Trained in {rounds} rounds at {', '.join(sites)}, whose data stayed there."
    items = _json(folder / "items.json")
    if items is not None:
        yield f"It knows {len(items):,} items and can rank no other."
    yield from _table("Data", lineage.get("data"))
    yield from _table("Recipe", _json(folder / "recipe.json"))
    yield from _table("Settings", lineage.get("settings"))
    yield from _table("Metrics on held-out events", _json(folder / "metrics.json"))
    files = {
        path.relative_to(folder).as_posix(): f"{path.stat().st_size:,} bytes"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CARD
    }
    yield from _table("Files", files)


def _table(title: str, rows: Mapping[str, Any] | None) -> Iterator[str]:
    if not rows:
        return
    yield from ("", f"## {title}", "", "| | |", "| --- | --- |")
    for name, value in rows.items():
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        yield f"| {name} | {shown.replace('|', '/').replace(chr(10), ' ')} |"


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
