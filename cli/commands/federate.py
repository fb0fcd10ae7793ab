"""hybrid federate"""

from __future__ import annotations

import click

from cli.application import Application
from cli.commands.train import show_metrics
from cli.options import environment_option, json_option


@click.command()
@environment_option
@click.option("--from", "reference", default="candidate", show_default=True, metavar="MODEL",
              help="Stored model to start from: a channel, a digest or its first digits.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--local-epochs", type=click.IntRange(1), default=1, show_default=True,
              help="Passes over its own data that a site makes in a round.")
@click.option("--strategy", type=click.Choice(["fedavg", "fedprox"]), default="fedavg",
              show_default=True)
@click.option("--proximal-mu", type=click.FloatRange(0), default=0.0,
              help="Weight of FedProx's proximal term.")
@json_option
@click.pass_obj
def federate(app: Application, environment: str, as_json: bool, **how) -> None:
    """Train a stored model on the sites' own users through the running SuperLink."""
    from dataclasses import asdict

    from cli import learning
    from cli.lock import environment_lock

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid federate"), app.progress("federate") as progress:
        trained = learning.federate(target, progress=progress, **how)
    if as_json:
        app.show_json(asdict(trained))
        return
    show_rounds(app, trained)
    show_metrics(app, trained)
    click.echo(f"Model {trained.digest} is the candidate after {trained.seconds:.0f} s.")


def show_rounds(app: Application, trained) -> None:
    """Table of the rounds of a federated model."""
    app.show_table(
        ["round", "loss", "HR@10", "NDCG@10", "MB down", "MB up", "seconds"],
        [
            [
                record["round"],
                f"{record['loss']:.4f}",
                f"{record['metrics']['HR@10']:.4f}",
                f"{record['metrics']['NDCG@10']:.4f}",
                f"{record['bytes_down'] / 1e6:.1f}",
                f"{record['bytes_up'] / 1e6:.1f}",
                f"{record['seconds']:.1f}",
            ]
            for record in trained.rounds
        ],
    )
