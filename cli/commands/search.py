"""hybrid search"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_option, json_option


@click.command()
@click.argument("query")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many items.")
@click.option("--data", default="synthetic", show_default=True,
              help="Generated shop, or the path of a catalogue: a folder or file of items.")
@click.option("--judgments", metavar="PATH",
              help="Judged queries (query, item, relevance) that set how much each signal counts.")
@environment_option
@json_option
@click.pass_obj
def search(app: Application, query: str, k: int, data: str, judgments: str | None,
           environment: str, as_json: bool) -> None:  # fmt: skip
    """Search a catalogue for words and for meaning.

    The score is a weighted sum of BM25 over all fields, BM25 over titles and the dot product of
    the query's and the item's vector. The first search of a catalogue trains the vectors; later
    ones find them in the environment.
    """
    from dataclasses import asdict

    from cli.lock import environment_lock
    from cli.search import search_model

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid search"), app.progress("search") as progress:
        model, texts = search_model(target, data, judgments, progress)
    found = model.search(query, k)
    if as_json:
        app.show_json(
            {
                "query": query,
                "weights": model.weights,
                "items": [asdict(hit) | {"text": texts[hit.item]} for hit in found],
            }
        )
        return
    app.show_table(
        ["rank", "item", "text", "score", *model.weights],
        [
            [rank, hit.item, texts[hit.item], f"{hit.score:.3f}",
             *(f"{value:.3f}" for value in hit.signals.values())]
            for rank, hit in enumerate(found, start=1)
        ],
    )  # fmt: skip
