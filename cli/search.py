"""Search models of an environment: trained at the first question, kept for the next."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

from cli.application import Progress
from cli.environment import Environment
from cli.learning import SYNTHETIC

if TYPE_CHECKING:
    from recsys.search.ranker import SearchModel


def search_model(
    environment: Environment, data: str, judgments: str | None, progress: Progress
) -> tuple[SearchModel, dict[str, str]]:
    """The search model of a catalogue, and the text of each item.

    It is kept in the environment's ``runs/`` under the hash of the catalogue, the judgments and the
    recipe; a change of any of them trains another.

    Parameters
    ----------
    data
        `synthetic`, or a path or address of a catalogue.
    judgments
        Judged queries that fit the weights of the signals, or None for the defaults. The generated
        shop brings its own.
    """
    # As in cli.learning.train: it counts before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from recsys.data.catalogue import load_catalogue
    from recsys.data.queries import load_judgments
    from recsys.data.synthetic import write_shop
    from recsys.search.ranker import load_search, save_search, train_search
    from recsys.search.towers import TowerRecipe

    if data == SYNTHETIC:
        shop = environment.folder / "data" / SYNTHETIC
        if not shop.exists():
            write_shop(shop)
        data, judgments = str(shop), judgments or str(shop)
    catalogue = load_catalogue(data)
    judged = load_judgments(judgments).by_query() if judgments else None
    recipe = TowerRecipe()
    key = sha256(catalogue.write_ndjson().encode() + repr((judged, recipe)).encode()).hexdigest()
    folder = environment.folder / "runs" / f"search-{key[:12]}"
    if not folder.exists():
        save_search(folder, train_search(catalogue, recipe, judged=judged, progress=progress))
    texts = dict(zip(catalogue["item"].to_list(), catalogue["text"].to_list(), strict=True))
    return load_search(folder), texts
