"""hybrid run"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_argument, json_option


@click.command()
@environment_argument
@click.option("--data", default="synthetic", show_default=True,
              help="Generated shop, or the path of a folder or file of interactions.")
@click.option("--epochs", type=click.IntRange(1), help="Most epochs of fine-tuning.")
@click.option("--pretrain-epochs", type=click.IntRange(0), help="Epochs of pretraining.")
@click.option("--dimension", type=click.IntRange(1), help="Width of the model.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True,
              help="Rounds of federation.")
@click.option("--user", "-u", help="Whom to recommend at the end; default: the data's first user.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many items.")
@click.option("--fresh", is_flag=True, help="Train and federate again even if that is done.")
@json_option
@click.pass_obj
def run(
    app: Application, environment: str, data: str, rounds: int, user: str | None, k: int,
    fresh: bool, as_json: bool, **recipe,
) -> None:  # fmt: skip
    """Do the whole job on ENV: up, train, federate, deploy and recommend.

    Finished training and rounds are recorded: after an interruption the same command goes on.
    """
    from dataclasses import asdict

    from cli import pipeline
    from cli.commands.recommend import show_recommendation
    from cli.lock import environment_lock

    target = app.environment(environment)
    changes = {name: value for name, value in recipe.items() if value is not None}
    job = pipeline.Job(data, changes, rounds, user, k)
    with environment_lock(target.folder, "hybrid run"):
        outcome = pipeline.run(target, job, app.progress, fresh=fresh)
    if as_json:
        app.show_json(asdict(outcome))
        return
    show_recommendation(app, outcome.recommendation)
    names = [name for name in outcome.federated.metrics if "@" in name]
    app.show_table(
        ["test, full ranking", *names],
        [
            [label, *(f"{model.metrics[name]:.4f}" for name in names)]
            for label, model in (("trained", outcome.trained), ("federated", outcome.federated))
        ],
    )
    click.echo(f"Model {outcome.deployed.digest} serves at {outcome.deployed.address}")
    click.echo("More: hybrid status · hybrid recommend --user USER · hybrid down")
