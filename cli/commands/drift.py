"""hybrid drift"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_argument, json_option

DRIFTED = 3


@click.command()
@environment_argument
@json_option
@click.pass_obj
def drift(app: Application, environment: str, as_json: bool) -> None:
    """Tell what in ENV no longer is as recorded; nothing is changed. Exit code 3 on drift."""
    from dataclasses import asdict

    from cli.lock import environment_lock
    from cli.provision import drift as find_drift

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid drift"), app.progress("drift") as progress:
        results = find_drift(target, progress)
    changes = [change for result in results for change in result.changes]
    checked = sum(result.resources for result in results)
    if as_json:
        drifted = [asdict(change) for change in changes]
        app.show_json({"environment": environment, "checked": checked, "drift": drifted})
    elif not changes:
        click.echo(f"No drift: {checked} resources are as recorded.")
    else:
        words = {"delete": "gone", "update": "differs"}
        app.show_table(
            ["layer", "drift", "type", "name", "properties"],
            [
                [c.layer, words.get(c.operation, ""), c.type, c.name, ", ".join(c.properties)]
                for c in changes
            ],
        )
        click.echo(
            f"{len(changes)} of {checked} resources drifted: hybrid up {environment} --refresh "
            "mends them."
        )
    if changes:
        raise SystemExit(DRIFTED)
