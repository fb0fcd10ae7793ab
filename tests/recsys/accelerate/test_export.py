from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.accelerate import export
from recsys.accelerate.export import PaddedEncoder, export_encoder
from recsys.accelerate.runtime import OnnxEncoder, padded
from recsys.artifact import load_model
from recsys.errors import RecsysError
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe


@pytest.fixture(scope="module")
def model(artifact: Path) -> SequentialRecommender:
    return load_model(artifact).model.folded()


@pytest.fixture(scope="module")
def exported(model: SequentialRecommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_encoder(model, folder, int8=True)
    return folder


def encoder_of(model: SequentialRecommender, folder: Path, *, int8: bool) -> OnnxEncoder:
    table = model.output_table.detach()
    return OnnxEncoder(folder, table.__getitem__, len(table), model.length, int8=int8)


histories = st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=20), min_size=1, max_size=9)


@settings(max_examples=30)
@given(histories=histories)
def test_padded_exported_and_packed_encoders_agree(
    model: SequentialRecommender, exported: Path, histories: list[list[int]]
) -> None:
    expected = model.encode(histories)
    items, lengths = padded([np.array(history[-model.length :]) for history in histories])
    events = model.item_embedding(items)
    torch.testing.assert_close(PaddedEncoder(model)(events, lengths), expected)
    torch.testing.assert_close(
        encoder_of(model, exported, int8=False)(histories), expected, atol=1e-4, rtol=1e-4
    )


def test_the_padded_encoder_shares_the_models_weights(model: SequentialRecommender) -> None:
    own, shared = dict(model.named_parameters()), dict(PaddedEncoder(model).named_parameters())
    assert set(own) - set(shared) == {"item_embedding.weight", "_seen_bias"}
    assert all(shared[name] is own[name] for name in shared)


def test_the_int8_encoder_is_close_and_multiplies_integers(
    model: SequentialRecommender, exported: Path
) -> None:
    few = [[1, 2, 3], [7]]
    off = (encoder_of(model, exported, int8=True)(few) - model.encode(few)).abs().max()
    assert 0 < off < 0.2
    kinds = [(exported / name).read_bytes() for name in ("encoder.onnx", "encoder.int8.onnx")]
    assert b"MatMulInteger" not in kinds[0] and b"MatMulInteger" in kinds[1]


def test_an_export_that_is_not_the_model_is_refused(
    exported: Path,
) -> None:
    other = SequentialRecommender(60, Recipe(dimension=16, heads=4, length=12))
    with pytest.raises(RecsysError, match=r"encoder.onnx is off by .* at batch 1 and length 1"):
        export._check(PaddedEncoder(other).eval(), exported / "encoder.onnx", 12, 16)


@pytest.mark.parametrize(
    ("histories", "sentence"),
    [
        ([[1], []], "history 1 is empty"),
        ([[60]], "names item 60, the model knows the items 0 to 59"),
    ],
)
def test_a_history_that_cannot_be_encoded_is_named(
    model: SequentialRecommender, exported: Path, histories: list, sentence: str
) -> None:
    with pytest.raises(RecsysError, match=sentence):
        encoder_of(model, exported, int8=False)(histories)


def test_many_histories_are_encoded_in_their_order(
    model: SequentialRecommender, exported: Path
) -> None:
    random = np.random.default_rng(0)
    many = [random.integers(0, 60, random.integers(1, 15)) for _ in range(300)]
    torch.testing.assert_close(
        encoder_of(model, exported, int8=False)(many), model.encode(many), atol=1e-4, rtol=1e-4
    )
