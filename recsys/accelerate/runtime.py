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
from recsys.accelerate.quantise import quantise_linears
from recsys.accelerate.session import History, OnnxEncoder, padded, providers
from recsys.artifact import load_model
from recsys.errors import RecsysError
from recsys.index import EXACT_BELOW, ApproximateIndex, Index, build_index
from recsys.model import SequentialRecommender

SETTINGS = "acceleration.json"
FIRST_EVENTS = 2000


class Runtime(nn.Module):
    """Encodes histories and finds items; in place of a model, `recsys.evaluate` measures it.

    Parameters
    ----------
    encode
        Gives float[B, d] of B histories.
    index
        The items to find.
    seen_bias
        Added to the scores of items that a history holds.
    length
        How many of the latest events `encode` looks at.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[History]], Tensor],
        index: Index,
        seen_bias: float,
        length: int,
    ) -> None:
        super().__init__()
        self.encode = encode
        self.index = index
        self.seen_bias = seen_bias
        self.length = length

    def recommend(self, histories: Sequence[History], k: int) -> tuple[Tensor, Tensor]:
        """Scores float[B, k] and items int64[B, k], the best first; seen items are not left out."""
        with torch.inference_mode():
            return self.rank(self.encode(histories), histories, k)

    @torch.inference_mode()
    def rank(
        self,
        states: Tensor,
        histories: Sequence[History],
        k: int,
        *,
        allowed: np.ndarray | None = None,
        seen: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The same of states float[B, d] and the B histories that they are of.

        Parameters
        ----------
        allowed
            bool[items] that may be found; places that they do not fill have the score -inf.
        seen
            Whether items of the history may be found again.
        """
        distinct = [np.unique(np.asarray(history, dtype=np.int64)) for history in histories]
        had, counts = padded(distinct)
        filled = torch.arange(had.shape[1]) < counts[:, None]
        # Seen items are ranked apart, since the index knows nothing of what is added to them.
        values, found = self.index.search(states, k + had.shape[1], allowed)
        row = torch.arange(len(states))[:, None] << 32
        again = np.isin((found + row).numpy(), (had + row)[filled].numpy())
        values = values.masked_fill(torch.from_numpy(again), -torch.inf)
        if seen:
            of_seen = torch.bmm(self.index.rows(had), states[:, :, None])[:, :, 0] + self.seen_bias
            kept = filled if allowed is None else filled & torch.from_numpy(allowed)[had]
            values = torch.cat([values, of_seen.masked_fill(~kept, -torch.inf)], 1)
            found = torch.cat([found, had], 1)
        best = values.topk(min(k, values.shape[1]))
        return best.values, found.gather(1, best.indices)

    def scores(self, states: Tensor, histories: Sequence[History] | None = None) -> Tensor:
        """float[B, items] as the model's; -inf where the index does not reach."""
        scores = self.index.scores(states)
        for row, history in enumerate(histories or ()):
            scores[row, np.unique(np.asarray(history, dtype=np.int64))] += self.seen_bias
        return scores


def open_runtime(folder: Path, *, keep_index: bool = False) -> tuple[Runtime, list[str]]:
    """Load an artefact, accelerated or not, the way it is fastest on this machine.

    The encoder of a model that was not accelerated is exported here; where that fails, torch
    serves and the log says why.

    Parameters
    ----------
    keep_index
        Write an approximate index, which takes a minute or more to make, into the folder, and take
        it from there if it is there.

    Returns
    -------
    tuple[Runtime, list[str]]
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
    table = model.output_table.detach()
    if len(table) < EXACT_BELOW:
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
        encode = model.encode
    else:
        encode = _exported(model, index)
    return Runtime(encode, index, bias, model.length), loaded.items


def _approximate(model: SequentialRecommender, table: Tensor) -> Index:
    return build_index(table, states=_states(model))


def _kept_index(folder: Path, model: SequentialRecommender, table: Tensor) -> Index:
    try:
        return ApproximateIndex.load(folder, table)
    except (OSError, RuntimeError, SafetensorError, KeyError):  # none is there, or half of one
        index = _approximate(model, table)
    try:
        index.save(folder)
    except (OSError, RuntimeError) as error:
        logging.warning("The index is not kept for the next start: %s", error)
    return index


def _exported(
    model: SequentialRecommender, index: Index
) -> Callable[[Sequence[History]], Tensor]:
    try:
        encode = OnnxEncoder(encoder_graph(model), index.rows, model.items, model.length)
        check_encoder(model, encode)
    except Exception as error:  # whatever the exporter or the runtime cannot do, torch can
        logging.warning("The model is served by torch, not by ONNX Runtime: %s", error)
        return model.encode
    return encode


@torch.inference_mode()
def _states(model: SequentialRecommender) -> Tensor:
    """States of users with one event, of any item: what an artefact can tell of its users."""
    firsts = torch.linspace(0, model.items - 1, min(model.items, FIRST_EVENTS)).long()
    return model.encode([[first] for first in firsts.tolist()])


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
