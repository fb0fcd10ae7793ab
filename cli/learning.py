"""Training on one machine; what comes out goes to the model store."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.application import PROJECT, Progress
from cli.environment import Environment
from cli.errors import CommandError
from cli.steps import recorded
from cli.stores import objects_at
from model_store import residency
from model_store.card import write_card
from model_store.store import Store

if TYPE_CHECKING:
    from recsys.artifact import LoadedModel
    from recsys.data.interactions import Interactions
    from recsys.recipe import Recipe

SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Trained:
    """A model in the store: its digest and test metrics; if federated, also its rounds and how it
    compares with the one in production."""

    digest: str
    metrics: dict[str, float]
    seconds: float
    rounds: list[dict[str, Any]]
    gate: str | None = None


def environment_store(environment: Environment) -> Store:
    """The environment's model store."""
    address = environment.model_store_address
    return Store(objects_at(environment, address), environment.signing_keys())


def load_data(environment: Environment, address: str) -> Interactions:
    """Interactions at a path, s3:// or gs://; `synthetic` is the environment's generated shop."""
    from recsys.data.interactions import load_interactions

    return load_interactions(generated_shop(environment) if address == SYNTHETIC else address)


def generated_shop(environment: Environment) -> Path:
    """Folder of the environment's generated shop, made at the first call."""
    from recsys.data.synthetic import write_shop

    shop = environment.folder / "data" / SYNTHETIC
    if not shop.exists():
        write_shop(shop)
    return shop


@recorded("train")
def train(
    environment: Environment,
    data: str,
    changes: dict[str, Any],
    progress: Progress,
    *,
    workers: int = 1,
    shard_items: bool = False,
    wandb_project: str | None = None,
) -> Trained:
    """Pretrain, fine-tune and store a model; `candidate` then points to it.

    Parameters
    ----------
    data
        `synthetic`, a path, or an s3:// or gs:// address.
    changes
        Fields of the recipe that differ from its defaults.
    workers
        Processes that train together, each on its share of every batch.
    shard_items
        Spread the item table over them.
    wandb_project
        Report to Weights & Biases too.
    """
    # Torch's threads would otherwise spin while they wait for each other, and training beside the
    # environment's own servers would take ten times as long. It counts before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from recsys.recipe import Recipe

    recipe = Recipe.from_dict(asdict(Recipe()) | changes)
    address = data if data == SYNTHETIC or "://" in data else str(Path(data).absolute())
    interactions = load_data(environment, address)
    source = {"address": address} | interactions.summary()
    run = sha256(repr((source["fingerprint"], asdict(recipe))).encode()).hexdigest()[:12]
    sharded = "-sharded" if shard_items else ""  # checkpoints of another kind
    folder = environment.folder / "runs" / f"train-{run}{sharded}"
    start = time.monotonic()
    if workers == 1 and not shard_items:
        from recsys.training import train as train_recommender

        metrics = train_recommender(
            interactions, recipe, folder, progress=progress, wandb_project=wandb_project
        ).metrics
    else:
        from cli.workers import train_together
        from recsys.data.interactions import write_interactions

        data_copy = folder / "data"
        residency.carry(address, data_copy)
        write_interactions(interactions, data_copy)
        metrics = train_together(
            data_copy,
            asdict(recipe),
            folder,
            progress,
            workers=workers,
            shard_items=shard_items,
            wandb_project=wandb_project,
        )
    lineage = {
        "made_by": "train",
        "data": source,
        "recipe": asdict(recipe),
        "stages": stages_of(recipe),
        "workers": workers,
        "metrics": metrics,
        "code": code_version(),
    }
    digest = store_candidate(environment, folder / "artifact", lineage)
    return Trained(digest, metrics, time.monotonic() - start, [])


def stages_of(recipe: Recipe) -> list[dict[str, Any]]:
    """The steps of a training, for its lineage; epochs are what the recipe allows at most."""
    pretraining = [{"stage": "pretrain", "epochs": recipe.pretrain_epochs}]
    return [
        *(pretraining if recipe.pretrain_epochs else []),
        {"stage": "fine-tune", "epochs": recipe.epochs},
    ]


def load_stored(store: Store, digest: str) -> LoadedModel:
    """A stored model, fetched and checked, in evaluation mode."""
    from recsys.artifact import load_model

    with tempfile.TemporaryDirectory(prefix="hybrid-model-") as scratch:
        return load_model(store.get(digest, Path(scratch) / "model"))


def code_version() -> str:
    """Version of the toolkit, with the commit where it runs from a checkout: ``0.1.0+g1a2b3c4``."""
    released = version("hybrid-recsys")
    command = ["git", "describe", "--always", "--dirty=.changed", "--exclude=*", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return released
    return f"{released}+g{done.stdout.strip()}"


def read_recipe(file: Path) -> dict[str, Any]:
    """Fields of a recipe from a YAML or JSON file; what they may be, the recipe itself checks.

    Raises
    ------
    CommandError
        The file is not readable or holds no mapping: exit code 2.
    """
    import yaml

    try:
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CommandError(f"Recipe {file} cannot be read: {error}.", exit_code=2) from None
    if not isinstance(fields, dict):
        raise CommandError(
            f"Recipe {file} must hold fields and values, such as `dimension: 64`.", exit_code=2
        )
    return fields


def lineage_of(store: Store, reference: str, key: str) -> Any:
    """One entry of a model's lineage.

    Raises
    ------
    CommandError
        The model was stored without it.
    """
    lineage = store.manifest(reference).lineage
    if key not in lineage:
        raise CommandError(
            f"Model {short_digest(store.resolve(reference))} has no {key!r} in its lineage: "
            "store it with hybrid train or hybrid federate."
        )
    return lineage[key]


def store_model(environment: Environment, artifact: Path, lineage: dict[str, Any]) -> str:
    """Store a model with its card; its digest."""
    return _put(environment_store(environment), artifact, lineage)


def store_candidate(environment: Environment, artifact: Path, lineage: dict[str, Any]) -> str:
    """Store a model with its card and let `candidate` point to it; its digest."""
    store = environment_store(environment)
    digest = _put(store, artifact, lineage)
    store.move_channel("candidate", digest)
    return digest


def _put(store: Store, artifact: Path, lineage: dict[str, Any]) -> str:
    write_card(artifact, lineage)
    return store.put(artifact, lineage=lineage)


def short_digest(digest: str) -> str:
    """The first digits, which name a model among those of one store."""
    return digest.removeprefix("sha256:")[:12]
