"""hybrid store: the objects of S3, GCS, a server at the site, or a folder"""

from __future__ import annotations

import sys

import click

from cli.application import Application
from cli.options import environment_option, json_option


@click.group()
def store() -> None:
    """List and copy objects of s3://bucket/prefix, gs://…, onprem://… (the server at the site that
    the settings name) or a folder."""


@store.command(name="list")
@click.argument("address")
@environment_option
@json_option
@click.pass_obj
def list_objects(app: Application, address: str, environment: str, as_json: bool) -> None:
    """List the objects at ADDRESS, with what is labelled private."""
    from dataclasses import asdict

    from cli.stores import listed

    found = listed(app.environment(environment), address)
    if as_json:
        app.show_json([asdict(entry) | {"private": private} for entry, private in found])
        return
    app.show_table(
        ["object", "bytes", "written", "residency"],
        [
            [
                entry.key,
                f"{entry.size:,}",
                f"{entry.modified:%Y-%m-%d %H:%M:%S}",
                "private" if private else "",
            ]
            for entry, private in found
        ],
    )


@store.command()
@click.argument("source")
@click.argument("target")
@environment_option
@click.option("--parallel", type=click.IntRange(1, 64), default=8, show_default=True,
              help="Objects at a time.")
@click.option("--overwrite", is_flag=True,
              help="Replace objects of TARGET that somebody else wrote; else they are conflicts.")
@click.option("--skip-private", is_flag=True,
              help="Leave out what is labelled private; else nothing is copied to a cloud.")
@json_option
@click.pass_obj
def sync(
    app: Application,
    source: str,
    target: str,
    environment: str,
    parallel: int,
    overwrite: bool,
    skip_private: bool,
    as_json: bool,
) -> None:
    """Copy the objects of SOURCE that TARGET lacks or has with other content; delete nothing.

    Each copy is checked against its SHA-256. After an interruption the same command goes on, within
    large objects too. Exit code 1 where there are conflicts.
    """
    from dataclasses import asdict

    from cli.stores import sync_stores

    with app.progress("sync") as progress:
        synced = sync_stores(
            app.environment(environment),
            source,
            target,
            progress,
            parallel=parallel,
            overwrite=overwrite,
            skip_private=skip_private,
        )
    if as_json:
        app.show_json(asdict(synced))
    else:
        left_out = f", {len(synced.private)} private left out" if synced.private else ""
        click.echo(
            f"Objects: {len(synced.copied)} copied ({synced.bytes / 1e6:,.1f} MB), "
            f"{len(synced.same)} the same already{left_out}."
        )
    if synced.conflicts:
        app.say(
            f"Not copied, since somebody else changed them in {target} (or, while they were "
            f"copied, in {source}): {', '.join(synced.conflicts)}. Look at them, then use "
            "--overwrite if they may go."
        )
        sys.exit(1)
