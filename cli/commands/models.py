"""hybrid models: what is stored, and where the channels point"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.application import Application
from cli.commands import _models_upkeep as upkeep
from cli.options import environment_option, json_option
from model_store.channels import CHANNELS

CHANNEL = click.Choice(CHANNELS)


@click.group()
def models() -> None:
    """Look at stored models, move channels, keep the store whole.

    MODEL is a channel, a digest or its first digits.
    """


for command in (
    *(upkeep.verify, upkeep.sign, upkeep.key, upkeep.gc),
    *(upkeep.replicate, upkeep.restore, upkeep.drill),
):
    models.add_command(command)


@models.command(name="list")
@environment_option
@json_option
@click.pass_obj
def list_models(app: Application, environment: str, as_json: bool) -> None:
    """List the stored models, the newest first, with their channels."""
    from dataclasses import asdict

    from cli.learning import environment_store, short_digest

    records = environment_store(app.environment(environment)).list()
    if as_json:
        app.show_json([asdict(record) for record in records])
        return
    app.show_table(
        ["model", "made by", "channels", "NDCG@10", "MB", "created"],
        [
            [
                short_digest(record.digest),
                record.lineage.get("made_by", ""),
                ", ".join(record.channels),
                _ndcg(record.lineage),
                f"{record.size / 1e6:.1f}",
                f"{record.created:%Y-%m-%d %H:%M}",
            ]
            for record in records
        ],
    )


@models.command()
@click.argument("model")
@environment_option
@json_option
@click.pass_obj
def show(app: Application, model: str, environment: str, as_json: bool) -> None:
    """Show MODEL: who signed it, its files, its card."""
    from cli.models import describe

    found = describe(app.environment(environment), model)
    if as_json:
        app.show_json(found)
        return
    click.echo(f"{found['digest']}\nchannels: {', '.join(found['channels']) or 'none'}")
    click.echo(found["problem"] or f"signed by: {found['signed_by']}")
    app.show_table(
        ["file", "bytes", "SHA-256"],
        [[file["name"], f"{file['size']:,}", file["sha256"]] for file in found["files"]],
    )
    if found["card"]:
        click.echo(found["card"], nl=False)


@models.command()
@click.argument("first")
@click.argument("second")
@environment_option
@json_option
@click.pass_obj
def diff(app: Application, first: str, second: str, environment: str, as_json: bool) -> None:
    """Tell in which files, settings and metrics two models differ."""
    from cli.models import differences

    found = differences(app.environment(environment), first, second)
    if as_json:
        app.show_json(found)
        return
    sides = {"changed": ("one file", "another"), "removed": ("there", ""), "added": ("", "there")}
    rows: list[list[Any]] = [
        ["file", name, *sides[how]] for how, names in found["files"].items() for name in names
    ]
    rows += [
        [part, name, *(_brief(value) for value in values)]
        for part in ("recipe", "metrics", "lineage")
        for name, values in found[part].items()
    ]
    if rows:
        app.show_table(["part", "name", *(digest[7:19] for digest in found["models"])], rows)
    else:
        click.echo("They do not differ.")


@models.command()
@click.argument("channel", type=CHANNEL)
@environment_option
@json_option
@click.pass_obj
def history(app: Application, channel: str, environment: str, as_json: bool) -> None:
    """List where CHANNEL pointed, the newest first."""
    from dataclasses import asdict

    from cli.learning import environment_store, short_digest

    moves = environment_store(app.environment(environment)).history(channel)[::-1]
    if as_json:
        app.show_json([asdict(move) for move in moves])
        return
    app.show_table(
        ["model", "since", "by", "how"],
        [
            [short_digest(move.model), move.at, move.by, "rollback" if move.back else "promotion"]
            for move in moves
        ],
    )


@models.command()
@click.argument("model")
@click.argument("channel", type=CHANNEL)
@click.option("--expected", metavar="MODEL",
              help="Refuse unless CHANNEL points to this model now.")  # fmt: skip
@environment_option
@json_option
@click.pass_obj
def promote(
    app: Application,
    model: str,
    channel: str,
    expected: str | None,
    environment: str,
    as_json: bool,
) -> None:
    """Let CHANNEL point to MODEL, which a trusted key must have signed.

    Of several who do this at once one wins; the others are told. What serves changes with
    `hybrid deploy`.
    """
    from cli.models import names
    from cli.models import promote as move

    digest, before = move(app.environment(environment), model, channel, expected)
    if as_json:
        app.show_json({"channel": channel, "model": digest, "before": before})
    else:
        click.echo(f"Channel {channel} points to {names(digest)}; before, to {names(before)}.")
        _tell_of_serving(app, channel)


@models.command()
@click.argument("channel", type=CHANNEL, default="production")
@environment_option
@json_option
@click.pass_obj
def rollback(app: Application, channel: str, environment: str, as_json: bool) -> None:
    """Let CHANNEL (default: production) point to the model before; repeated, further back."""
    from cli.models import names
    from cli.models import rollback as move

    digest, before = move(app.environment(environment), channel)
    if as_json:
        app.show_json({"channel": channel, "model": digest, "before": before})
    else:
        click.echo(f"Channel {channel} points to {names(digest)} again, not to {names(before)}.")
        _tell_of_serving(app, channel)


@models.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@environment_option
@json_option
@click.pass_obj
def pull(app: Application, model: str, folder: Path, environment: str, as_json: bool) -> None:
    """Fetch MODEL into the new folder FOLDER, its signature and every hash checked."""
    from cli.models import pull as fetch

    digest = fetch(app.environment(environment), model, folder)
    if as_json:
        app.show_json({"model": digest, "folder": str(folder.absolute())})
    else:
        click.echo(f"Model {digest} is in {folder}.")


@models.command()
@click.argument("model", required=False)
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Draw it there.")
@environment_option
@json_option
@click.pass_obj
def lineage(
    app: Application, model: str | None, svg: Path | None, environment: str, as_json: bool
) -> None:
    """Show what MODEL, or each model, came of and what came of it, from data to channels."""
    from dataclasses import asdict

    from cli.learning import environment_store
    from model_store.lineage import lineage as lineage_of

    graph = lineage_of(environment_store(app.environment(environment)), model)
    if svg:
        from cli.files import write_text
        from cli.lineage import as_svg

        write_text(svg.absolute(), as_svg(graph))
        app.say(f"Written to {svg}.")
    if as_json:
        nodes = [asdict(node) for node in graph.nodes.values()]
        app.show_json({"nodes": nodes, "arrows": graph.arrows})
    elif not svg:
        from cli.lineage import as_tree

        app.show_tree(as_tree(graph))


def _ndcg(lineage: dict[str, Any]) -> str:
    """Nothing for a model that was not measured so; whoever stored it wrote what they liked."""
    metrics = lineage.get("metrics")
    value = metrics.get("NDCG@10") if isinstance(metrics, dict) else None
    return f"{value:.4f}" if isinstance(value, float) else ""


def _brief(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _tell_of_serving(app: Application, channel: str) -> None:
    if channel.startswith("production"):
        app.say(f"`hybrid deploy {channel}` serves it.")
