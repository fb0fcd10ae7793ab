"""Rounds of a federation on the screen: live while they go on, and as a table afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cli.application import Application, Progress

if TYPE_CHECKING:
    from rich.table import Table

Observe = Callable[[dict[str, Any]], None]

# Column, and what of a round's record stands in it; a column without a value in any is left out.
COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "round": lambda record: str(record["round"]),
    "loss": lambda record: _number(record.get("loss"), 4),
    "HR@10": lambda record: _number(record.get("metrics", {}).get("HR@10"), 4),
    "NDCG@10": lambda record: _number(record.get("metrics", {}).get("NDCG@10"), 4),
    "sites": lambda record: str(len(record["trained"])) if "trained" in record else None,
    "refused": lambda record: ", ".join(record["refused"]) if record.get("refused") else None,
    "MB down": lambda record: _number(record.get("bytes_down"), 1, 1e-6),
    "MB up": lambda record: _number(record.get("bytes_up"), 1, 1e-6),
    "ε": lambda record: _number(record.get("epsilon"), 3),
    "cost USD": lambda record: _number(record.get("cost"), 4),
    "seconds": lambda record: _number(record.get("seconds"), 1),
}


def table_of(records: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows that show these records; columns that all leave empty are absent."""
    cells = {name: [read(record) for record in records] for name, read in COLUMNS.items()}
    shown = {name: row for name, row in cells.items() if any(c is not None for c in row)}
    rows = [[cell if cell is not None else "" for cell in row] for row in zip(*shown.values())]
    return list(shown), rows


def figures_of(record: dict[str, Any]) -> dict[str, float]:
    """What of a round's record can be drawn as a curve, by name."""
    names = ("loss", "bytes_down", "bytes_up", "epsilon", "cost", "seconds")
    found = {name: record[name] for name in names if record.get(name) is not None}
    return found | dict(record.get("metrics", {}))


@contextmanager
def live_rounds(app: Application, label: str) -> Iterator[tuple[Progress, Observe]]:
    """Give a progress function and one to be told of each round.

    On a terminal the rounds stand in a table that grows above a bar; elsewhere what the progress
    function is told stands in lines.
    """
    if not sys.stderr.isatty():
        with app.progress(label) as progress:
            yield progress, lambda record: None
        return
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.fields[label]}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    bar = Bar(*columns)
    task = bar.add_task("", label=label, total=None)
    records: list[dict[str, Any]] = []
    # The command prints the whole table at its end, where it also lasts in a file.
    with Live(bar, console=app.messages, transient=True, refresh_per_second=4) as live:

        def advance(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        def observe(record: dict[str, Any]) -> None:
            records.append(record)
            live.update(Group(_render(records), bar))

        yield advance, observe


def _render(records: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    columns, rows = table_of(records)
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _number(value: float | None, digits: int, scale: float = 1.0) -> str | None:
    return None if value is None else f"{value * scale:.{digits}f}"
