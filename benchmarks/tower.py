"""What a private site's vectors tell of its users, and what hiding it costs.

    python -m benchmarks.tower [--data PATH] [--users 1000]

A model is trained on the generated shop or on PATH. Whoever has the model, as the cloud does, tries
to read a user's last item off the vector that the site sends: it encodes histories of its own, fits
a linear map from their vectors to the last item's, and takes the nearest items. Beside that stands
how much of the answer of one place is left: the site ranks the cloud's candidates by the vector as
it was. Epsilon is that of one request under local differential privacy, at delta 1e-6.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from federation.privacy.accounting import Release, epsilon
from handlers.tower import CANDIDATES, CloudIndex, Policy
from recsys.accelerate.runtime import open_runtime
from recsys.data.interactions import load_interactions
from recsys.data.synthetic import write_shop
from recsys.ranking import Ranker
from recsys.recipe import Recipe
from recsys.training import train

NOISE = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 8.0)
DELTA = 1e-6
ATTACKS = 20_000


def guesses(ranker: Ranker, items: int, vectors: np.ndarray, told_of: CloudIndex) -> np.ndarray:
    """int64[users, 10] items that vectors seem to end with, the likeliest first.

    The attacker's own vectors are cut and made noisy as the site's are.
    """
    random = np.random.default_rng(1)
    own = [random.integers(0, items, random.integers(1, ranker.length + 1)) for _ in range(ATTACKS)]
    told = np.array([told_of.told(state) for state in ranker.encode(own)])
    table = ranker.index.rows(np.arange(items))
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    last = table[[history[-1] for history in own]]
    ridge = np.eye(told.shape[1]) * len(told) * 1e-3
    to_item = np.linalg.solve(told.T @ told + ridge, told.T @ last)
    return np.argsort(-(vectors @ to_item @ table.T), axis=1)[:, :10]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--users", type=int, default=1000)
    arguments = parser.parse_args()
    console = Console(file=sys.stdout, width=100)
    with tempfile.TemporaryDirectory() as scratch:
        data = arguments.data
        if data is None:
            data = Path(scratch) / "shop"
            write_shop(data)
        interactions = load_interactions(data)
        train(interactions, Recipe(pretrain_epochs=0, epochs=6), Path(scratch) / "run")
        ranker, names = open_runtime(Path(scratch) / "run" / "artifact", exact=True)
    places = {name: place for place, name in enumerate(names)}
    users = min(arguments.users, len(interactions.users))
    histories = [interactions.of(user) for user in range(users)]
    states = ranker.encode(histories)
    clip = float(np.median(np.linalg.norm(states, axis=1)))
    wanted = ranker.rank(states, histories, 10, seen=False)[1]
    title = f"{users:,} users, {len(names):,} items, {CANDIDATES} candidates, clip {clip:.2f}"
    table = Table("noise", "epsilon", "last item: 1st guess", "in 10", "answer kept", title=title)
    for noise in NOISE:
        policy = Policy("vector", "http://127.0.0.1", clip, noise)
        told_of = CloudIndex(ranker.index, places, "", policy)
        told = np.array([told_of.told(state) for state in states])
        guessed = guesses(ranker, len(names), told, told_of)
        right = guessed == np.array([history[-1] for history in histories])[:, None]
        found = ranker.index.search(told.astype(np.float32), CANDIDATES)[1]
        kept = np.mean([np.isin(row, few).mean() for row, few in zip(wanted, found, strict=True)])
        # Two vectors are at most twice the bound apart.
        lost = epsilon([Release(1.0, noise / 2, 1)], DELTA) if noise else float("inf")
        table.add_row(
            f"{noise:g}", f"{lost:.1f}", f"{right[:, 0].mean():.1%}",
            f"{right.any(1).mean():.1%}", f"{kept:.1%}",
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
