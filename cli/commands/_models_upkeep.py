"""The commands of `hybrid models` that keep a store whole; models.py has the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cli.application import Application
from cli.options import FiniteRange, environment_option, json_option

if TYPE_CHECKING:
    from model_store.replica import Replicated


@click.command()
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
            [
                [short_digest(each.model), each.signed_by or "", each.problem or ""]
                for each in found
            ],
        )
    if any(each.problem for each in found):
        ctx.exit(1)


@click.command()
@click.argument("model")
@environment_option
@click.pass_obj
def sign(app: Application, model: str, environment: str) -> None:
    """Vouch for MODEL, which a machine without a key stored, if it is whole."""
    from cli.models import sign as vouch

    with app.progress("sign") as progress:
        digest = vouch(app.environment(environment), model, progress)
    click.echo(f"Model {digest} is signed.")


@click.command()
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


@click.command()
@click.option("--keep-days", type=FiniteRange(0, 36_500), default=30, show_default=True,
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

    Uploads and promotions may run meanwhile. In a bucket with versions, what goes can be brought
    back for as long as the bucket keeps them.
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


@click.command()
@click.argument("addresses", metavar="[ADDRESS]...", nargs=-1)
@environment_option
@json_option
@click.pass_context
def replicate(
    ctx: click.Context, addresses: tuple[str, ...], environment: str, as_json: bool
) -> None:
    """Copy all models, signatures and channels to each ADDRESS (default: `model_replicas`).

    Nothing is removed there. Exit code 1 if something was left out.
    """
    from cli.models import replicate as copy

    app: Application = ctx.obj
    with app.progress("replicate") as progress:
        done = copy(app.environment(environment), addresses, progress)
    if _show_copies(app, done, as_json):
        ctx.exit(1)


@click.command()
@click.argument("address")
@environment_option
@json_option
@click.pass_context
def restore(ctx: click.Context, address: str, environment: str, as_json: bool) -> None:
    """Bring back from the replica at ADDRESS what the store lacks; exit code 1 if not all came."""
    from cli.models import restore as bring_back

    app: Application = ctx.obj
    with app.progress("restore") as progress:
        done = bring_back(app.environment(environment), address, progress)
    if _show_copies(app, {address: done}, as_json):
        ctx.exit(1)


@click.command()
@click.argument("addresses", metavar="[ADDRESS]...", nargs=-1)
@environment_option
@json_option
@click.pass_context
def drill(
    ctx: click.Context, addresses: tuple[str, ...], environment: str, as_json: bool
) -> None:
    """Restore each replica into an empty folder, check every byte, compare it with the store.

    Exit code 1 if something did not come back whole, or the replica is behind.
    """
    from dataclasses import asdict

    from cli.models import drill as try_out

    app: Application = ctx.obj
    with app.progress("drill") as progress:
        found = try_out(app.environment(environment), addresses, progress)
    if as_json:
        app.show_json({address: asdict(each) for address, each in found.items()})
    else:
        for address, each in found.items():
            click.echo(f"{address}: {len(each.restored)} models back in {each.seconds:.1f} s.")
            for name, problem in each.problems.items():
                click.echo(f"  {name}: {problem}")
            for name in each.behind:
                click.echo(f"  {name}: the replica is behind; run hybrid models replicate.")
    if any(each.problems or each.behind for each in found.values()):
        ctx.exit(1)


def _show_copies(app: Application, done: dict[str, Replicated], as_json: bool) -> bool:
    """Print what copies did; whether something was left out."""
    from dataclasses import asdict

    if as_json:
        app.show_json({address: asdict(each) for address, each in done.items()})
    else:
        for address, each in done.items():
            click.echo(
                f"{address}: {len(each.copied)} models copied, {len(each.same)} were there, "
                f"{len(each.channels)} channels moved."
            )
            for name, problem in each.refused.items():
                click.echo(f"  {name}: {problem}")
    return any(each.refused for each in done.values())
