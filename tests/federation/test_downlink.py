from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from federation.compression import NO_SCALES, Compression, apply, encode
from federation.downlink import CHUNK_ROWS, Messages, advance, changed
from federation.errors import FederationError
from federation.rounding import restore
from federation.updates import Delta, Rows, Weights
from federation.wire import Form, Part, pack

COMPRESSIONS = [
    Compression("rows"), Compression("int8"), Compression("signs"), Compression("topk", 0.1)
]  # fmt: skip


def model(rows: int = 300) -> Weights:
    generator = np.random.default_rng(0)
    return {
        "table": generator.normal(size=(rows, 8)).astype(np.float32),
        "bias": generator.normal(size=8).astype(np.float32),
        "counter": np.arange(3),
    }


def copy_of(weights: Weights) -> Weights:
    return {name: array.copy() for name, array in weights.items()}


def change(seed: int) -> Delta:
    generator = np.random.default_rng(seed)
    index = np.sort(generator.choice(300, 30, replace=False))
    return {
        "table": Rows(index, generator.normal(size=(30, 8))),
        "bias": generator.normal(size=8),
    }


def assert_same(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], strict=True)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_site_that_reads_every_message_has_the_servers_bytes(compression: Compression) -> None:
    server, site = model(), model()
    residual: Weights = {}
    for number in range(5):
        message, residual = advance(server, change(number), residual, compression)
        apply(message, site)
        assert_same(site, server)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_what_a_message_leaves_out_follows_later(compression: Compression) -> None:
    server = model()
    sought = {name: array.astype(np.float64) for name, array in model().items()}
    residual: Weights = {}
    for number in range(5):
        made = change(number)
        sought["table"] += made["table"].dense(300)
        sought["bias"] += made["bias"]
        _, residual = advance(server, made, residual, compression)
    left = residual.get("table", np.zeros((300, 8), np.uint16))
    np.testing.assert_allclose(
        server["table"] + restore(left, NO_SCALES), sought["table"],
        atol=3e-2 if compression.lossy else 1e-5,
    )  # fmt: skip
    np.testing.assert_allclose(server["bias"] + residual.get("bias", 0), sought["bias"], atol=1e-5)


def test_what_changed_are_rows_and_only_those() -> None:
    before = model(CHUNK_ROWS + 10)
    after = copy_of(before)
    after["table"][[3, CHUNK_ROWS, CHUNK_ROWS + 9]] += 1
    delta = changed(before, after)
    assert delta.keys() == {"table"}
    assert delta["table"].index.tolist() == [3, CHUNK_ROWS, CHUNK_ROWS + 9]
    moved = copy_of(before)
    apply(encode(delta, {}, Compression("rows"), moved)[0], moved)
    np.testing.assert_allclose(moved["table"], after["table"], atol=1e-6)
    after["bias"] += 1
    after["counter"] += 1
    assert changed(before, after).keys() == {"table", "bias"}
    assert changed(before, before) == {}


def test_a_large_table_is_changed_in_place() -> None:
    weights = {"table": np.zeros((200_000, 16), np.float32)}
    rows = Rows(np.arange(0, 200_000, 100), np.ones((2000, 16)))
    _, residual = advance(weights, {"table": rows}, {}, Compression("int8"))
    tracemalloc.start()
    advance(weights, {"table": rows}, residual, Compression("int8"))
    after = dict(weights)
    assert changed(weights, after) == {}
    assert tracemalloc.get_traced_memory()[1] < weights["table"].nbytes / 4
    tracemalloc.stop()


def test_a_message_that_cannot_be_read_changes_nothing() -> None:
    weights = model()
    table = np.ones((300, 8), np.float32)
    message = encode({"table": table}, {}, Compression("rows"), weights)[0]
    with pytest.raises(FederationError):
        apply(message[:-1], weights)
    assert_same(weights, model())


def test_a_message_whose_last_row_is_not_finite_changes_nothing() -> None:
    weights = model(3000)
    values = np.ones((3000, 8), np.float32)
    values[-1, -1] = np.inf
    form = Form(name="table", layout="rows", values="float32", count=3000)
    message = pack([Part(form, np.arange(3000), NO_SCALES, values)], 0)
    with pytest.raises(FederationError, match="NaN or infinity in 'table'"):
        apply(message, weights)
    assert_same(weights, model(3000))


def test_a_site_gets_what_it_missed(tmp_path: Path) -> None:
    messages = Messages(tmp_path / "messages")
    server = model()
    residual: Weights = {}
    for number in range(1, 6):
        message, residual = advance(server, change(number), residual, Compression("int8"))
        messages.keep(number, message)
        if number == 2:
            site = copy_of(server)
    for message in messages.since(2, 5, most=10**9):
        apply(message, site)
    assert_same(site, server)
    assert messages.since(5, 5, most=10**9) == []


def test_a_site_gets_the_whole_model_where_that_is_less_or_the_messages_are_gone(
    tmp_path: Path,
) -> None:
    messages = Messages(tmp_path / "messages")
    for number in range(1, 6):
        messages.keep(number, bytes(100))
    assert messages.since(None, 5, most=10**9) is None
    assert messages.since(6, 5, most=10**9) is None
    assert messages.since(2, 5, most=301) == [bytes(100)] * 3
    assert messages.since(2, 5, most=300) is None
    (tmp_path / "messages" / "000003.bin").unlink()
    assert messages.since(2, 5, most=10**9) is None
    assert messages.since(3, 5, most=10**9) == [bytes(100)] * 2
