"""A trained model as a folder: what the model store keeps and serving loads.

``weights.safetensors`` · ``recipe.json`` · ``items.json`` (ids by index) · ``metrics.json`` ·
``attributes.parquet`` (see `recsys.attributes`; where the data tell any) · ``profile.json`` (see
`recsys.profile`; of a trained model and of what is made from one)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.accelerate.prune import fit_shapes
from recsys.accelerate.quantise import decompressed
from recsys.attributes import read_attributes, write_attributes
from recsys.bags import Bags
from recsys.errors import RecsysError
from recsys.files import write_atomically
from recsys.model import SequentialRecommender
from recsys.profile import Profile, read_profile, write_profile
from recsys.recipe import Recipe


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and what it was made with."""

    model: SequentialRecommender
    recipe: Recipe
    items: list[str]
    metrics: dict[str, Any]
    attributes: pl.DataFrame | None = None
    profile: Profile | None = None


def save_model(
    folder: Path,
    model: SequentialRecommender,
    recipe: Recipe,
    items: list[str],
    metrics: dict[str, Any],
    attributes: pl.DataFrame | None = None,
    profile: Profile | None = None,
) -> Path:
    """Write the artefact; equal content gives equal bytes, and so an equal hash in the store."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.cpu().contiguous() for name, weight in model.state_dict().items()}
    write_atomically(folder / "weights.safetensors", lambda path: save_file(weights, path))
    contents = {"recipe": recipe.to_dict(), "items": items, "metrics": metrics}
    for name, content in contents.items():
        text = json.dumps(content, indent=None if name == "items" else 2) + "\n"
        write_atomically(folder / f"{name}.json", lambda path, text=text: path.write_text(text))
    if attributes is not None:
        write_attributes(folder, items, attributes)
    if profile is not None:
        write_profile(folder, profile)
    return folder


def load_model(folder: Path | str) -> LoadedModel:
    """Read an artefact; only tensors and JSON are read, nothing is executed.

    A pruned model keeps its smaller layers; int8 weights become floats, fit for more training.

    Raises
    ------
    RecsysError
        When a file is missing or damaged, or the weights do not fit the recipe and items.
    """
    folder = Path(folder)
    recipe = Recipe.from_dict(_read_json(folder / "recipe.json", dict))
    items = _read_json(folder / "items.json", list)
    metrics = _read_json(folder / "metrics.json", dict)
    try:
        weights = decompressed(load_file(folder / "weights.safetensors"))
        model = model_of(weights, len(items), recipe)
    except FileNotFoundError:
        raise RecsysError(f"{folder} is not a model: weights.safetensors is missing") from None
    except (SafetensorError, OSError) as error:
        raise RecsysError(
            f"{folder / 'weights.safetensors'} is damaged ({error}); get the model again"
        ) from error
    except (RuntimeError, RecsysError) as error:
        raise RecsysError(
            f"{folder / 'weights.safetensors'} does not fit recipe.json and the {len(items)} ids "
            "in items.json; get the model again"
        ) from error
    attributes, profile = read_attributes(folder, items), read_profile(folder, len(items))
    return LoadedModel(model.eval(), recipe, items, metrics, attributes, profile)


def model_of(weights: dict[str, Tensor], items: int, recipe: Recipe) -> SequentialRecommender:
    """The model that has these weights; its items' texts and neighbours are among them.

    Raises
    ------
    RecsysError, RuntimeError
        When the weights do not fit the number of items or the recipe.
    """
    texts, neighbours = (_bags_in(weights, tower) for tower in ("text_tower", "neighbour_tower"))
    model = SequentialRecommender(items, recipe, texts, neighbours)
    fit_shapes(model, weights, recipe)
    model.load_state_dict(weights)
    return model


def _bags_in(weights: dict[str, Tensor], tower: str) -> Bags | None:
    parts = [f"{tower}.{part}" for part in ("features", "offsets", "embedding.weight")]
    if not weights.keys() >= set(parts):
        return None
    features, offsets, embedding = (weights[part] for part in parts)
    return Bags(features.numpy(), offsets.numpy(), len(embedding))


def _read_json(file: Path, kind: type) -> Any:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecsysError(f"{file.parent} is not a model: {file.name} is missing") from None
    except (ValueError, OSError) as error:
        raise RecsysError(f"{file} is damaged ({error}); get the model again") from error
    if not isinstance(content, kind):
        raise RecsysError(f"{file} is damaged (not a JSON {kind.__name__}); get the model again")
    return content
