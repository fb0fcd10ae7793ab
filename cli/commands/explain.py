"""hybrid explain"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_option, json_option


@click.command()
@click.option("--user", "-u", required=True, help="User of the data that the model was trained on.")
@click.option("--item", "-i", required=True, help="Item that the model recommends to the user.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1),
              help="How many first items count as recommended.")
@click.option("--model", default="production", show_default=True, metavar="MODEL",
              help="Stored model: a channel, a digest or its first digits.")
@environment_option
@json_option
@click.pass_obj
def explain(
    app: Application, user: str, item: str, k: int, model: str, environment: str, as_json: bool
) -> None:
    """Tell which past events made the model recommend an item to a user.

    Events are taken away until the item is no longer among the first k. Each removal is scored by
    the model itself. No server is needed.
    """
    from dataclasses import asdict

    from cli.explanation import explain_item

    explained = explain_item(app.environment(environment), model, user, item, k)
    if as_json:
        app.show_json(asdict(explained) | {"sentence": sentence(explained)})
        return
    named = f"{item} ({explained.text})" if explained.text else item
    click.echo(
        f"Item {named} is number {explained.rank} for user {user}, "
        f"score {explained.score:.3f}."
    )
    app.show_table(
        ["event", "item", "text", "score drop", "rank without", "integrated gradient", "removed"],
        [
            [
                row["place"] + 1,
                row["item"],
                row["text"],
                f"{row['score_drop']:+.3f}",
                row["rank_without"],
                f"{row['integrated_gradient']:+.3f}",
                "yes" if row["removed"] else "",
            ]
            for row in sorted(explained.events, key=lambda row: -row["score_drop"])
        ],
    )
    click.echo(sentence(explained))
    if explained.completeness_gap > 0.01:
        app.say(
            f"The integrated gradients are {explained.completeness_gap:.0%} off the change in "
            "score that they should sum to: do not rely on them here."
        )


def sentence(explained) -> str:
    """The explanation in words."""
    change = explained.counterfactual
    if change is None:
        return f"No set of events was found without which the item leaves the first {explained.k}."
    count = len(change["removed"])
    proof = "" if change["smallest"] else " Not all smaller sets were tried."
    return (
        f"Without {'this event' if count == 1 else f'these {count} events'} "
        f"({', '.join(change['removed'])}) the item falls from {explained.rank} to "
        f"{change['rank']}, out of the first {explained.k}, and item {change['successor']} "
        f"comes in.{proof}"
    )
