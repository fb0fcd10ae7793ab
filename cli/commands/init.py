"""hybrid init"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_argument


@click.command()
@environment_argument
@click.pass_obj
def init(app: Application, environment: str) -> None:
    """Prepare the folder, engine plugins and stacks of ENV, so that `pulumi preview` works too."""
    from cli.engine import Engine
    from cli.lock import environment_lock

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid init"):
        Engine(target).prepare()
    app.say(f"Environment {environment} is prepared in {target.folder}.")
