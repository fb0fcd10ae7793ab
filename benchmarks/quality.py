"""Quality of the default recipe on two public data sets: three seeds, mean and spread.

    python -m benchmarks.quality [--beauty FOLDER] [--games FOLDER] [--seeds 3] [--epochs N]

Leave-one-out, every item ranked, with and without the items of the user's history. The recipe is
the default one for both data sets; what it stops at is decided by the validation event, and the
test event is looked at once, at the end. Published figures stand beside for comparison: on Beauty
SASRec with sampled softmax (eSASRec, 2025; history left out), on Video Games LRURec (2024; history
kept in).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recsys.data.interactions import load_interactions
from recsys.recipe import Recipe
from recsys.training import train

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"
FIGURES = ("NDCG@10", "NDCG@10 unmasked", "HR@10", "HR@10 unmasked")
PUBLISHED = {"beauty": {"NDCG@10": 0.0531}, "games": {"NDCG@10 unmasked": 0.0620}}


def measure(data: Path, seeds: int, changes: dict[str, int]) -> list[dict[str, float]]:
    """Train once a seed; test figures of each run, with its epochs and minutes."""
    interactions = load_interactions(data)
    runs = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            result = train(interactions, Recipe(seed=seed, **changes), folder)
        runs.append(
            result.metrics | {"epochs": result.epochs, "minutes": result.seconds / 60}
        )
    return runs


def show(console: Console, name: str, runs: list[dict[str, float]]) -> None:
    """A row a seed, then mean and spread, and what others published."""
    table = Table(title=f"{name}: test, {runs[0]['users']} users")
    table.add_column("seed")
    for heading in (*FIGURES, "epochs", "minutes"):
        table.add_column(heading, justify="right")
    for seed, run in enumerate(runs):
        figures = [f"{run[figure]:.4f}" for figure in FIGURES]
        table.add_row(str(seed), *figures, str(run["epochs"]), f"{run['minutes']:.1f}")
    columns = [[run[figure] for run in runs] for figure in FIGURES]
    minutes = statistics.mean(run["minutes"] for run in runs)
    means = [f"{statistics.mean(column):.4f}" for column in columns]
    table.add_row("mean", *means, "", f"{minutes:.1f}", style="bold")
    table.add_row("spread", *(f"{max(column) - min(column):.4f}" for column in columns), "", "")
    table.add_row("popularity", f"{runs[0]['popularity NDCG@10']:.4f}")
    if published := PUBLISHED.get(name):
        shown = (f"{published[figure]:.4f}" if figure in published else "" for figure in FIGURES)
        table.add_row("published", *shown)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--beauty", type=Path, default=SHARED / "amazon_beauty_5core")
    parser.add_argument("--games", type=Path, default=SHARED / "amazon_video_games")
    parser.add_argument("--only", choices=("beauty", "games"), help="one of the data sets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="fewer epochs than the default, for a trial")
    options = parser.parse_args()
    changes = {} if options.epochs is None else {"epochs": options.epochs}
    console = Console()
    for name in ("beauty", "games") if options.only is None else (options.only,):
        data = getattr(options, name)
        if not data.exists():
            sys.exit(f"no data at {data}: give a folder with --{name}")
        show(console, name, measure(data, options.seeds, changes))


if __name__ == "__main__":
    main()
