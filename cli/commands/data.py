"""hybrid data"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.application import Application
from cli.options import FiniteRange, json_option

if TYPE_CHECKING:
    from recsys.data.report import Report

path_argument = click.argument("path")
endpoint_option = click.option(
    "--endpoint", metavar="URL", help="Server that stands for S3 or GCS, for example an emulator."
)


@click.group()
def data() -> None:
    """Look at, filter and split data.

    PATH is a file or folder, or its address: s3://bucket/key, gs://bucket/key.
    """


@data.command()
@path_argument
@endpoint_option
@json_option
@click.pass_obj
def show(app: Application, path: str, endpoint: str | None, as_json: bool) -> None:
    """Tell what each file at PATH is, how much it holds and which rows are bad."""
    from dataclasses import asdict

    from recsys.data.survey import survey

    surveys = survey(path, endpoint=endpoint)
    if as_json:
        app.show_json([asdict(one) for one in surveys])
        return
    for one in surveys:
        click.echo(f"{one.path}: {one.kind}")
        app.show_table(["figure", "value"], _rows(one.figures))
        _show_report(app, one.report)


@data.command()
@path_argument
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
@click.option("--min-user-events", type=click.IntRange(1), default=1, show_default=True,
              help="Leave out users with fewer events (k-core, with the next).")
@click.option("--min-item-events", type=click.IntRange(1), default=1, show_default=True,
              help="Leave out items with fewer events.")
@click.option("--kind", "kinds", multiple=True, metavar="EVENT",
              help="Kind of event to keep, such as purchase; repeatable. All by default.")
@click.option("--min-rating", type=FiniteRange(), help="Leave out events that are rated lower.")
@click.option("--first-only", is_flag=True, help="Keep a user's first event with an item only.")
@click.option("--known-items-only", is_flag=True,
              help="Leave out events with items that the catalogue beside them does not have.")
@click.option("--drop-bad-rows", is_flag=True, help="Leave out bad rows; else they are refused.")
@endpoint_option
@json_option
@click.pass_obj
def convert(
    app: Application, path: str, target: Path, endpoint: str | None, as_json: bool, **filters: Any
) -> None:
    """Clean and filter the events at PATH into the folder TARGET, which `hybrid train` reads."""
    from dataclasses import asdict

    from model_store import residency
    from recsys.data.interactions import write_interactions
    from recsys.data.prepare import prepare

    _require_own(target)
    prepared = prepare(path, endpoint=endpoint, **filters)
    residency.carry(path, target)
    write_interactions(prepared.interactions, target)
    if as_json:
        app.show_json(
            {
                "target": str(target),
                "read": prepared.read,
                "fingerprint": prepared.interactions.fingerprint(),
                "statistics": asdict(prepared.statistics),
                "findings": asdict(prepared.report)["findings"],
            }
        )
        return
    app.show_table(["figure", "value"], _rows(asdict(prepared.statistics)))
    _show_report(app, prepared.report)
    click.echo(f"Kept {prepared.statistics.events:,} of {prepared.read:,} events in {target}.")


@data.command()
@path_argument
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@endpoint_option
@click.pass_obj
def histories(app: Application, path: str, file: Path, endpoint: str | None) -> None:
    """Write what each user at PATH did to FILE, for a private site's `python BUNDLE --histories`.

    FILE has a line [user, [item, ...]] for each, the oldest item first; only its owner may read it.
    """
    import json

    from cli.files import write_text
    from model_store import residency
    from recsys.data.interactions import load_interactions

    found = load_interactions(path, endpoint=endpoint)
    rows = (
        json.dumps([user, [found.items[item] for item in found.of(place)]])
        for place, user in enumerate(found.users)
    )
    residency.carry_to_file(path, file)
    write_text(file, "".join(f"{row}\n" for row in rows), mode=0o600)
    click.echo(f"Wrote the histories of {len(found.users):,} users to {file}.")


@data.command()
@path_argument
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
@click.option("--validation-from", metavar="DATE",
              help="First moment of the validation. By default a tenth of the events lies in it.")
@click.option("--test-from", metavar="DATE",
              help="First moment of the test. By default the last tenth of the events.")
@endpoint_option
@json_option
@click.pass_obj
def split(
    app: Application, path: str, target: Path, validation_from: str | None, test_from: str | None,
    endpoint: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Cut the events at PATH at two moments, the same for all users, into TARGET/train, /validation
    and /test.

    DATE is ISO 8601, in UTC. Training and evaluation leave out each user's last two events by
    themselves; this is for the question how a model does on what came later: train it on
    TARGET/train, then `hybrid evaluate --data TARGET` asks it for each user's first event in
    TARGET/test.
    """
    from dataclasses import asdict

    from model_store import residency
    from recsys.data.interactions import load_interactions, write_interactions
    from recsys.data.split import PARTS, time_split
    from recsys.data.statistics import statistics

    for name in PARTS:
        _require_own(target / name)
    parts = time_split(
        load_interactions(path, endpoint=endpoint),
        validation_from=_moment("--validation-from", validation_from),
        test_from=_moment("--test-from", test_from),
    )
    written = {name: getattr(parts, name) for name in PARTS}
    for name, interactions in written.items():
        residency.carry(path, target / name)
        write_interactions(interactions, target / name)
    figures = {name: statistics(interactions) for name, interactions in written.items()}
    unseen = {name: len(parts.unseen_items(name)) for name in ("validation", "test")}
    if as_json:
        app.show_json(
            {
                name: asdict(part) | {"not_in_train": unseen.get(name, 0)}
                for name, part in figures.items()
            }
        )
        return
    app.show_table(
        ["part", "events", "from", "to", "items not in train"],
        [
            [name, part.events, _date(part.first), _date(part.last), unseen.get(name, 0)]
            for name, part in figures.items()
        ],
    )


def _require_own(target: Path) -> None:
    """Refuse to write among files that are not of these commands' making."""
    if target.exists() and any(target.iterdir()) and not (target / "sequences.parquet").exists():
        raise click.UsageError(f"{target} holds other files already: name a new or an empty folder")


def _rows(figures: dict[str, Any]) -> list[list[str]]:
    return [
        [name.replace("_", " "), _date(value) if name in ("first", "last") else _cell(value)]
        for name, value in figures.items()
        if value is not None
    ]


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return " · ".join(f"{name} {_cell(one)}" for name, one in value.items())
    if isinstance(value, list):
        return " … ".join(map(_cell, value)) if len(value) == 2 else ", ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _show_report(app: Application, report: Report) -> None:
    if report.findings:
        app.show_table(
            ["problem", "rows", "what was done", "first"],
            [
                [finding.problem, f"{finding.rows:,}", finding.action, finding.example]
                for finding in report.findings
            ],
        )


def _moment(option: str, date: str | None) -> float | None:
    from datetime import UTC, datetime

    if date is None:
        return None
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        raise click.BadParameter(
            f"{date!r} is no date: write it like 2011-11-01 or 2011-11-01T12:00", param_hint=option
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _date(seconds: float | None) -> str:
    from datetime import UTC, datetime

    if seconds is None:
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"
