"""hybrid up"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_argument, json_option


@click.command()
@environment_argument
@click.option("--refresh", is_flag=True,
              help="First see what is really there, so that what drifted is mended too.")
@json_option
@click.pass_obj
def up(app: Application, environment: str, refresh: bool, as_json: bool) -> None:
    """Stand ENV up, or mend it; where all is well, nothing is changed."""
    from dataclasses import asdict

    from cli import provision
    from cli.lock import environment_lock

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid up"), app.progress("up") as progress:
        done = provision.up(target, progress, refresh=refresh)
    for finding in done.findings:
        click.echo(finding.line, err=True)
    if as_json:
        app.show_json({"environment": environment, "changed": done.changed, **asdict(done)})
        return
    app.show_table(["layer", "resources", "changes"], layer_rows(done))
    if done.servers:
        click.echo(f"Servers started: {', '.join(done.servers)}.")
    if done.changed:
        click.echo(f"{environment} is up after {done.seconds:.0f} s.")
    else:
        click.echo(f"Nothing to change: {environment} is up.")


def layer_rows(done) -> list[list[object]]:
    """A row a layer: its name, how many resources it has, what was done to how many of them."""
    rows = []
    for layer in done.layers:
        operations = [change.operation for change in layer.changes]
        counted = [f"{operations.count(o)} {o}" for o in dict.fromkeys(operations)]
        rows.append([layer.layer, layer.resources, ", ".join(counted) or "none"])
    return rows
