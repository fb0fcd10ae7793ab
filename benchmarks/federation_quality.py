"""Central, federated and local-only training on the same split: what keeping data at home costs.

    python -m benchmarks.federation_quality [--data FOLDER] [--sites 5] [--rounds 40]
        [--local-epochs 1] [--epochs 20] [--dimension 64] [--final-rate 0.05]
        [--server-momentum 0.7] [--fresh-moments] [--epsilon 8] [--private-rounds 10]
        [--private-epochs 2] [--arms central federated private local] [--seed 0]

The users are dealt to the sites by a hash of their names. Central trains on all of them, with the
default recipe; federated starts from an untrained model and sends it round by round through the
server's and the sites' own code, in this process, an item's row averaged over the sites whose users
had it, all moved on with momentum; private does the same by plain averaging with user-level
differential privacy, delta 1e-6; local trains one model a site, central's way, on that site's users
alone.
NDCG@10 of the test event over all users, every item ranked, the history left out; local as the mean
over users, each with their site's model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.quality import SHARED
from cli.federation import site_of
from federation.in_process import run_in_process
from recsys.artifact import save_model
from recsys.data.interactions import Interactions, load_interactions, write_interactions
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from recsys.text import has_texts, read_catalogue
from recsys.training import train

FIGURE = "NDCG@10"
ARMS = ("central", "federated", "private", "local")


@dataclass(frozen=True)
class Result:
    """How good an arm is, and for how long it trained."""

    ndcg: float
    seconds: float


def deal(interactions: Interactions, count: int) -> dict[str, Interactions]:
    """The users of each site, over the same catalogue."""
    homes = np.array([site_of(user, count) for user in interactions.users])
    return {
        f"site-{number}": interactions.select(np.flatnonzero(homes == number))
        for number in range(count)
    }


def central(interactions: Interactions, recipe: Recipe, folder: Path) -> Result:
    """Train on everybody's events in one place."""
    began = time.monotonic()
    metrics = train(interactions, recipe, folder).metrics
    return Result(metrics[FIGURE], time.monotonic() - began)


def federated(
    sites: dict[str, Interactions], recipe: Recipe, folder: Path, how: dict[str, object]
) -> Result:
    """Train an untrained model over rounds; what the sites know of the texts is public."""
    began = time.monotonic()
    for site, interactions in sites.items():
        write_interactions(interactions, folder / site)
    some = next(iter(sites.values()))
    texts = read_catalogue(some.item_text, recipe.text_buckets) if has_texts(some, recipe) else None
    torch.manual_seed(recipe.seed)
    model = SequentialRecommender(len(some.items), recipe, texts)
    initial = save_model(folder / "initial", model, recipe, some.items, {})
    data = {site: folder / site for site in sites}
    metrics = run_in_process(initial, folder / "run", data, **how).metrics
    return Result(metrics[FIGURE], time.monotonic() - began)


def local_only(sites: dict[str, Interactions], recipe: Recipe, folder: Path) -> Result:
    """Train a model a site, on its own users alone."""
    began = time.monotonic()
    gains, users = 0.0, 0
    for site, interactions in sites.items():
        metrics = train(interactions, recipe, folder / site).metrics
        gains += metrics[FIGURE] * metrics["users"]
        users += metrics["users"]
    return Result(gains / users, time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=SHARED / "amazon_beauty_5core")
    parser.add_argument("--sites", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--local-epochs", type=int, default=1)
    parser.add_argument("--final-rate", type=float, default=0.05)
    parser.add_argument("--server-momentum", type=float, default=0.7)
    parser.add_argument("--fresh-moments", action="store_true", help="as of `hybrid federate`")
    parser.add_argument("--epsilon", type=float, default=8.0, help="of the private arm")
    parser.add_argument("--private-rounds", type=int, default=10)
    parser.add_argument("--private-epochs", type=int, default=2, help="local ones")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs, help="of central and local")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--seed", type=int, default=0, help="of weights and training, in all arms")
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"no data at {options.data}: give a folder with --data")
    interactions = load_interactions(options.data)
    recipe = Recipe(dimension=options.dimension, epochs=options.epochs, seed=options.seed)
    sites = deal(interactions, options.sites)
    how = {
        "rounds": options.rounds,
        "seed": options.seed,
        "local_epochs": options.local_epochs,
        "final_rate": options.final_rate,
        "strategy": "fedavgm",
        "server_momentum": options.server_momentum,
        "keep_moments": not options.fresh_moments,
        # Nothing is rounded; with rows on their way each is averaged over those that sent it.
        "compression": "rows",
        "by_row": True,
    }
    private = {
        "rounds": options.private_rounds,
        "seed": options.seed,
        "local_epochs": options.private_epochs,
        "dp_epsilon": options.epsilon,
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        arms = {
            "central": lambda: central(interactions, recipe, folder / "central"),
            "federated": lambda: federated(sites, recipe, folder / "federated", how),
            "private": lambda: federated(sites, recipe, folder / "private", private),
            "local": lambda: local_only(sites, recipe, folder / "local"),
        }
        results = {name: arms[name]() for name in ARMS if name in options.arms}
    table = Table(title=f"{options.data.name}: {len(interactions.users)} users, {len(sites)} sites")
    for heading in ("arm", FIGURE, "against central", "minutes"):
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    best = results["central"].ndcg if "central" in results else 0.0
    for name, result in results.items():
        against = f"{result.ndcg / best - 1:+.1%}" if best else ""
        table.add_row(name, f"{result.ndcg:.4f}", against, f"{result.seconds / 60:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
