"""Artefacts of the models beside the recommender: ``weights.safetensors`` and one JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.errors import RecsysError
from recsys.files import write_atomically

WEIGHTS = "weights.safetensors"


def write_stored(
    folder: Path, name: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Path:
    """Write ``<name>.json`` and the weights; equal content gives equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content) + "\n"
    whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
    write_atomically(folder / WEIGHTS, lambda path: save_file(whole, path))
    write_atomically(
        folder / f"{name}.json", lambda path: path.write_text(text, encoding="utf-8")
    )
    return folder


@contextmanager
def read_stored(folder: Path, name: str) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Give the two files' contents to a block that makes the model of them; nothing is executed.

    Raises
    ------
    RecsysError
        When a file is missing or damaged, or, in the block, the two do not belong together.
    """
    files = folder / f"{name}.json", folder / WEIGHTS
    for file in files:
        if not file.exists():
            raise RecsysError(f"{folder} is not a {name} model: {file.name} is missing")
    try:
        yield json.loads(files[0].read_text(encoding="utf-8")), load_file(files[1])
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise RecsysError(
            f"the {name} model in {folder} is damaged ({error}); train it again"
        ) from error
