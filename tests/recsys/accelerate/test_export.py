from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.accelerate.export import check_encoder, encoder_graph, export_encoder
from recsys.accelerate.session import OnnxEncoder
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
    file = folder / ("encoder.int8.onnx" if int8 else "encoder.onnx")
    return OnnxEncoder(file, table.numpy().__getitem__, len(table), model.length)


histories = st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=20), min_size=1, max_size=9)


@settings(max_examples=30)
@given(histories=histories)
def test_exported_and_packed_encoders_agree(
    model: SequentialRecommender, exported: Path, histories: list[list[int]]
) -> None:
    torch.testing.assert_close(
        torch.from_numpy(encoder_of(model, exported, int8=False)(histories)),
        model.encode(histories),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("blocks", [1, 3])
def test_the_last_block_sees_what_each_sequence_holds_and_no_more(blocks: int) -> None:
    torch.manual_seed(blocks)
    model = SequentialRecommender(60, Recipe(dimension=16, heads=2, blocks=blocks, length=9)).eval()
    graph = encoder_graph(model)
    check_encoder(model, OnnxEncoder(graph, model.output_table.detach().numpy().__getitem__, 60, 9))
    assert encoder_graph(model) == graph


def test_the_int8_encoder_is_close_and_multiplies_integers(
    model: SequentialRecommender, exported: Path
) -> None:
    few = [[1, 2, 3], [7]]
    states = model.encode(few).detach().numpy()
    off = np.abs(encoder_of(model, exported, int8=True)(few) - states).max()
    assert 0 < off < 0.2
    kinds = [(exported / name).read_bytes() for name in ("encoder.onnx", "encoder.int8.onnx")]
    assert b"MatMulInteger" not in kinds[0] and b"MatMulInteger" in kinds[1]


def test_an_export_that_is_not_the_model_is_refused(
    model: SequentialRecommender, exported: Path
) -> None:
    other = SequentialRecommender(60, Recipe(dimension=16, heads=4, length=12)).eval()
    encode = encoder_of(model, exported, int8=False)
    with pytest.raises(RecsysError, match=r"encoder is off by .* at batch 1 and length 1"):
        check_encoder(other, encode)


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
    states = model.encode(many).detach()
    np.testing.assert_allclose(
        encoder_of(model, exported, int8=False)(many), states, atol=1e-4, rtol=1e-4
    )
