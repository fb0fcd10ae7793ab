from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.artifact import save_model
from recsys.data.interactions import Interactions, write_interactions
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe

ITEMS = [f"item-{number}" for number in range(40)]
RECIPE = Recipe(
    dimension=16, blocks=1, heads=1, length=12, dropout=0.1, batch_tokens=256, learning_rate=0.02
)


@dataclass(frozen=True)
class Shop:
    """An untrained model, and the data of two sites of unequal size."""

    initial: Path
    data: dict[str, Path]


def walks(users: int, seed: int) -> Interactions:
    """Users who mostly go from an item to the next one: easy to learn, at first unknown."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(6, 13, users)
    steps = [np.where(generator.random(n) < 0.9, 1, generator.integers(0, 40, n)) for n in lengths]
    sequences = [np.cumsum(walk) % len(ITEMS) for walk in steps]
    return Interactions(
        users=[f"user-{seed}-{number}" for number in range(users)],
        items=ITEMS,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        sequence=np.concatenate(sequences).astype(np.int32),
    )


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models of this size only get slower with more, and the sites of these tests use one too."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    data = {"north": folder / "north", "south": folder / "south"}
    write_interactions(walks(60, seed=1), data["north"])
    write_interactions(walks(25, seed=2), data["south"])
    torch.manual_seed(0)
    model = SequentialRecommender(len(ITEMS), RECIPE)
    return Shop(save_model(folder / "initial", model, RECIPE, ITEMS, {}), data)
