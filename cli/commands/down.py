"""hybrid down"""

from __future__ import annotations

import click

from cli.application import Application
from cli.commands.up import layer_rows
from cli.options import environment_argument, json_option


@click.command()
@environment_argument
@click.option("--purge", is_flag=True, help="Delete the environment's models, data and logs too.")
@click.option("--delete-data", is_flag=True, help="Delete what the object stores hold.")
@click.option("--leave-bundles", is_flag=True,
              help="Go on where a site's host cannot be reached to take its edge bundle away.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before a purge or a real environment.")
@json_option
@click.pass_obj
def down(
    app: Application,
    environment: str,
    purge: bool,
    delete_data: bool,
    leave_bundles: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Destroy all layers of ENV in reverse order and end its servers; models and data stay.

    Where an object store holds something, nothing is destroyed without --delete-data. Edge bundles
    go from the sites' hosts first.
    """
    from dataclasses import asdict

    from cli import provision
    from cli.lock import environment_lock

    target = app.environment(environment)
    if target.is_local and not target.folder.exists():
        if as_json:
            app.show_json({"environment": environment, "changed": False})
        else:
            click.echo(f"Nothing to end: {environment} was never up here.")
        return
    if not yes and (purge or delete_data or not target.is_local):
        data = "What its object stores hold goes too. " if delete_data else ""
        folder = f"Its folder {target.folder} goes too. " if purge else ""
        app.ask_to_go_on(f"Destroy {environment}? {data}{folder}")
    with environment_lock(target.folder, "hybrid down"), app.progress("down") as progress:
        done = provision.down(
            target, progress, purge=purge, delete_data=delete_data, leave_bundles=leave_bundles
        )
    if as_json:
        app.show_json({"environment": environment, "changed": done.changed, **asdict(done)})
        return
    if not done.changed:
        click.echo(f"Nothing to end: {environment} is down.")
        return
    app.show_table(["layer", "resources", "changes"], layer_rows(done))
    if done.servers:
        click.echo(f"Servers ended: {', '.join(done.servers)}.")
    if done.bundles:
        click.echo(f"Edge bundles taken away from: {', '.join(done.bundles)}.")
    if done.bundles_left:
        click.echo(
            f"Edge bundles may be left on: {', '.join(done.bundles_left)}. Take them away with "
            "hybrid edge remove, once these hosts can be reached."
        )
    kept = "" if purge else f" Models, data and logs stay in {target.folder}."
    click.echo(f"{environment} is down after {done.seconds:.0f} s.{kept}")
