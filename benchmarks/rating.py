"""Quality of the rating and the click model, each beside the simpler model that it must beat.

    python -m benchmarks.rating [--ratings FOLDER] [--clicks FOLDER] [--seeds 3]

Ratings: without --ratings, those of the generated shop, whose stars depend on the item and on
chance alone, so that the biases are the best there is. Means over seeds of split and weights.
Clicks: each log is split by time; the constant rate is that of the training part.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from recsys.click import ClickRecipe, train_click
from recsys.data.impressions import load_impressions
from recsys.data.ratings import load_ratings
from recsys.data.synthetic import write_shop
from recsys.rating import RatingRecipe, train_rating

OPEN_BANDIT = Path(__file__).resolve().parents[1] / "../shared/data/open_bandit"
USER_FEATURES = tuple(f"user_feature_{number}" for number in range(4))


def rate(folder: Path, seeds: int) -> Table:
    """Test RMSE of embeddings, biases and the mean."""
    ratings = load_ratings(folder)
    runs = [train_rating(ratings, RatingRecipe(seed=seed))[1] for seed in range(seeds)]
    table = Table("", "RMSE", title=f"{len(ratings)} ratings, {seeds} seeds")
    for label, name in (("embeddings", ""), ("biases", "bias "), ("mean", "mean ")):
        table.add_row(label, f"{np.mean([run[f'{name}RMSE'] for run in runs]):.4f}")
    return table


def click(folder: Path) -> Table:
    """Test log loss and calibration of each log."""
    columns = ("log", "clicks", "model", "log loss", "constant", "calibration error")
    table = Table(*columns, title="clicks, the newest 15 % of each log")
    for file in sorted(folder.glob("*.csv.gz")):
        impressions = load_impressions(file)
        for name, dimension in (("logistic regression", 0), ("factorisation machine", 4)):
            recipe = ClickRecipe(features=USER_FEATURES, dimension=dimension)
            _, figures = train_click(impressions, recipe)
            table.add_row(
                file.name.removesuffix(".csv.gz"),
                f"{figures['click rate'] * figures['impressions']:.0f}",
                name,
                f"{figures['log loss']:.5f}",
                f"{figures['constant log loss']:.5f}",
                f"{figures['calibration error']:.4f}",
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ratings", type=Path)
    parser.add_argument("--clicks", type=Path, default=OPEN_BANDIT)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        if options.ratings is None:
            write_shop(Path(scratch))
        console.print(rate(options.ratings or Path(scratch), options.seeds))
    if options.clicks.exists():
        console.print(click(options.clicks))
    else:
        console.print(f"no click logs at {options.clicks}: give a folder with --clicks")


if __name__ == "__main__":
    main()
