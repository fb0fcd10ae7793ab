"""hybrid recommend"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_option, json_option


@click.command()
@click.option("--user", "-u", required=True, help="User of the data that the model was trained on.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many items.")
@environment_option
@json_option
@click.pass_obj
def recommend(app: Application, user: str, k: int, environment: str, as_json: bool) -> None:
    """Ask the served model which items the user will want next."""
    from dataclasses import asdict

    from cli import production

    answer = production.recommend(app.environment(environment), user, k)
    if as_json:
        app.show_json(asdict(answer))
        return
    show_recommendation(app, answer)


def show_recommendation(app: Application, answer) -> None:
    """Table of the recommended items, the best first."""
    click.echo(f"User {answer.user}, last seen: {', '.join(answer.history[-5:])}")
    app.show_table(
        ["rank", "item", "text", "score"],
        [
            [rank, row["item"], row["text"], f"{row['score']:.3f}"]
            for rank, row in enumerate(answer.items, start=1)
        ],
    )
