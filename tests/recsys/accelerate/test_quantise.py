from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from recsys.accelerate.quantise import (
    Int8Linear,
    QuantisedTable,
    compressed,
    int8_product,
    quantise_rows,
)
from recsys.artifact import load_model


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    magnitude=st.sampled_from([1e-20, 1e-3, 1.0, 1e6]),
    seed=st.integers(0, 1000),
)
def test_codes_are_within_half_a_scale_and_two_planes_within_a_64516th(
    rows: int, columns: int, magnitude: float, seed: int
) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * magnitude
    weight[0] = 0
    largest = weight.abs().amax(1, keepdim=True).double()
    codes, scale = quantise_rows(weight)
    assert codes.dtype == torch.int8 and codes.abs().max() <= 127
    error = (codes.double() * scale.double() - weight.double()).abs()
    assert (error <= largest / 254 * (1 + 1e-5)).all()
    rebuilt = QuantisedTable.of(weight).rows(torch.arange(rows)).double()
    assert ((rebuilt - weight.double()).abs() <= largest / 60000).all()


def test_a_row_is_quantised_the_same_whoever_shares_its_batch() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(4, 8), torch.randn(5, 8)
    x[3] *= 1000
    codes, scale = quantise_rows(weight)
    together = int8_product(x, codes, scale)
    assert torch.equal(together[:1], int8_product(x[:1], codes, scale))
    torch.testing.assert_close(together[:3], x[:3] @ weight.T, atol=0.1, rtol=0)


def test_an_int8_linear_layer_is_close_to_its_float_one() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(32, 24)
    x = torch.randn(2, 3, 32)
    quantised = Int8Linear(linear)(x)
    assert quantised.shape == (2, 3, 24)
    assert 0 < (quantised - linear(x)).abs().max() < 0.02


def test_compressed_weights_load_as_floats_in_half_the_bytes(
    artifact: Path, tmp_path: Path
) -> None:
    plain = load_model(artifact).model.folded()
    for name in ("recipe.json", "items.json", "metrics.json"):
        (tmp_path / name).write_bytes((artifact / name).read_bytes())
    save_file(compressed(plain), tmp_path / "weights.safetensors")
    loaded = load_model(tmp_path).model
    torch.testing.assert_close(loaded.output_table, plain.output_table, atol=1e-4, rtol=0)
    ours, theirs = loaded.encode([[1, 2, 3]]), plain.encode([[1, 2, 3]])
    assert 0 < (ours - theirs).abs().max() < 0.1
    assert all(weight.dtype == torch.float32 for weight in loaded.state_dict().values())
    floats = sum(weight.nbytes for weight in plain.state_dict().values())
    assert sum(weight.nbytes for weight in compressed(plain).values()) < 0.6 * floats
