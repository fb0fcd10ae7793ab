"""One training run in several processes: what `torchrun` starts.

    torchrun --nproc-per-node 2 -m recsys.job --data FOLDER --recipe FILE --folder FOLDER

`--recipe` is a JSON file with the fields that differ from the defaults. Process 0 prints a line of
JSON for each step forward, ``{"progress": [done, total, text]}``, and at the end
``{"metrics": {…}, "epochs": n, "seconds": s}`` or ``{"error": text}``. The artefact is in
``FOLDER/artifact``, as after `recsys.training.train` in one process; ``FOLDER/data.json`` tells the
fingerprint and the size of the data.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recsys.data.interactions import load_interactions
from recsys.distributed import Workers, joined
from recsys.errors import RecipeError, RecsysError
from recsys.files import write_atomically
from recsys.recipe import Recipe
from recsys.training import train


def main() -> None:
    """Train as the command line says; a known failure is one line and an exit code."""
    parser = argparse.ArgumentParser(prog="recsys.job", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="where the interactions are")
    parser.add_argument("--recipe", type=Path, required=True, help="JSON file")
    parser.add_argument("--folder", type=Path, required=True, help="checkpoints and artefact")
    parser.add_argument("--shard-items", action="store_true",
                        help="spread the item table over the processes")  # fmt: skip
    parser.add_argument("--wandb", metavar="PROJECT", help="report to Weights & Biases as well")
    arguments = parser.parse_args()
    try:
        with joined() as workers:
            _train(arguments, workers)
    except RecsysError as error:
        _tell({"error": str(error)})
        sys.exit(error.exit_code)


def _train(arguments: argparse.Namespace, workers: Workers) -> None:
    recipe = _read_recipe(arguments.recipe)
    interactions = load_interactions(arguments.data)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with _claimed(arguments.folder) if workers.writes else nullcontext():
        if workers.writes:
            # For the lineage of the model.
            summary = json.dumps(interactions.summary())
            write_atomically(arguments.folder / "data.json", lambda path: path.write_text(summary))
        result = train(
            interactions,
            recipe,
            arguments.folder,
            progress=lambda *step: _tell({"progress": step}),
            shard_items=arguments.shard_items,
            wandb_project=arguments.wandb,
        )
    if workers.writes:
        _tell({"metrics": result.metrics, "epochs": result.epochs, "seconds": result.seconds})


def _claimed(folder: Path) -> AbstractContextManager:
    # A job can outlive whoever started it; a second one must not write between its lines.
    try:
        return FileLock(folder / "job.lock").acquire(timeout=0)
    except Timeout:
        raise RecsysError(f"another job trains in {folder}: let it finish, or end it") from None


def _read_recipe(file: Path) -> Recipe:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"recipe {file} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {file} must hold one JSON object, with the recipe's fields")
    return Recipe.from_dict(values)


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
