"""hybrid deploy"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_option, json_option


@click.command()
@click.argument("model", default="candidate")
@environment_option
@json_option
@click.pass_obj
def deploy(app: Application, model: str, environment: str, as_json: bool) -> None:
    """Serve MODEL (default: candidate) through TorchServe and make it `production`.

    MODEL is a channel, a digest or its first digits. The version that serves now goes on serving
    until the new one has passed its smoke test.
    """
    from dataclasses import asdict

    from cli import production
    from cli.lock import environment_lock

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid deploy"), app.progress("deploy") as progress:
        deployed = production.deploy(target, model, progress)
    if as_json:
        app.show_json(asdict(deployed))
    elif deployed.changed:
        click.echo(f"Model {deployed.digest} is in production at {deployed.address}.")
    else:
        click.echo(f"Nothing to deploy: model {deployed.digest} is in production already.")
