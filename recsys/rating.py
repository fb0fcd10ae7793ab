"""Rating prediction: user and item embeddings with biases (Koren, Bell and Volinsky, 2009).

``mean + user bias + item bias + user · item``, trained by mean squared error on stars, or, through
a sigmoid, by binary cross-entropy on likes. The biases alone are the baseline to be beaten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.errors import RecipeError, RecsysError
from recsys.randomness import Stage, seeded
from recsys.stored import read_stored, write_stored

if TYPE_CHECKING:
    # With it would come all that training needs, and serving does not.
    from recsys.loop import Progress

# Share of the rows held out for validation, and the same share again for the test.
HELD_OUT = 0.1
# Squares of larger ratings leave float32 no digits for what tells one from another.
LARGEST = 1e6


@dataclass(frozen=True)
class RatingRecipe:
    """Shape and training of a rating model.

    Attributes
    ----------
    loss
        ``mse`` for stars, ``bce`` for 0 and 1.
    dimension
        Width of the embeddings; 0 leaves the biases only.
    epochs, patience
        Training stops after `epochs`, or when the validation loss has not fallen for `patience`.
    batch, learning_rate
        Ratings in a step of Adam, and its rate.
    regularisation
        Weight of the mean square of the embeddings and biases that a batch touches.
    seed
        Decides split, weights and order.

    Raises
    ------
    RecipeError
        When a value is out of range.
    """

    loss: Literal["mse", "bce"] = "mse"
    dimension: int = 16
    epochs: int = 60
    patience: int = 5
    batch: int = 512
    learning_rate: float = 0.01
    regularisation: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        self._require("loss", self.loss in ("mse", "bce"), "'mse' or 'bce'")
        for name in ("epochs", "patience", "batch"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("dimension", "regularisation", "seed"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("learning_rate", self.learning_rate > 0, "above 0")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise RecipeError(f"rating recipe: {name} is {value!r}; it must be {wanted}")


class RatingModel(nn.Module):
    """Rates items for users; index 0 of either is anybody, or anything, unknown.

    The unknown row stays zero, so that an unknown user is rated for by the item's bias alone.
    """

    def __init__(
        self, users: Sequence[str], items: Sequence[str], recipe: RatingRecipe, mean: float = 0.0
    ) -> None:
        super().__init__()
        self.users, self.items, self.recipe = list(users), list(items), recipe
        self.user_index = {user: row for row, user in enumerate(users, start=1)}
        self.item_index = {item: row for row, item in enumerate(items, start=1)}
        self.register_buffer("mean", torch.tensor(float(mean)))
        for name, count in (("user", len(users) + 1), ("item", len(items) + 1)):
            bias = nn.Embedding(count, 1, padding_idx=0)
            vector = nn.Embedding(count, recipe.dimension, padding_idx=0)
            nn.init.zeros_(bias.weight)
            nn.init.normal_(vector.weight, std=0.01)
            with torch.no_grad():
                vector.weight[0] = 0
            self.add_module(f"{name}_bias", bias)
            self.add_module(f"{name}_vector", vector)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """float[B]: stars (mse) or log-odds (bce) of pairs of rows int64[B]."""
        biases = self.user_bias(users) + self.item_bias(items)
        return self.mean + biases[:, 0] + (self.user_vector(users) * self.item_vector(items)).sum(1)

    def penalty(self, users: Tensor, items: Tensor) -> Tensor:
        """Mean over the batch of the squares of the weights it touches."""
        touched = (self.user_bias(users), self.item_bias(items),
                   self.user_vector(users), self.item_vector(items))  # fmt: skip
        return sum(part.square().sum() for part in touched) / len(users)

    def rows(self, users: Sequence[str], items: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Rows of ids, 0 for one that training did not have."""
        return (
            torch.tensor([self.user_index.get(user, 0) for user in users]),
            torch.tensor([self.item_index.get(item, 0) for item in items]),
        )

    @torch.inference_mode()
    def predict(self, users: Sequence[str], items: Sequence[str]) -> np.ndarray:
        """float32[pairs]: stars, or for ``bce`` the probability of a like."""
        output = self(*self.rows(users, items))
        return (output.sigmoid() if self.recipe.loss == "bce" else output).numpy()


def split_ratings(ratings: pl.DataFrame, seed: int) -> tuple[pl.DataFrame, ...]:
    """Training, validation and test rows, at random by `seed`."""
    order = np.random.default_rng(seed).permutation(len(ratings))
    held = int(len(ratings) * HELD_OUT)
    parts = order[2 * held :], order[held : 2 * held], order[:held]
    return tuple(ratings[np.sort(part)] for part in parts)


def train_rating(
    ratings: pl.DataFrame, recipe: RatingRecipe, *, progress: Progress | None = None
) -> tuple[RatingModel, dict[str, float]]:
    """Train on a random part of the ratings, choose the epoch by another, test on a third.

    Parameters
    ----------
    ratings
        Columns user, item and rating, as `recsys.data.ratings.load_ratings` gives them.

    Returns
    -------
    tuple
        The model, and on the test ratings ``RMSE`` or ``log loss``, the same of the biases alone
        (``bias …``) and of the constant (``mean …``), and the number of test ``ratings``.

    Raises
    ------
    RecsysError
        When there are fewer than 20 ratings, one is beyond `LARGEST`, or for ``bce`` one is neither
        0 nor 1.
    """
    if len(ratings) < 20:
        raise RecsysError(f"{len(ratings)} ratings are too few to train and test on; give 20")
    wrong = ratings.filter(pl.col("rating").abs() > LARGEST)
    if len(wrong):
        raise RecsysError(
            f"rating {wrong['rating'][0]:g} of item {wrong['item'][0]!r} by {wrong['user'][0]!r} is "
            f"beyond {LARGEST:,.0f}, which is no rating: mend or remove it"
        )
    if recipe.loss == "bce":
        wrong = ratings.filter(~pl.col("rating").is_in([0.0, 1.0]))
        if len(wrong):
            raise RecsysError(
                f"rating {wrong['rating'][0]} of item {wrong['item'][0]!r} by {wrong['user'][0]!r} "
                "is neither 0 nor 1, as loss 'bce' needs; take 'mse' for stars"
            )
    parts = split_ratings(ratings, recipe.seed)
    name = "RMSE" if recipe.loss == "mse" else "log loss"
    biases = _fit(parts, dataclasses.replace(recipe, dimension=0), None, progress)
    model = _fit(parts, recipe, biases, progress)
    constant = RatingModel([], [], recipe, float(model.mean))
    figures = {
        f"{label}{name}": _figure(candidate, parts[2])
        for label, candidate in (("", model), ("bias ", biases), ("mean ", constant))
    }
    return model, figures | {"ratings": len(parts[2])}


def _fit(
    parts: tuple[pl.DataFrame, ...],
    recipe: RatingRecipe,
    biases: RatingModel | None,
    progress: Progress | None,
) -> RatingModel:
    """Train to the best validation loss, from the biases of another model if one is given.

    Where tastes have nothing that the biases do not say, no epoch is better than the start, and the
    embeddings stay next to zero instead of fitting noise.
    """
    train, validation, _ = parts
    mean = float(train["rating"].mean())
    if recipe.loss == "bce":
        mean = float(np.log((mean + 1e-6) / (1 - mean + 1e-6)))
    with seeded(recipe.seed, Stage.WEIGHTS):
        model = RatingModel(
            train["user"].unique(maintain_order=True).to_list(),
            train["item"].unique(maintain_order=True).to_list(), recipe, mean,
        )  # fmt: skip
    if biases is not None:
        model.user_bias.load_state_dict(biases.user_bias.state_dict())
        model.item_bias.load_state_dict(biases.item_bias.state_dict())
    users, items = model.rows(train["user"].to_list(), train["item"].to_list())
    targets = torch.tensor(train["rating"].to_numpy(), dtype=torch.float32)
    loss_of = F.mse_loss if recipe.loss == "mse" else F.binary_cross_entropy_with_logits
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)

    def kept() -> dict[str, Tensor]:
        return {name: weight.clone() for name, weight in model.state_dict().items()}

    best, best_epoch, weights = _figure(model, validation), 0, kept()
    for epoch in range(1, recipe.epochs + 1):
        with seeded(recipe.seed, Stage.FINETUNE, epoch) as generator:
            order = torch.from_numpy(generator.permutation(len(targets)))
        for rows in order.split(recipe.batch):
            batch = users[rows], items[rows]
            loss = loss_of(model(*batch), targets[rows])
            loss = loss + recipe.regularisation * model.penalty(*batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        figure = _figure(model, validation)
        if figure < best:
            best, best_epoch, weights = figure, epoch, kept()
        if progress:
            progress(epoch, recipe.epochs, f"rating: validation {figure:.4f} (best {best:.4f})")
        if epoch - best_epoch >= recipe.patience:
            break
    model.load_state_dict(weights)
    return model.eval()


def _figure(model: RatingModel, ratings: pl.DataFrame) -> float:
    """RMSE, or for ``bce`` the mean log loss in nats."""
    predicted = model.predict(ratings["user"].to_list(), ratings["item"].to_list()).astype(float)
    truth = ratings["rating"].to_numpy()
    if model.recipe.loss == "mse":
        return float(np.sqrt(np.mean((predicted - truth) ** 2)))
    predicted = np.clip(predicted, 1e-7, 1 - 1e-7)
    return float(-np.mean(truth * np.log(predicted) + (1 - truth) * np.log1p(-predicted)))


def save_rating(folder: Path, model: RatingModel, metrics: Mapping[str, Any]) -> Path:
    """Write the artefact; see `recsys.stored`."""
    content = {
        "recipe": dataclasses.asdict(model.recipe),
        "users": model.users,
        "items": model.items,
        "metrics": dict(metrics),
    }
    return write_stored(folder, "rating", content, model.state_dict())


def load_rating(folder: Path | str) -> RatingModel:
    """Read what `save_rating` wrote.

    Raises
    ------
    RecsysError
        When a file is missing or damaged, or the two do not belong together.
    """
    with read_stored(Path(folder), "rating") as (content, weights):
        recipe = RatingRecipe(**content["recipe"])
        model = RatingModel(content["users"], content["items"], recipe)
        model.load_state_dict(weights)
    return model.eval()
