"""hybrid train"""

from __future__ import annotations

from pathlib import Path

import click

from cli.application import Application
from cli.options import environment_option, json_option


@click.command()
@environment_option
@click.option("--data", default="synthetic", show_default=True,
              help="Generated shop, or a folder or file of interactions (also s3://, gs://).")
@click.option("--task", type=click.Choice(["next-item", "rating", "click", "search"]),
              default="next-item", show_default=True, help="What the model predicts.")
@click.option("--judgments", metavar="PATH",
              help="For search: judged queries that set how much each signal counts.")
@click.option("--recipe", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="YAML file with fields of the recipe; the options below come before it.")
@click.option("--epochs", type=click.IntRange(1), help="Most epochs of fine-tuning.")
@click.option("--pretrain-epochs", type=click.IntRange(0), help="Epochs of pretraining.")
@click.option("--dimension", type=click.IntRange(1), help="Width of the model.")
@click.option("--blocks", type=click.IntRange(1), help="Transformer blocks.")
@click.option("--seed", type=click.IntRange(0), help="Seed of weights, order and dropout.")
@click.option("--accumulation", type=click.IntRange(1),
              help="Parts of a batch, worked on one after another to save memory.")
@click.option("--activation-checkpointing", is_flag=True, default=None,
              help="Save memory: compute activations twice.")
@click.option("--bfloat16", is_flag=True, default=None, help="Blocks in bfloat16, for GPUs.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True,
              help="Processes that train together, by torchrun; the result is the same.")
@click.option("--shard-items", is_flag=True, help="Spread the item table over the workers.")
@click.option("--wandb", "wandb_project", metavar="PROJECT",
              help="Report to Weights & Biases as well; TensorBoard is written in any case.")
@click.option("--drop-bad-rows", is_flag=True,
              help="For rating, click and search: leave out bad rows; else they are refused.")
@json_option
@click.pass_obj
def train(
    app: Application,
    environment: str,
    data: str,
    task: str,
    judgments: str | None,
    file: Path | None,
    workers: int,
    shard_items: bool,
    wandb_project: str | None,
    drop_bad_rows: bool,
    as_json: bool,
    **recipe,
) -> None:
    """Pretrain and fine-tune a sequential recommender; goes on where it was interrupted.

    An option that is left out keeps the recipe's default. The model goes to the store, and the
    channel `candidate` points to it.

    With --task rating, click or search the data are ratings, logged impressions or a catalogue, the
    recipe is that of `recsys.rating`, `recsys.click` or `recsys.search.towers`, and the model goes
    to the store without a channel; hybrid deploy DIGEST serves it.
    """
    from dataclasses import asdict

    from cli import learning
    from cli.lock import environment_lock

    target = app.environment(environment)
    changes = learning.read_recipe(file) if file else {}
    changes |= {name: value for name, value in recipe.items() if value is not None}
    if judgments and task != "search":
        raise click.UsageError("Only --task search takes --judgments.")
    if task == "next-item" and drop_bad_rows:
        raise click.UsageError(
            "--task next-item takes no --drop-bad-rows: hybrid data convert does, and writes what "
            "it then trains on."
        )
    if task != "next-item":
        whole = {"--workers": workers > 1, "--shard-items": shard_items, "--wandb": wandb_project}
        if given := [option for option, value in whole.items() if value]:
            raise click.UsageError(f"Only --task next-item takes {' and '.join(given)}.")
    with environment_lock(target.folder, "hybrid train"), app.progress("train") as progress:
        if task == "next-item":
            trained = learning.train(
                target,
                data,
                changes,
                progress,
                workers=workers,
                shard_items=shard_items,
                wandb_project=wandb_project,
            )
        else:
            from cli import prediction

            trained = prediction.train(
                target, task, data, changes, progress, judgments, drop_bad_rows=drop_bad_rows
            )
    if as_json:
        app.show_json(asdict(trained))
        return
    if task == "next-item":
        show_metrics(app, trained)
        place = "the candidate"
    else:
        if trained.metrics:
            show_metrics(app, trained, "test")
        place = "stored"
    click.echo(f"Model {trained.digest} is {place} after {trained.seconds:.0f} s.")


def show_metrics(app: Application, trained, how: str = "test, full ranking") -> None:
    """Table of the test metrics, the same for trained and federated models."""
    app.show_table(
        [f"metric ({how})", "value"],
        [[name, f"{value:.4f}" if isinstance(value, float) else value]
         for name, value in trained.metrics.items()],
    )  # fmt: skip
