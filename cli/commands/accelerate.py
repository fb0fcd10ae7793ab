"""hybrid accelerate"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import FiniteRange, environment_option, json_option


@click.command()
@click.argument("model")
@click.option("--prune", type=FiniteRange(0, 1, min_open=True, max_open=True), default=None,
              metavar="SHARE", help="Share of heads and feed-forward units to remove.")
@click.option("--pruning", type=click.Choice(["structured", "magnitude"]), default="structured",
              show_default=True, help="Remove heads and units, or set small weights to zero.")
@click.option("--epochs", type=click.IntRange(0), default=3, show_default=True,
              help="Epochs of fine-tuning after pruning.")
@click.option("--quantise", type=click.Choice(["int8"]),
              help="Linear layers, and the item table with re-ranking.")
@click.option("--onnx", is_flag=True, help="Export the encoder; serve it in ONNX Runtime.")
@click.option("--most-loss", type=FiniteRange(0, 1), default=0.005, show_default=True,
              help="NDCG@10 (test) that the result may lose; where most people come back for "
              "what they had, with that in the ranking.")
@environment_option
@json_option
@click.pass_obj
def accelerate(
    app: Application, model: str, environment: str, most_loss: float, as_json: bool, **how
) -> None:
    """Make a stored MODEL smaller and faster; store the result unless it lost too much.

    MODEL is a channel, a digest or its first digits. The result becomes the candidate.
    """
    from dataclasses import asdict

    from cli import acceleration
    from cli.errors import CommandError
    from cli.lock import environment_lock
    from recsys.accelerate.job import Acceleration

    if not (how["prune"] or how["quantise"] or how["onnx"]):
        raise click.UsageError("Nothing to do: give --prune, --quantise or --onnx.")
    wanted = Acceleration(**how | {"prune": how["prune"] or 0.0})
    target = app.environment(environment)
    with (
        environment_lock(target.folder, "hybrid accelerate"),
        app.progress("accelerate") as progress,
    ):
        done = acceleration.accelerate(target, model, wanted, most_loss, progress)
    if as_json:
        app.show_json(asdict(done))
    else:
        show_comparison(app, done.comparison)
    if done.digest is None:
        raise CommandError(
            f"Refused: {done.comparison.metric} fell by {done.comparison.loss:.4f}, more than "
            f"{most_loss}; nothing was stored. Prune less, fine-tune for more --epochs, or allow it "
            "with --most-loss."
        )
    if not as_json:
        click.echo(f"Model {done.digest} is the candidate.")


def show_comparison(app: Application, comparison) -> None:
    """Table of size, latency and quality before and after."""
    before, after = comparison.before, comparison.after
    rows = [
        ("size (MB)", before.size / 1e6, after.size / 1e6, "{:.2f}"),
        ("single request, p50 (ms)", before.p50_ms, after.p50_ms, "{:.3f}"),
        ("single request, p99 (ms)", before.p99_ms, after.p99_ms, "{:.3f}"),
    ]
    for name in ("NDCG@10", "NDCG@10 unmasked"):
        rows.append((f"{name} (test)", before.metrics[name], after.metrics[name], "{:.4f}"))
    app.show_table(
        ["", "before", "after", "ratio"],
        [
            [name, form.format(old), form.format(new), f"{new / old:.2f}" if old else "-"]
            for name, old, new, form in rows
        ],
    )
