"""hybrid models: what is stored, and where the channels point"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.application import Application
from cli.options import environment_option, json_option

CHANNELS = click.Choice(["candidate", "staging", "canary", "production"])


@click.group()
def models() -> None:
    """Look at stored models, move channels, keep the store whole.

    MODEL is a channel, a digest or its first digits.
    """


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
                f"{record.lineage.get('metrics', {}).get('NDCG@10', float('nan')):.4f}",
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
    sides = {"changed": ("one content", "another"), "removed": ("there", ""), "added": ("", "there")}
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
@click.argument("channel", type=CHANNELS)
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
@click.argument("channel", type=CHANNELS)
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
@click.argument("channel", type=CHANNELS, default="production")
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
        click.echo(f"Channel {channel} points to {names(digest)} again, no more to {names(before)}.")
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


@models.command()
@click.option("--keep-days", type=click.FloatRange(min=0), default=30, show_default=True,
              help="What was stored since then stays in any case.")
@click.option("--rollbacks", type=click.IntRange(min=0), default=5, show_default=True,
              help="Models before the current one that each channel can go back to.")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@click.option("--break-lock", is_flag=True,
              help="Take over from a collection on another machine, which must have ended.")
@environment_option
@json_option
@click.pass_obj
def gc(
    app: Application,
    keep_days: float,
    rollbacks: int,
    dry_run: bool,
    break_lock: bool,
    environment: str,
    as_json: bool,
) -> None:
    """Remove models and files that no channel, rollback or lineage needs.

    Uploads and promotions may run meanwhile. In a bucket with versions what goes can be brought back
    for as long as the bucket keeps them.
    """
    from dataclasses import asdict
    from datetime import timedelta

    from cli.learning import environment_store, short_digest
    from model_store.collect import collect

    with app.progress("gc") as progress:
        found = collect(
            environment_store(app.environment(environment)),
            keep=timedelta(days=keep_days),
            rollbacks=rollbacks,
            dry_run=dry_run,
            break_lock=break_lock,
            progress=progress,
        )
    if as_json:
        app.show_json(asdict(found))
        return
    for model in found.models:
        click.echo(short_digest(model))
    click.echo(
        f"{len(found.models)} models and {len(found.blobs)} files "
        f"({found.bytes / 1e6:,.1f} MB) {'would go' if dry_run else 'are gone'}."
    )


@models.command()
@click.argument("references", metavar="[MODEL]...", nargs=-1)
@environment_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context, references: tuple[str, ...], environment: str, as_json: bool
) -> None:
    """Check signature and every byte of each MODEL, or of all; exit code 1 if one is not whole."""
    from dataclasses import asdict

    from cli.learning import short_digest
    from cli.models import verify as check

    app: Application = ctx.obj
    with app.progress("verify") as progress:
        found = check(app.environment(environment), references, progress)
    if as_json:
        app.show_json([asdict(each) for each in found])
    else:
        app.show_table(
            ["model", "signed by", "problem"],
            [[short_digest(each.model), each.signed_by or "", each.problem or ""] for each in found],
        )
    if any(each.problem for each in found):
        ctx.exit(1)


@models.command()
@click.argument("model")
@environment_option
@click.pass_obj
def sign(app: Application, model: str, environment: str) -> None:
    """Vouch for MODEL, which a machine without a key stored, if it is whole."""
    from cli.models import sign as vouch

    with app.progress("sign") as progress:
        digest = vouch(app.environment(environment), model, progress)
    click.echo(f"Model {digest} is signed.")


@models.command()
@click.option("--rotate", is_flag=True, help="Sign with a new key from now on; trust the old one.")
@environment_option
@json_option
@click.pass_obj
def key(app: Application, rotate: bool, environment: str, as_json: bool) -> None:
    """Show the public keys whose models are loaded here."""
    from model_store.signing import public_pem

    keys = app.environment(environment).signing_keys()
    new = keys.rotate() if rotate else None
    trusted = {name: public_pem(public).decode() for name, public in keys.trusted().items()}
    if as_json:
        app.show_json({"folder": str(keys.folder), "new": new, "trusted": trusted})
        return
    if new:
        app.say(f"New models are signed by {new}.")
    if not trusted:
        app.say("There is no key yet: the first model that is stored makes one.")
    for name, pem in trusted.items():
        click.echo(f"{name}\n{pem}", nl=False)


def _brief(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _tell_of_serving(app: Application, channel: str) -> None:
    if channel == "production":
        app.say("`hybrid deploy production` serves it.")
