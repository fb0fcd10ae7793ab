"""A stored model as it is served: its fastest encoder and its index of items."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from recsys.accelerate.export import ENCODER, INT8_ENCODER
from recsys.accelerate.quantise import quantise_linears
from recsys.artifact import load_model
from recsys.errors import RecsysError
from recsys.index import EXACT_BELOW, Index, build_index
from recsys.model import SequentialRecommender

SETTINGS = "acceleration.json"
GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
LARGEST_BATCH = 256
FIRST_EVENTS = 2000

History = Sequence[int] | np.ndarray


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
    """

    def __init__(
        self, encode: Callable[[Sequence[History]], Tensor], index: Index, seen_bias: float
    ) -> None:
        super().__init__()
        self.encode = encode
        self.index = index
        self.seen_bias = seen_bias

    @torch.inference_mode()
    def recommend(self, histories: Sequence[History], k: int) -> tuple[Tensor, Tensor]:
        """Scores float[B, k] and items int64[B, k], the best first; seen items are not left out."""
        states = self.encode(histories)
        seen = [np.unique(np.asarray(history, dtype=np.int64)) for history in histories]
        had, counts = padded(seen)
        filled = torch.arange(had.shape[1]) < counts[:, None]
        # Seen items are ranked apart, since the index knows nothing of what is added to them.
        values, found = self.index.search(states, k + had.shape[1])
        again = ((found[:, :, None] == had[:, None, :]) & filled[:, None, :]).any(2)
        of_seen = torch.bmm(self.index.rows(had), states[:, :, None])[:, :, 0] + self.seen_bias
        every = [values.masked_fill(again, -torch.inf), of_seen.masked_fill(~filled, -torch.inf)]
        joined = torch.cat(every, 1)
        best = joined.topk(min(k, joined.shape[1]))
        return best.values, torch.cat([found, had], 1).gather(1, best.indices)

    def scores(self, states: Tensor, histories: Sequence[History] | None = None) -> Tensor:
        """float[B, items] as the model's; -inf where the index does not reach."""
        scores = self.index.scores(states)
        for row, history in enumerate(histories or ()):
            scores[row, np.unique(np.asarray(history, dtype=np.int64))] += self.seen_bias
        return scores


def open_runtime(folder: Path) -> tuple[Runtime, list[str]]:
    """Load an artefact, accelerated or not, the way it is fastest on this machine.

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
    states = _states(model) if len(table) >= EXACT_BELOW else None
    index = build_index(table, quantised=int8, states=states)
    if settings.get("onnx"):
        encode = OnnxEncoder(folder, index.rows, len(table), model.length, int8=int8)
        return Runtime(encode, index, bias), loaded.items
    if int8:
        quantise_linears(model.blocks)
    return Runtime(model.encode, index, bias), loaded.items


class OnnxEncoder:
    """Encodes histories in an ONNX Runtime session.

    Parameters
    ----------
    folder
        Where `recsys.accelerate.export.export_encoder` wrote to.
    rows
        Gives float[..., d] embeddings of int64[...] items.
    items, length
        Of the model.
    int8
        Take the int8 encoder, where the session runs on a CPU: GPUs have no kernels for it.
    """

    def __init__(
        self,
        folder: Path,
        rows: Callable[[Tensor], Tensor],
        items: int,
        length: int,
        *,
        int8: bool,
    ) -> None:
        self.rows, self.items, self.length = rows, items, length
        providers = choose_providers(onnxruntime.get_available_providers())
        on_cpu = providers == ["CPUExecutionProvider"]
        options = onnxruntime.SessionOptions()
        # The products of one request are too small to be shared out, and threads that wait for
        # work by spinning take the cores from everybody else.
        options.intra_op_num_threads = 1
        file = folder / (INT8_ENCODER if int8 and on_cpu else ENCODER)
        try:
            self.session = onnxruntime.InferenceSession(file, options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions have no common class of their own
            raise RecsysError(f"{file} is damaged ({error}); get the model again") from error

    def __call__(self, histories: Sequence[History]) -> Tensor:
        """States float[B, d]; errors are those of `SequentialRecommender.encode`."""
        parts = [self._encode(histories[start : start + LARGEST_BATCH])
                 for start in range(0, len(histories), LARGEST_BATCH)]  # fmt: skip
        return torch.cat(parts)

    def _encode(self, histories: Sequence[History]) -> Tensor:
        items, lengths = padded(self._checked(histories))
        given = {"events": self.rows(items).numpy(), "lengths": lengths.numpy()}
        return torch.from_numpy(self.session.run(["states"], given)[0])

    def _checked(self, histories: Sequence[History]) -> list[np.ndarray]:
        latest = [np.asarray(history, dtype=np.int64)[-self.length :] for history in histories]
        for number, history in enumerate(latest):
            if not len(history):
                raise RecsysError(f"history {number} is empty: there is no event to encode")
            unknown = history[(history < 0) | (history >= self.items)]
            if len(unknown):
                raise RecsysError(
                    f"a history names item {int(unknown[0])}, "
                    f"the model knows the items 0 to {self.items - 1}"
                )
        return latest


def choose_providers(available: Sequence[str]) -> list[str]:
    """ONNX Runtime's execution providers by preference: TensorRT, CUDA, CPU.

    A session gives each part of the graph to the first one that can run it, so the CPU is always
    the last.
    """
    return [name for name in GPU_PROVIDERS if name in available] + ["CPUExecutionProvider"]


def padded(histories: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """int64[B, longest] item indices, 0 where a history has ended, and int64[B] lengths."""
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    places = np.zeros((len(histories), lengths.max()), dtype=np.int64)
    places[np.arange(places.shape[1]) < lengths[:, None]] = np.concatenate(histories)
    return torch.from_numpy(places), torch.from_numpy(lengths)


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
