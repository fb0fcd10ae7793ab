"""hybrid submit"""

from __future__ import annotations

from pathlib import Path

import click

from cli.application import Application
from cli.options import environment_argument, json_option


@click.command()
@environment_argument
@click.option("--data", required=True, help="Address of the interactions, s3:// or gs://.")
@click.option("--recipe", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="YAML file with fields of the recipe.")
@click.option("--shard-items", is_flag=True, help="Spread the item table over the GPUs.")
@click.option("--dry-run", is_flag=True, help="Print the request and send nothing.")
@json_option
@click.pass_obj
def submit(
    app: Application,
    environment: str,
    data: str,
    file: Path | None,
    shard_items: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train on the managed trainer that ENV's settings name: SageMaker, Vertex AI or Azure ML.

    The machines read the data, train as `hybrid train` does, and store the model in ENV's store,
    where the channel `candidate` then points to it. The same job is not started twice. The
    machines have no key: look at the model, then `hybrid models sign candidate`.
    """
    from cli.learning import read_recipe
    from cli.submission import prepare

    asked = prepare(
        app.environment(environment),
        data,
        read_recipe(file) if file else {},
        shard_items=shard_items,
    )
    if dry_run:
        app.show_json(asked.request)
        return
    identity, new = asked.send()
    if as_json:
        app.show_json({"trainer": asked.trainer, "job": asked.name, "id": identity, "new": new})
    else:
        click.echo(f"Job {asked.name} {'is submitted' if new else 'was there already'}: {identity}")
