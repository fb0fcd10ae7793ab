"""hybrid evaluate"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_option, json_option


@click.command()
@click.argument("model", default="candidate")
@click.option("--data", help="`synthetic`, a path, or a folder of `hybrid data split`; default: "
              "what the model was trained on.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="Length of a list.")
@environment_option
@json_option
@click.pass_obj
def evaluate(
    app: Application, model: str, data: str | None, k: int, environment: str, as_json: bool
) -> None:
    """Report on MODEL (default: candidate) on the test split, all items ranked for every user.

    MODEL is a channel, a digest or its first digits. The figures stand with and without the items
    of the user's history left out; in brackets, the 95 % interval of a bootstrap over users.

    The test split is each user's last event; of a folder of `hybrid data split`, each user's first
    event after the cut, with all before it as history.
    """
    from dataclasses import asdict

    from cli import evaluation

    with app.progress("evaluate") as progress:
        done = evaluation.evaluate(app.environment(environment), model, data, k, progress)
    say_if_other_data(app, done)
    if as_json:
        app.show_json(asdict(done))
        return
    whole = done.report.whole
    app.show_table(
        [f"test, {whole.users} users", "seen items left out", "all items"],
        [
            [name, with_interval(figure), with_interval(whole.unmasked[name])]
            for name, figure in whole.masked.items()
        ],
    )
    names = list(next(iter(done.report.groups.values())).masked)
    app.show_table(
        ["seen items left out", "users", *names],
        [
            [name, group.users, *(with_interval(group.masked[metric]) for metric in names)]
            for name, group in done.report.groups.items()
        ],
    )


def with_interval(figure) -> str:
    """The figure with its interval in brackets, if it has one."""
    if figure.low is None:
        return f"{figure.value:.4f}"
    digits = 1 if abs(figure.value) >= 10 else 4  # events are counted, the rest are shares
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"


def say_if_other_data(app: Application, done) -> None:
    """Warn that the figures may flatter."""
    if not done.as_trained:
        app.say(
            f"{done.data} is not what the model was trained on: some of its test events may have "
            "been training events."
        )
