"""The sequence encoder, and all of a lone request, as ONNX graphs, checked against torch.

The graph is written node by node from the weights: that takes milliseconds, where tracing the model
takes many seconds, so that every model can be served by ONNX Runtime, and it can leave out what no
trace leaves out. Only the state after the last event is asked for, so the last block computes
queries and feed-forward for that event alone. A history that is not one of several needs neither an
axis for the others nor a mask of what stands behind its end.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from recsys.accelerate.session import OnnxEncoder
from recsys.errors import RecsysError
from recsys.files import write_atomically
from recsys.model import Block, SequentialRecommender

ENCODER, INT8_ENCODER = "encoder.onnx", "encoder.int8.onnx"
# The first with GELU as one operator, and its file format.
OPSET, IR_VERSION = 20, 10
# States are of unit size after the last norm; float32 kernels differ in the order of their sums.
TOLERANCE = 1e-4
# Added to the scores of events that must not be seen.
UNSEEN = np.float32(-1e30)


def export_encoder(model: SequentialRecommender, folder: Path, *, int8: bool) -> None:
    """Write ``encoder.onnx`` and, on demand, ``encoder.int8.onnx`` with dynamic int8 products.

    Both are graphs as `encoder_graph` gives them.

    Parameters
    ----------
    model
        Without towers (`SequentialRecommender.folded`).

    Raises
    ------
    RecsysError
        When ONNX Runtime's states are not torch's.
    """
    graph = encoder_graph(model)
    write_atomically(folder / ENCODER, lambda target: target.write_bytes(graph))
    rows = model.output_table.detach().numpy().__getitem__
    check_encoder(model, OnnxEncoder(folder / ENCODER, rows, model.items, model.length))
    if int8:
        write_atomically(
            folder / INT8_ENCODER, lambda target: _quantise(folder / ENCODER, target)
        )


def encoder_graph(model: SequentialRecommender) -> bytes:
    """An ONNX model that gives ``states`` of ``events`` and ``lengths``.

    ``events`` are float[batch, length, d] embeddings, ``lengths`` int64[batch] from 1 to length,
    ``states`` float[batch, d] after the last event, for any batch and any length up to the model's.
    What stands behind a sequence's end does not count. The item table stays out of the graph, whose
    size does not grow with the catalogue.
    """
    return _Graph(model, axes=1).encoder()


def lone_graph(model: SequentialRecommender, table: np.ndarray) -> bytes:
    """An ONNX model from one history to its best items, by the float32[items, d] `table` of a model.

    ``items`` are int64[length], 1 to the model's. ``values`` float[1, k] and ``found`` int64[1, k]
    are the ``k`` best, after float[1, 1] ``added`` was added to the scores of the items int64[1, n]
    ``had``, none of them twice; ``states`` float[1, d] is what was scored.
    """
    return _Graph(model, axes=0).lone(table)


@torch.inference_mode()
def check_encoder(
    model: SequentialRecommender, encode: Callable[[Sequence[np.ndarray]], np.ndarray]
) -> None:
    """Compare an encoder with the model's own on random histories of all kinds of lengths.

    Raises
    ------
    RecsysError
        When a state is off by more than `TOLERANCE`, or is no number.
    """
    random = np.random.default_rng(0)
    for batch in (1, 3, 32):
        for longest in sorted({1, 2, model.length // 2 or 1, model.length}):
            lengths = random.integers(1, longest + 1, batch)
            histories = [random.integers(0, model.items, length) for length in lengths]
            off = np.abs(encode(histories) - model.encode(histories).numpy()).max()
            # Written this way round, a NaN is caught as well.
            if not off <= TOLERANCE:
                raise RecsysError(
                    f"the exported encoder is off by {off:.2g} from torch at batch {batch} and "
                    f"length {longest}, more than {TOLERANCE}: do without --onnx"
                )


class _Graph:
    """The graph as far as it is written: its nodes and constants, each with a name of its own.

    Events are float[length, d], or with one of `axes` before these float[batch, length, d].
    """

    def __init__(self, model: SequentialRecommender, axes: int) -> None:
        self.model, self.axes = model, axes
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def encoder(self) -> bytes:
        """See `encoder_graph`."""
        model, d = self.model, self.model.item_embedding.embedding_dim
        # One more axis than the batch, so that the last events are still sequences, of length 1.
        last = self.op("Sub", self.op("Unsqueeze", "lengths", self.ints(1, 2)), self.ints(1))
        length = self.op("Shape", "events", start=1, end=2)
        x = self.seen_by_all("events", length)
        places = self.slice(self.constant(np.arange(model.length)), length, axis=0)
        # [batch, heads, queries, keys]
        ended = self.op("Greater", places, self.op("Unsqueeze", last, self.ints(3)))
        mask = self.op("Where", ended, self.constant(UNSEEN), self.constant(np.float32(0)))
        mask = self.op("Reshape", mask, self.ints(0, 1, 1, -1))
        # A model without blocks has only this to do.
        x_last = self.op("GatherND", x, last, batch_dims=1)
        for block in model.blocks[-1:]:
            x_last = self.block(block, x_last, x, mask)
        states = self.op("Squeeze", self.norm(model.norm, x_last), self.ints(1))
        self.nodes.append(helper.make_node("Identity", [states], ["states"]))
        value = helper.make_tensor_value_info
        return self.written(
            "encoder",
            [
                value("events", TensorProto.FLOAT, ["batch", "length", d]),
                value("lengths", TensorProto.INT64, ["batch"]),
            ],
            [value("states", TensorProto.FLOAT, ["batch", d])],
        )

    def lone(self, table: np.ndarray) -> bytes:
        """See `lone_graph`."""
        vectors = self.constant(table)
        x = self.seen_by_all(self.op("Gather", vectors, "items"), self.op("Shape", "items"))
        end = self.ints(np.iinfo(np.int64).max)
        x_last = self.op("Slice", x, self.ints(-1), end, self.ints(0))
        for block in self.model.blocks[-1:]:
            x_last = self.block(block, x_last, x, None)
        states = self.norm(self.model.norm, x_last)
        scores = self.op("Gemm", states, vectors, transB=1)
        added = self.op("Expand", "added", self.op("Shape", "had"))
        ranked = self.op("ScatterElements", scores, "had", added, axis=1, reduction="add")
        self.nodes.append(helper.make_node("TopK", [ranked, "k"], ["values", "found"]))
        self.nodes.append(helper.make_node("Identity", [states], ["states"]))
        value = helper.make_tensor_value_info
        return self.written(
            "recommend",
            [
                value("items", TensorProto.INT64, ["length"]),
                value("had", TensorProto.INT64, [1, "had"]),
                value("added", TensorProto.FLOAT, [1, 1]),
                value("k", TensorProto.INT64, [1]),
            ],
            [
                value("values", TensorProto.FLOAT, [1, "k"]),
                value("found", TensorProto.INT64, [1, "k"]),
                value("states", TensorProto.FLOAT, [1, table.shape[1]]),
            ],
        )

    def written(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> bytes:
        """The whole, checked."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        whole = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(whole)
        return whole.SerializeToString(deterministic=True)

    def seen_by_all(self, events: str, length: str) -> str:
        """What all blocks but the last one make of events, each of which sees those up to it."""
        model = self.model
        positions = self.slice(self.weights(model.position_embedding.weight), length, axis=0)
        x = self.op("Add", events, positions)
        for block in model.blocks[:-1]:
            ahead = np.triu(np.full((model.length, model.length), UNSEEN), 1)
            mask = self.slice(self.slice(self.constant(ahead), length, axis=0), length, axis=1)
            x = self.block(block, x, x, mask)
        return x

    def block(self, block: Block, asking: str, asked: str, mask: str | None) -> str:
        """What `recsys.model.Block` makes of `asking`, whose events look at those of `asked`."""
        weights = block.query_key_value.weight.detach().chunk(3)
        biases = block.query_key_value.bias.detach().chunk(3)
        width = len(biases[0]) // block.heads
        query, keys = (self.norm(block.attention_norm, x) for x in (asking, asked))

        before = (0,) * self.axes  # as `Reshape` says "as it is"

        def heads(x: str, part: int, scale: float, order: tuple[int, int, int]) -> str:
            projected = self.affine(x, scale * weights[part], scale * biases[part])
            parted = self.op("Reshape", projected, self.ints(*before, -1, block.heads, width))
            return self.transposed(parted, order)

        q = heads(query, 0, width**-0.5, (1, 0, 2))
        k = heads(keys, 1, 1.0, (1, 2, 0))
        v = heads(keys, 2, 1.0, (1, 0, 2))
        near = self.op("MatMul", q, k)
        if mask is not None:
            near = self.op("Add", near, mask)
        attended = self.op("MatMul", self.op("Softmax", near, axis=-1), v)
        attended = self.transposed(attended, (1, 0, 2))
        joined = self.op("Reshape", attended, self.ints(*before, -1, block.heads * width))
        x = self.op("Add", asking, self.linear(block.attention_output, joined))
        first, _, second = block.feed_forward
        hidden = self.op("Gelu", self.linear(first, self.norm(block.feed_forward_norm, x)))
        return self.op("Add", x, self.linear(second, hidden))

    def norm(self, norm: nn.LayerNorm, x: str) -> str:
        weight, bias = self.weights(norm.weight), self.weights(norm.bias)
        return self.op("LayerNormalization", x, weight, bias, epsilon=norm.eps)

    def linear(self, linear: nn.Linear, x: str) -> str:
        return self.affine(x, linear.weight.detach(), linear.bias.detach())

    def affine(self, x: str, weight: Tensor, bias: Tensor) -> str:
        product = self.op("MatMul", x, self.weights(weight.T.contiguous()))
        return self.op("Add", product, self.weights(bias))

    def transposed(self, x: str, order: tuple[int, int, int]) -> str:
        """With the last three axes in another order."""
        perm = [*range(self.axes), *(self.axes + axis for axis in order)]
        return self.op("Transpose", x, perm=perm)

    def slice(self, x: str, end: str, axis: int) -> str:
        return self.op("Slice", x, self.ints(0), end, self.ints(axis))

    def op(self, kind: str, *inputs: str, **attributes: int | float | list[int]) -> str:
        """Add a node; the name of its output."""
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def weights(self, weight: Tensor) -> str:
        return self.constant(weight.detach().numpy())

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def constant(self, value: np.ndarray | np.generic) -> str:
        """Add a constant; its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, target, per_channel=True, weight_type=QuantType.QInt8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the quantiser says about steps that are not needed here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
