"""A model that is served without torch: its encoder as ONNX, all else as plain data.

``encoder.onnx`` · ``table.npy`` (float32[items, d]) · ``items.json`` (ids by index) ·
``model.json`` (seen_bias, length) · ``attributes.json`` (columns by name; where there are any)

A folder here is anything with the methods of a path, such as a place within a zip file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recsys.accelerate.session import OnnxEncoder
from recsys.errors import RecsysError
from recsys.exact import ExactIndex
from recsys.filters import Attributes
from recsys.ranking import Ranker

ENCODER, TABLE, ITEMS = "encoder.onnx", "table.npy", "items.json"
MODEL, ATTRIBUTES = "model.json", "attributes.json"


def is_portable(folder: Path) -> bool:
    """Whether a folder holds such a model."""
    return (folder / TABLE).is_file()


def open_portable(folder: Path) -> tuple[Ranker, list[str], Attributes | None]:
    """The model, the ids of its items, and what is known of them.

    Raises
    ------
    RecsysError
        When a file is missing or damaged, or they do not belong together.
    """
    try:
        with (folder / TABLE).open("rb") as file:
            # From bytes, since a file within an archive has no descriptor.
            table = np.load(io.BytesIO(file.read()), allow_pickle=False)
        items = json.loads((folder / ITEMS).read_text(encoding="utf-8"))
        settings = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        bias, length = float(settings["seen_bias"]), int(settings["length"])
        attributes = None
        if (folder / ATTRIBUTES).is_file():
            attributes = json.loads((folder / ATTRIBUTES).read_text(encoding="utf-8"))
        graph = (folder / ENCODER).read_bytes()
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise RecsysError(f"{folder} holds no portable model ({error}); make it again") from error
    if len(items) != len(table) or any(len(c) != len(items) for c in (attributes or {}).values()):
        raise RecsysError(f"{folder} names {len(items)} items and has vectors of {len(table)}")
    index = ExactIndex(table)
    encode = OnnxEncoder(graph, index.rows, len(table), length)
    return Ranker(encode, index, bias, length), items, attributes


def write_portable(
    folder: Path, ranker: Ranker, items: Sequence[str], attributes: Attributes | None
) -> None:
    """Write a model; equal content gives equal bytes.

    Raises
    ------
    RecsysError
        When its encoder is none of ONNX Runtime.
    """
    if not isinstance(ranker.encode, OnnxEncoder):
        raise RecsysError(
            "the model's encoder runs in torch only: make one that ONNX Runtime runs with "
            "hybrid accelerate MODEL --onnx"
        )
    graph = ranker.encode.graph
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENCODER).write_bytes(graph if isinstance(graph, bytes) else graph.read_bytes())
    with (folder / TABLE).open("wb") as file:
        table = ranker.index.rows(np.arange(len(items)))
        np.save(file, np.ascontiguousarray(table, dtype=np.float32), allow_pickle=False)
    contents = {ITEMS: list(items), MODEL: {"seen_bias": ranker.seen_bias, "length": ranker.length}}
    if attributes is not None:
        contents[ATTRIBUTES] = attributes
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content) + "\n", encoding="utf-8")
