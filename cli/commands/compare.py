"""hybrid compare"""

from __future__ import annotations

import click

from cli.application import Application
from cli.commands.evaluate import say_if_other_data
from cli.options import environment_option, json_option


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="Length of a list.")
@environment_option
@json_option
@click.pass_obj
def compare(
    app: Application, first: str, second: str, k: int, environment: str, as_json: bool
) -> None:
    """Tell whether stored models A and B differ on the same users of the test split.

    A and B are channels, digests or their first digits, made for the same data. Intervals are of a
    paired bootstrap over users, p values of a paired permutation test, each metric by itself.
    """
    from dataclasses import asdict

    from cli import evaluation

    with app.progress("compare") as progress:
        done = evaluation.compare(app.environment(environment), first, second, k, progress)
    say_if_other_data(app, done)
    comparison = done.comparison
    sentence = verdict(comparison)
    if as_json:
        app.show_json(asdict(done) | {"differs": comparison.differs, "verdict": sentence})
        return
    app.show_table(
        [f"test, {comparison.users} users", "A", "B", "B - A", "95 % interval", "p"],
        [
            [
                f"{name}{suffix}",
                f"{row.first:.4f}",
                f"{row.second:.4f}",
                f"{row.difference:+.4f}",
                f"[{row.low:+.4f}, {row.high:+.4f}]",
                f"{row.p:.4f}",
            ]
            for rows, suffix in ((comparison.masked, ""), (comparison.unmasked, " unmasked"))
            for name, row in rows.items()
        ],
    )
    click.echo(sentence)


def verdict(comparison) -> str:
    """Whether the models differ, by the metric that decides."""
    row = comparison.deciding
    found = f"{row.low:+.4f} to {row.high:+.4f} with 95 % confidence, p = {row.p:.4f}"
    if not comparison.differs:
        return (
            f"A and B do not differ demonstrably in {comparison.metric} on these users "
            f"(B - A is {found})."
        )
    better, worse = ("B", "A") if row.difference > 0 else ("A", "B")
    return f"{better} is better than {worse} in {comparison.metric} (B - A is {found})."
