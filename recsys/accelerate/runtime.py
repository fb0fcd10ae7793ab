"""A stored model as it is served: its fastest encoder and its index of items."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from recsys.accelerate.export import ENCODER, INT8_ENCODER, check_encoder, encoder_graph
from recsys.accelerate.one_step import OneStep
from recsys.accelerate.quantise import quantise_linears
from recsys.accelerate.session import OnnxEncoder, providers
from recsys.artifact import load_model
from recsys.errors import RecsysError
from recsys.exact import ExactIndex, Index
from recsys.index import EXACT_BELOW, ApproximateIndex, build_index
from recsys.model import SequentialRecommender
from recsys.ranking import History, Ranker

SETTINGS = "acceleration.json"
FIRST_EVENTS = 2000

Encoder = Callable[[Sequence[History]], np.ndarray]


class Runtime(nn.Module):
    """A `Ranker` in place of a model, so that `recsys.evaluate` measures what is served."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def scorer(self) -> Callable[[Sequence[History]], Tensor]:
        """As that of a model."""
        return lambda histories: self.scores(self.encode(histories), histories)

    def encode(self, histories: Sequence[History]) -> Tensor:
        """float[B, d]"""
        return torch.from_numpy(self.ranker.encode(histories))

    def scores(self, states: Tensor, histories: Sequence[History] | None = None) -> Tensor:
        """float[B, items] as the model's; -inf where the index does not reach."""
        scores = torch.from_numpy(self.ranker.index.scores(states.numpy()))
        for row, history in enumerate(histories or ()):
            scores[row, np.unique(np.asarray(history, dtype=np.int64))] += self.ranker.seen_bias
        return scores


def open_runtime(
    folder: Path, *, keep_index: bool = False, exact: bool = False
) -> tuple[Ranker, list[str]]:
    """Load an artefact, accelerated or not, the way it is fastest on this machine.

    The encoder of a model that was not accelerated is exported here; where that fails, torch
    serves and the log says why.

    Parameters
    ----------
    keep_index
        Write an approximate index, which takes a minute or more to make, into the folder, and take
        it from there if it is there.
    exact
        Search the whole product however many items there are.

    Returns
    -------
    tuple[Ranker, list[str]]
        With it the ids of the items, by index.

    Raises
    ------
    RecsysError
        When a file is missing or damaged.
    """
    loaded = load_model(folder)
    settings = _settings(folder / SETTINGS)
    model, int8 = loaded.model.folded(), settings.get("quantise") == "int8"
    bias = model.seen_bias.item()
    table = model.output_table.detach().numpy()
    if exact:
        index = ExactIndex(table)
    elif len(table) < EXACT_BELOW:
        index = build_index(table, quantised=int8)
    else:
        index = _kept_index(folder, model, table) if keep_index else _approximate(model, table)
    if settings.get("onnx"):
        # GPUs have no kernels for the int8 encoder.
        on_cpu = providers() == ["CPUExecutionProvider"]
        file = folder / (INT8_ENCODER if int8 and on_cpu else ENCODER)
        encode = OnnxEncoder(file, index.rows, len(table), model.length)
    elif int8:
        quantise_linears(model.blocks)
        encode = torch_encoder(model)
    else:
        encode = _exported(model, index)
    one_step = one_step_of(model, encode, index)
    return Ranker(encode, index, bias, model.length, one_step), loaded.items


def one_step_of(model: SequentialRecommender, encode: Encoder, index: Index) -> OneStep | None:
    """All of a lone request in one graph, where ONNX Runtime encodes and all items are scored.

    A vector that is no numbers would go unnoticed in the graph, so that then there is none.
    """
    if not isinstance(encode, OnnxEncoder) or not isinstance(index, ExactIndex):
        return None
    if not np.isfinite(index.table).all():
        return None
    try:
        return OneStep(model, index.table)
    except Exception as error:  # as in `_exported`
        logging.warning("Lone requests are answered step by step: %s", error)
        return None


def torch_encoder(model: SequentialRecommender) -> Encoder:
    """The model's own encoder, for a `Ranker`."""

    def encode(histories: Sequence[History]) -> np.ndarray:
        with torch.inference_mode():
            return model.encode(histories).numpy()

    return encode


def _approximate(model: SequentialRecommender, table: np.ndarray) -> Index:
    return build_index(table, states=_states(model))


def _kept_index(folder: Path, model: SequentialRecommender, table: np.ndarray) -> Index:
    try:
        return ApproximateIndex.load(folder, table)
    except (OSError, RuntimeError, SafetensorError, KeyError):
        pass  # none is there, or half of one
    except RecsysError as error:
        logging.warning("%s", error)
    index = _approximate(model, table)
    try:
        index.save(folder)
    except (OSError, RuntimeError) as error:
        logging.warning("The index is not kept for the next start: %s", error)
    return index


def _exported(model: SequentialRecommender, index: Index) -> Encoder:
    try:
        encode = OnnxEncoder(encoder_graph(model), index.rows, model.items, model.length)
        check_encoder(model, encode)
    except Exception as error:  # whatever the exporter or the runtime cannot do, torch can
        logging.warning("The model is served by torch, not by ONNX Runtime: %s", error)
        return torch_encoder(model)
    return encode


def _states(model: SequentialRecommender) -> np.ndarray:
    """States of users with one event, of any item: what an artefact can tell of its users."""
    firsts = torch.linspace(0, model.items - 1, min(model.items, FIRST_EVENTS)).long()
    return torch_encoder(model)([[first] for first in firsts.tolist()])


def _settings(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise RecsysError(f"{file} is damaged ({error}); get the model again") from error
    if not isinstance(settings, dict):
        raise RecsysError(f"{file} is damaged (not a JSON dict); get the model again")
    return settings
