"""Click prediction: a factorisation machine over what was shown, where, and to whom.

``w0 + Σ w_i + Σ_{i<j} v_i · v_j`` over one-hot features (Rendle, 2010, §III-A); dimension 0 leaves a
logistic regression. The position is a feature without interactions (the position bias of
examination: Richardson et al., 2007): at serving time it is held at one value, so that an item is
not rated well for having been shown at the top.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

# Shares of the log, oldest first: training, validation (when to stop), test.
TRAIN, VALIDATION = 0.7, 0.15
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class ClickRecipe:
    """Features, shape and training of a click model.

    Attributes
    ----------
    features
        Columns of the log beside item and position; a value is a category.
    dimension
        Width of the interaction vectors; 0 for a logistic regression.
    epochs, patience
        Training stops after `epochs`, or when the validation loss has not fallen for `patience`.
    batch, learning_rate
        Impressions in a step of Adam, and its rate.
    regularisation
        Weight of the mean square of the weights that a batch touches: clicks are rare, and few
        clicks must not make an item.
    seed
        Decides weights and order.

    Raises
    ------
    RecipeError
        When a value is out of range.
    """

    features: tuple[str, ...] = ()
    dimension: int = 4
    epochs: int = 50
    patience: int = 5
    batch: int = 512
    learning_rate: float = 0.01
    regularisation: float = 0.003
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("dimension", "regularisation", "seed"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("learning_rate", self.learning_rate > 0, "above 0")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise RecipeError(f"click recipe: {name} is {value!r}; it must be {wanted}")


class ClickModel(nn.Module):
    """Gives the probability of a click.

    Parameters
    ----------
    vocabularies
        For item, position and each feature of the recipe, the values that training had. Row 0 of
        each stands for any other value and stays zero.
    base_rate
        Share of the training impressions that were clicked.
    """

    def __init__(
        self,
        vocabularies: Mapping[str, Sequence[str]],
        recipe: ClickRecipe,
        base_rate: float = 0.5,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.vocabularies = {name: list(values) for name, values in vocabularies.items()}
        self.places = {
            name: {value: row for row, value in enumerate(values, start=1)}
            for name, values in self.vocabularies.items()
        }
        self.intercept = nn.Parameter(torch.logit(torch.tensor(float(base_rate)), eps=1e-6))
        sizes = {name: len(values) + 1 for name, values in self.vocabularies.items()}
        self.linear = nn.ModuleList(nn.Embedding(n, 1, padding_idx=0) for n in sizes.values())
        self.vectors = nn.ModuleList(
            nn.Embedding(n, recipe.dimension, padding_idx=0)
            for name, n in sizes.items() if name != "position"
        )  # fmt: skip
        for table in self.linear:
            nn.init.zeros_(table.weight)
        for table in self.vectors:
            nn.init.normal_(table.weight, std=0.01)
            with torch.no_grad():
                table.weight[0] = 0

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds float[B] of rows int64[B, features], and their penalty, a scalar."""
        weights = torch.cat([t(rows[:, f]) for f, t in enumerate(self.linear)], dim=1)
        interacting = [f for f, name in enumerate(self.vocabularies) if name != "position"]
        vectors = torch.stack(
            [t(rows[:, f]) for f, t in zip(interacting, self.vectors, strict=True)], dim=1
        )
        pairs = vectors.sum(1).square().sum(1) - vectors.square().sum((1, 2))
        penalty = (weights.square().sum() + vectors.square().sum()) / len(rows)
        return self.intercept + weights.sum(1) + pairs / 2, penalty

    def rows(self, impressions: pl.DataFrame) -> Tensor:
        """int64[impressions, features] of a log.

        Raises
        ------
        RecsysError
            When a feature's column is missing.
        """
        columns = []
        for name, places in self.places.items():
            _require_column(impressions, name)
            values = impressions[name].cast(pl.String).to_list()
            columns.append([places.get(value, 0) for value in values])
        return torch.tensor(columns, dtype=torch.int64).T

    @torch.inference_mode()
    def predict(self, impressions: pl.DataFrame) -> np.ndarray:
        """float64[impressions] probability of a click."""
        return self(self.rows(impressions))[0].double().sigmoid().numpy()


def split_log(impressions: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Training, validation and test, by time: what a deployed model meets is always later."""
    ordered = impressions.sort("time", maintain_order=True)
    first, second = int(TRAIN * len(ordered)), int((TRAIN + VALIDATION) * len(ordered))
    return ordered[:first], ordered[first:second], ordered[second:]


def train_click(
    impressions: pl.DataFrame, recipe: ClickRecipe, *, progress: Progress | None = None
) -> tuple[ClickModel, dict[str, float]]:
    """Train on the older part of a log and test on the newest.

    Parameters
    ----------
    impressions
        What `recsys.data.impressions.load_impressions` gives.

    Returns
    -------
    tuple
        The model and the figures of `click_metrics` on the test part.

    Raises
    ------
    RecsysError
        When the log has fewer than 100 impressions, its training part no click or only clicks, or
        a feature is missing.
    """
    if len(impressions) < 100:
        raise RecsysError(f"{len(impressions)} impressions are too few to learn from; give 100")
    train, validation, test = split_log(impressions)
    base_rate = float(train["click"].mean())
    if not 0 < base_rate < 1:
        raise RecsysError(
            f"of the {len(train)} training impressions {int(train['click'].sum())} were clicked: "
            "there is nothing to tell apart"
        )
    names = dict.fromkeys(("item", "position", *recipe.features))
    for name in names:
        _require_column(train, name)
    vocabularies = {name: train[name].cast(pl.String).unique().sort().to_list() for name in names}
    with seeded(recipe.seed, Stage.WEIGHTS):
        model = ClickModel(vocabularies, recipe, base_rate)
    rows, clicks = model.rows(train), torch.tensor(train["click"].to_numpy(), dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)

    def state() -> tuple[float, dict[str, Tensor]]:
        weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        return log_loss(validation["click"].to_numpy(), model.predict(validation)), weights

    (best, weights), best_epoch = state(), 0
    for epoch in range(1, recipe.epochs + 1):
        with seeded(recipe.seed, Stage.FINETUNE, epoch) as generator:
            order = torch.from_numpy(generator.permutation(len(clicks)))
        for batch in order.split(recipe.batch):
            logits, penalty = model(rows[batch])
            loss = F.binary_cross_entropy_with_logits(logits, clicks[batch])
            optimizer.zero_grad(set_to_none=True)
            (loss + recipe.regularisation * penalty).backward()
            optimizer.step()
        figure, current = state()
        if figure < best:
            best, weights, best_epoch = figure, current, epoch
        if progress:
            progress(epoch, recipe.epochs, f"click: validation log loss {figure:.5f}")
        if epoch - best_epoch >= recipe.patience:
            break
    model.load_state_dict(weights)
    model.eval()
    return model, click_metrics(test["click"].to_numpy(), model.predict(test), base_rate)


def click_metrics(clicks: np.ndarray, predicted: np.ndarray, base_rate: float) -> dict[str, float]:
    """Figures of predicted click probabilities.

    Returns
    -------
    dict
        ``log loss`` in nats and ``constant log loss`` (of `base_rate`); ``calibration error``, the
        mean gap between predicted and seen rate over tenths of the impressions by prediction
        (expected calibration error), and ``predicted rate``, ``click rate`` and ``impressions``.
    """
    order = np.argsort(predicted, kind="stable")
    bins = [part for part in np.array_split(order, CALIBRATION_BINS) if len(part)]
    gaps = [len(part) * abs(predicted[part].mean() - clicks[part].mean()) for part in bins]
    return {
        "log loss": log_loss(clicks, predicted),
        "constant log loss": log_loss(clicks, np.full(len(clicks), base_rate)),
        "calibration error": float(sum(gaps) / len(clicks)),
        "predicted rate": float(predicted.mean()),
        "click rate": float(clicks.mean()),
        "impressions": len(clicks),
    }


def log_loss(clicks: np.ndarray, predicted: np.ndarray) -> float:
    """Mean negative log-likelihood in nats."""
    chance = np.clip(predicted, 1e-12, 1 - 1e-12)
    return float(-np.mean(np.where(clicks > 0, np.log(chance), np.log1p(-chance))))


def save_click(folder: Path, model: ClickModel, metrics: Mapping[str, Any]) -> Path:
    """Write the artefact; see `recsys.stored`."""
    content = {
        "recipe": dataclasses.asdict(model.recipe),
        "vocabularies": model.vocabularies,
        "metrics": dict(metrics),
    }
    return write_stored(folder, "click", content, model.state_dict())


def load_click(folder: Path | str) -> ClickModel:
    """Read what `save_click` wrote.

    Raises
    ------
    RecsysError
        When a file is missing or damaged, or the two do not belong together.
    """
    with read_stored(Path(folder), "click") as (content, weights):
        recipe = content["recipe"] | {"features": tuple(content["recipe"]["features"])}
        model = ClickModel(content["vocabularies"], ClickRecipe(**recipe))
        model.load_state_dict(weights)
    return model.eval()


def _require_column(impressions: pl.DataFrame, name: str) -> None:
    if name not in impressions.columns:
        raise RecsysError(
            f"the log has no column {name!r}; its columns are {', '.join(impressions.columns)}"
        )
