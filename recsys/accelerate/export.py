"""The sequence encoder as an ONNX file, checked against torch when it is made."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from recsys.errors import RecsysError
from recsys.files import write_atomically
from recsys.model import SequentialRecommender

ENCODER, INT8_ENCODER = "encoder.onnx", "encoder.int8.onnx"
# States are of unit size after the last norm; float32 kernels differ in the order of their sums.
TOLERANCE = 1e-4


class PaddedEncoder(nn.Module):
    """The model's forward pass on a padded batch, with the model's own weights.

    It takes the events' embeddings, not their item indices: the item table then stays out of the
    file, whose size does not grow with the catalogue. Padding is on the right, where causal
    attention keeps it from being seen, so there is no mask.
    """

    def __init__(self, model: SequentialRecommender) -> None:
        super().__init__()
        self.position_embedding = model.position_embedding
        self.blocks = model.blocks
        self.norm = model.norm

    def forward(self, events: Tensor, lengths: Tensor) -> Tensor:
        """States float[batch, d] after the last event.

        Parameters
        ----------
        events
            float[batch, length, d]; what stands behind a sequence's end does not count.
        lengths
            int64[batch], from 1 to length.
        """
        batch, length, d = events.shape
        x = (events + self.position_embedding.weight[:length]).reshape(batch * length, d)
        for block in self.blocks:
            x = block(x, [(batch, length)], True)
        last = (lengths - 1)[:, None, None].expand(batch, 1, d)
        return self.norm(x.view(batch, length, d).gather(1, last)[:, 0])


def export_encoder(model: SequentialRecommender, folder: Path, *, int8: bool) -> None:
    """Write ``encoder.onnx`` and, on demand, ``encoder.int8.onnx`` with dynamic int8 products.

    Both take ``events`` and ``lengths`` and give ``states`` (see `PaddedEncoder`), for any batch
    size and any length up to the model's.

    Raises
    ------
    RecsysError
        When ONNX Runtime's states are not torch's.
    """
    encoder = PaddedEncoder(model).eval()
    d = model.item_embedding.embedding_dim
    # An axis of size 1 would be taken for a constant.
    example = (torch.zeros(2, 2, d), torch.tensor([2, 1]))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=model.length)
    with _quiet():
        program = torch.onnx.export(
            encoder,
            example,
            dynamo=True,
            verbose=False,
            input_names=["events", "lengths"],
            output_names=["states"],
            dynamic_shapes=({0: batch, 1: length}, {0: batch}),
        )
        write_atomically(folder / ENCODER, program.save)
    _check(encoder, folder / ENCODER, model.length, d)
    if int8:
        write_atomically(
            folder / INT8_ENCODER, lambda target: _quantise(folder / ENCODER, target)
        )


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, target, per_channel=True, weight_type=QuantType.QInt8)


def _check(encoder: PaddedEncoder, file: Path, length: int, d: int) -> None:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3, 32):
        for longest in sorted({1, 2, length // 2 or 1, length}):
            events = torch.randn(batch, longest, d, generator=generator)
            lengths = torch.randint(1, longest + 1, (batch,), generator=generator)
            with torch.inference_mode():
                wanted = encoder(events, lengths)
            given = {"events": events.numpy(), "lengths": lengths.numpy()}
            got = torch.from_numpy(session.run(["states"], given)[0])
            off = (got - wanted).abs().max().item()
            # Written this way round, a NaN is caught as well.
            if not off <= TOLERANCE:
                raise RecsysError(
                    f"{file.name} is off by {off:.2g} from torch at batch {batch} and length "
                    f"{longest}, more than {TOLERANCE}: do without --onnx"
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporters say about packages and steps that are not needed here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
