"""What neighbours, item texts and each pretraining objective bring, for warm and cold items.

    python -m benchmarks.ablation [--data FOLDER] [--epochs N] [--pretrain-epochs 3] [--seeds 1]

Each row is the default recipe with one thing changed. An item is cold when training holds at most
three events of it. NDCG@10 over the users whose held-out item is of that kind, every item ranked,
history left out, for the validation and for the test event; defaults are chosen by validation.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from recsys.artifact import load_model
from recsys.data.interactions import Interactions, load_interactions
from recsys.data.split import Split, leave_one_out
from recsys.evaluate import evaluate
from recsys.recipe import PRETRAINING, Recipe
from recsys.training import train

BEAUTY = Path(__file__).resolve().parents[1] / "../shared/data/amazon_beauty_5core"
COLD = 3
PARTS = ("validation", "test")


def variants(epochs: int | None, pretrain_epochs: int) -> dict[str, Recipe]:
    """The recipes to compare, by what they add."""
    plain = Recipe(pretrain_epochs=0)
    if epochs is not None:
        plain = replace(plain, epochs=epochs)
    alone = {name: 0.0 for name in PRETRAINING}
    without = replace(plain, text_buckets=0)
    return {
        "items alone": replace(without, neighbours=False, horizon=1),
        "neighbours, three events ahead": without,
        "texts": plain,
        **{
            f"texts, {name.replace('_', ' ')}": replace(
                plain, pretrain_epochs=pretrain_epochs, **alone | {name: 1.0}
            )
            for name in PRETRAINING
        },
    }


def of_kind(split: Split, cold: np.ndarray, wanted: bool) -> Split:
    """The split with only those held-out events whose item is cold, or only the others."""
    kept = [
        np.where((targets >= 0) & (cold[targets] == wanted), targets, -1).astype(np.int32)
        for targets in (split.validation_target, split.test_target)
    ]
    return replace(split, validation_target=kept[0], test_target=kept[1])


def measure(interactions: Interactions, recipe: Recipe) -> dict[str, float]:
    """NDCG@10 of one trained model by part and kind of item."""
    split = leave_one_out(interactions)
    cold = np.bincount(split.train.sequence, minlength=len(interactions.items)) <= COLD
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(train(interactions, recipe, folder).artifact).model.folded()
    kinds = {"all": split, "warm": of_kind(split, cold, False), "cold": of_kind(split, cold, True)}
    return {
        f"{part} {kind}": evaluate(model, interactions, chosen, part=part)["NDCG@10"]
        for part in PARTS
        for kind, chosen in kinds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=BEAUTY)
    parser.add_argument("--epochs", type=int, help="fewer epochs than the default, for a trial")
    parser.add_argument("--pretrain-epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"no data at {options.data}: give a folder with --data")
    interactions = load_interactions(options.data)
    table = Table(title=f"{options.data.name}: NDCG@10, mean of {options.seeds} seeds")
    table.add_column("recipe")
    for part in PARTS:
        for kind in ("all", "warm", "cold"):
            table.add_column(f"{part} {kind}", justify="right")
    for name, recipe in variants(options.epochs, options.pretrain_epochs).items():
        runs = [measure(interactions, replace(recipe, seed=seed)) for seed in range(options.seeds)]
        means = (statistics.mean(run[figure] for run in runs) for figure in runs[0])
        figures = [f"{mean:.4f}" for mean in means]
        print(name, *figures, file=sys.stderr, flush=True)  # hours may pass before the table
        table.add_row(name, *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
