from __future__ import annotations

import hashlib
import json
import math
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from federation.compression import METHODS, NO_SCALES, Compression, decode, encode
from federation.errors import FederationError
from federation.rounding import restore, to_bfloat16
from federation.updates import Delta, Rows, Weights
from federation.wire import unpack

WEIGHTS: Weights = {
    "table": np.zeros((200, 8), np.float32),
    "bias": np.zeros(8, np.float32),
    "scalar": np.zeros((), np.float32),
    "counter": np.zeros(3, np.int64),
}
LOSSY = [
    Compression("int8"), Compression("signs"), Compression("topk", 0.05), Compression("topk", 1.0)
]  # fmt: skip
ALL = [Compression(method) for method in METHODS]


def change(seed: int = 0, rows: int = 20) -> Delta:
    """A change of some rows of the table, and of all of the rest."""
    generator = np.random.default_rng(seed)
    table = np.zeros((200, 8), np.float32)
    touched = generator.choice(200, rows, replace=False)
    table[touched] = generator.normal(size=(rows, 8)) * generator.lognormal(size=(rows, 1))
    return {
        "table": table,
        "bias": generator.normal(size=8).astype(np.float32),
        "scalar": np.float32(generator.normal()).reshape(()),
    }


def dense(delta: Delta) -> Weights:
    """All of a change, or of a residual, as whole arrays of float32."""
    return {
        name: restore(delta[name].dense(200), NO_SCALES)
        if isinstance(delta[name], Rows)
        else restore(delta[name], NO_SCALES)
        for name in sorted(delta)
    }


def rows_of(table: np.ndarray) -> set[int]:
    """The rows in which anything is."""
    return set(np.flatnonzero(table.any(axis=1)).tolist())


def signed(parts: list[dict], body: bytes) -> bytes:
    """A message with a right digest, made by the format's description alone."""
    header = zlib.compress(json.dumps({"parts": parts}).encode())
    content = struct.pack("<I", len(header)) + header + zlib.compress(body)
    return b"HYD1" + hashlib.blake2b(content, digest_size=16).digest() + content


def part(name: str = "table", layout: str = "rows", values: str = "float32", count: int = 1) -> dict:
    return {"name": name, "layout": layout, "values": values, "count": count}


@pytest.mark.parametrize("method", ["none", "rows"])
def test_exact_methods_give_back_the_same_bytes_and_keep_nothing(method: str) -> None:
    sent = change()
    message, residual = encode(sent, {}, Compression(method), WEIGHTS)
    assert residual == {}
    received = dense(decode(message, WEIGHTS))
    assert received.keys() == sent.keys()
    for name, array in received.items():
        np.testing.assert_array_equal(array, sent[name], strict=True)


def test_only_rows_that_changed_are_sent() -> None:
    table = change(rows=3)["table"]
    message, _ = encode({"table": table}, {}, Compression("rows"), WEIGHTS)
    received = decode(message, WEIGHTS)["table"]
    np.testing.assert_array_equal(received.index, np.flatnonzero(table.any(axis=1)))
    assert received.index.dtype == np.int64 and received.values.dtype == np.float32


def test_rows_may_be_given_as_rows() -> None:
    table = change()["table"]
    index = np.flatnonzero(table.any(axis=1))
    for compression in ALL[1:]:
        as_rows = encode({"table": Rows(index, table[index])}, {}, compression, WEIGHTS)
        whole = encode({"table": table}, {}, compression, WEIGHTS)
        assert as_rows[0] == whole[0]


def test_the_documented_format_is_what_is_read() -> None:
    values = np.arange(16, dtype="<f4")
    planes = values.view(np.uint8).reshape(16, 4).T.tobytes()
    gaps = np.array([3, 196], "<u4").view(np.uint8).reshape(2, 4).T.tobytes()
    read = decode(signed([part(count=2)], gaps + planes), WEIGHTS)["table"]
    assert read.index.tolist() == [3, 199]
    np.testing.assert_array_equal(read.values, values.reshape(2, 8))


def test_signs_are_those_of_the_large_elements_of_a_row_and_one_size() -> None:
    table = np.zeros((200, 8), np.float32)
    table[3] = [4, -4, 0.5, -0.5, 0, 0, 2, 1]  # 1.5 on average
    table[5] = -7
    message, residual = encode({"table": table}, {}, Compression("signs"), WEIGHTS)
    received = dense(decode(message, WEIGHTS))["table"]
    # The mean of the large ones to the nearest eighth of an octave.
    large, equal = 2 ** (np.rint(8 * np.log2([10 / 3, 7])) / 8)
    np.testing.assert_allclose(received[3], np.array([1, -1, 0, 0, 0, 0, 1, 0]) * large, rtol=1e-6)
    np.testing.assert_allclose(received[5], np.full(8, -equal), rtol=1e-6)
    np.testing.assert_allclose(dense(residual)["table"], table - received, rtol=1 / 256)


def test_int8_is_within_half_a_step_of_each_row() -> None:
    sent = change()["table"]
    message, _ = encode({"table": sent}, {}, Compression("int8"), WEIGHTS)
    received = dense(decode(message, WEIGHTS))["table"]
    step = np.abs(sent).max(axis=1, keepdims=True) / 127
    assert (np.abs(received - sent) <= step * 0.5001).all()
    assert (received != sent).any()


def test_vectors_are_rounded_to_bfloat16_as_torch_does() -> None:
    sent = np.random.default_rng(1).normal(size=8).astype(np.float32)
    # Halfway between two bfloat16: the even one, once below and once above.
    sent[:2] = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)
    received = decode(encode({"bias": sent}, {}, Compression("int8"), WEIGHTS)[0], WEIGHTS)["bias"]
    np.testing.assert_array_equal(received, torch.from_numpy(sent).bfloat16().float().numpy())


def test_top_k_sends_the_largest_elements_and_the_first_of_equal_ones() -> None:
    table = np.zeros((200, 8), np.float32)
    table[5, :4] = [1.0, -2.0, 0.5, 3.0]
    table[190, 7] = -1.0
    table[7] = 0.25
    message, residual = encode({"table": table}, {}, Compression("topk", 3 / 13), WEIGHTS)
    received = decode(message, WEIGHTS)["table"]
    assert received.index.tolist() == [5]
    np.testing.assert_allclose(received.values[0, [0, 1, 3]], [1, -2, 3], atol=0.05)
    assert np.count_nonzero(received.values) == 3
    assert rows_of(residual["table"]) == {5, 7, 190}


@pytest.mark.parametrize("compression", LOSSY)
def test_what_is_left_out_is_the_residual(compression: Compression) -> None:
    table = np.zeros((200, 8), np.float32)
    table[[2, 9]] = 0.5
    sent = change()
    message, residual = encode(sent, {"table": to_bfloat16(table)}, compression, WEIGHTS)
    received, left = dense(decode(message, WEIGHTS)), dense(residual)
    total = sent["table"] + table
    # Of what top-k does not send at once, a 256th is lost.
    np.testing.assert_allclose(received["table"] + left["table"], total, rtol=1 / 256, atol=1e-7)
    np.testing.assert_allclose(received["bias"] + left["bias"], sent["bias"], rtol=1e-6)
    assert all(array.shape == WEIGHTS[name].shape for name, array in residual.items())


@pytest.mark.parametrize("compression", LOSSY)
def test_what_is_left_out_arrives_in_the_end(compression: Compression) -> None:
    """Sent once, a change arrives after a while, though nothing but zeros follows."""
    first, nothing = change(), {name: 1e-9 * array for name, array in change().items()}
    residual: Weights = {}
    arrived = np.zeros((200, 8), np.float64)
    for number in range(60):
        message, residual = encode(nothing if number else first, residual, compression, WEIGHTS)
        arrived += dense(decode(message, WEIGHTS))["table"]
    np.testing.assert_allclose(arrived, first["table"], rtol=1 / 256, atol=2e-2)


def test_a_row_waits_until_it_changes_again() -> None:
    """Otherwise every row that ever changed would cross in each round, for less than a step."""
    _, residual = encode({"table": change(rows=20)["table"]}, {}, Compression("int8"), WEIGHTS)
    waiting = rows_of(residual["table"])
    assert len(waiting) == 20
    later: Delta = {"table": Rows(np.array([150]), np.ones((1, 8), np.float32))}
    message, after = encode(later, residual, Compression("int8"), WEIGHTS)
    assert decode(message, WEIGHTS)["table"].index.tolist() == [150]
    assert waiting <= {*rows_of(after["table"]), 150}


@pytest.mark.parametrize("compression", ALL)
def test_equal_changes_give_equal_bytes(compression: Compression) -> None:
    one, two = (encode(change(), {}, compression, WEIGHTS)[0] for _ in range(2))
    assert one == two


def test_an_empty_change_is_a_message_too() -> None:
    for compression in ALL:
        assert decode(encode({}, {}, compression, WEIGHTS)[0], WEIGHTS) == {}


def test_a_residual_is_changed_in_place_and_half_as_large_as_the_table() -> None:
    for compression in LOSSY:
        _, first = encode(change(0), {}, compression, WEIGHTS)
        table = first["table"]
        assert 2 * table.nbytes == WEIGHTS["table"].nbytes
        assert encode(change(1), first, compression, WEIGHTS)[1]["table"] is table


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float32, (40, 8), elements=st.floats(-(2.0**60), 2.0**60, width=32)),
    st.floats(0.01, 1),
)
def test_top_k_takes_as_many_as_asked_and_none_that_is_smaller(
    values: np.ndarray, share: float
) -> None:
    table = np.zeros((200, 8), np.float32)
    table[60:100] = restore(to_bfloat16(values), NO_SCALES)
    message, _ = encode({"table": table}, {}, Compression("topk", share), WEIGHTS)
    (sent,) = unpack(message, WEIGHTS) or [None]
    count = 0 if sent is None else len(sent.positions)
    assert count == math.ceil(share * np.count_nonzero(table))
    if count:
        size = np.abs(table.reshape(-1))
        # Those of a stable sort, largest first: of equal ones the first.
        expected = np.sort(np.argsort(-size, kind="stable")[:count])
        np.testing.assert_array_equal(sent.positions, expected)


def test_bytes_fall_from_method_to_method() -> None:
    generator = np.random.default_rng(0)
    sent: Delta = {"table": generator.laplace(size=(4000, 64)).astype(np.float32)}
    schemes = [*ALL[:4], Compression("topk", 0.1), Compression("topk", 0.02)]
    sizes = [len(encode(sent, {}, compression, sent)[0]) for compression in schemes]
    whole = sent["table"].nbytes
    assert sizes[0] < 1.01 * whole
    for size, share in zip(sizes[1:], [1.0, 0.27, 0.05, 0.045, 0.011], strict=True):
        assert size < share * whole, sizes


@pytest.mark.parametrize("compression", ALL)
def test_nan_is_refused_before_it_leaves(compression: Compression) -> None:
    for name in ("table", "bias"):
        sent = change()
        sent[name].flat[0] = np.nan
        with pytest.raises(FederationError, match=f"NaN or infinity in the change of '{name}'"):
            encode(sent, {}, compression, WEIGHTS)


@pytest.mark.parametrize(
    ("parts", "body", "sentence"),
    [
        ([part("other")], b"", "'other', no trained array"),
        ([part("counter", "dense", count=3)], b"", "'counter', no trained array"),
        ([part(count=201)], b"", "201 rows of 'table', which is \\[200, 8\\]"),
        ([part(count=10**30)], b"", "changes 10+ rows of 'table'"),
        ([part(count=-1)], b"", "usable header"),
        ([part(count=True)], b"", "usable header"),
        ([part(layout="columns")], b"", "usable header"),
        ([part("bias", "rows")], b"", "1 rows of 'bias'"),
        ([part("bias", "dense", count=7)], b"", "7 dense of 'bias'"),
        ([part("scalar", "dense")] * 2, b"", "twice"),
        ([part("scalar", "dense")], b"\0" * 3, "does not hold the 4 bytes"),
        ([part("scalar", "dense")], b"\0" * 5, "does not hold the 4 bytes"),
        ([part("scalar", "dense")], b"\0\0\xc0\x7f", "NaN or infinity in 'scalar'"),
        ([part("scalar", "dense", "bfloat16")], b"\x80\x7f", "NaN or infinity in 'scalar'"),
        ([part(count=1)], b"\xc8" + bytes(35), "positions of 'table'"),
        ([part(count=2)], b"\1" + bytes(71), "positions of 'table'"),
        ([part(layout="elements", values="int8")], b"\x40\x06" + bytes(7), "positions of 'table'"),
        ([part(values="int8")], bytes(4) + b"\xff\xff\x7f\x7f" + b"\x7f" * 8, "NaN or infinity"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_is_refused(
    parts: list[dict], body: bytes, sentence: str
) -> None:
    with pytest.raises(FederationError, match=sentence):
        decode(signed(parts, body), WEIGHTS)


@pytest.mark.parametrize("nested", [b"[" * 100_000, b'{"parts":' * 50_000, b"\xff", b"", b"0"])
def test_a_header_that_is_none_is_refused(nested: bytes) -> None:
    header = zlib.compress(nested)
    content = struct.pack("<I", len(header)) + header + zlib.compress(b"")
    message = b"HYD1" + hashlib.blake2b(content, digest_size=16).digest() + content
    with pytest.raises(FederationError):
        decode(message, WEIGHTS)


def test_another_vocabulary_is_refused() -> None:
    larger: Delta = {"table": np.zeros((201, 8), np.float32)}
    larger["table"][200] = 1
    for compression in ALL:
        with pytest.raises(FederationError):
            decode(encode(larger, {}, compression, larger)[0], WEIGHTS)


@pytest.mark.parametrize("where", ["header", "body"])
def test_a_message_that_unpacks_to_more_than_it_may_takes_no_memory(where: str) -> None:
    bomb = zlib.compress(bytes(64 << 20))
    header = bomb if where == "header" else zlib.compress(json.dumps({"parts": [part()]}).encode())
    content = struct.pack("<I", len(header)) + header + bomb
    message = b"HYD1" + hashlib.blake2b(content, digest_size=16).digest() + content
    tracemalloc.start()
    try:
        with pytest.raises(FederationError, match="does not hold"):
            decode(message, WEIGHTS)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


deltas = st.fixed_dictionaries(
    {},
    optional={
        "table": hnp.arrays(
            np.float32,
            (200, 8),
            elements=st.floats(-(2.0**100), 2.0**100, width=32),
            fill=st.just(np.float32(0)),
        ),
        "bias": hnp.arrays(np.float32, 8, elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    },
)
compressions = st.builds(
    Compression, st.sampled_from(METHODS), st.floats(0.01, 1, allow_nan=False)
)


@settings(deadline=None, max_examples=60)
@given(deltas, deltas, compressions)
def test_any_change_arrives_and_fits(sent: Delta, waiting: Delta, compression: Compression) -> None:
    waiting = waiting if compression.lossy else {}
    if "table" in waiting:
        waiting["table"] = to_bfloat16(waiting["table"])
    before = dense(waiting)
    message, residual = encode(sent, waiting, compression, WEIGHTS)
    received = dense(decode(message, WEIGHTS))
    for name in sent.keys() | before.keys():
        total = sum(np.float64(d[name]) for d in (sent, before) if name in d)
        got = np.float64(received.get(name, 0)) + dense(residual).get(name, 0)
        np.testing.assert_allclose(got, total, rtol=0, atol=np.abs(total).max() / 256 + 1e-38)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(ALL), st.data())
def test_a_damaged_message_is_refused(compression: Compression, data: st.DataObject) -> None:
    message = encode(change(), {}, compression, WEIGHTS)[0]
    flips = data.draw(st.lists(st.integers(0, len(message) * 8 - 1), max_size=4, unique=True))
    end = data.draw(st.integers(0, len(message)))
    damaged = bytearray(message)
    for flip in flips:
        damaged[flip // 8] ^= 1 << flip % 8
    damaged = bytes(damaged[:end])
    if damaged == message:
        return
    with pytest.raises(FederationError):
        decode(damaged, WEIGHTS)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(ALL), st.data())
def test_a_forged_message_is_refused_or_fits(
    compression: Compression, data: st.DataObject
) -> None:
    """Damage of header or body under a right digest, as a site that lies would send it."""
    content = bytearray(encode(change(), {}, compression, WEIGHTS)[0][20:])
    (size,) = struct.unpack_from("<I", content)
    header = bytearray(zlib.decompress(content[4 : 4 + size]))
    body = bytearray(zlib.decompress(content[4 + size :]))
    for target in (header, body):
        for place in data.draw(st.lists(st.integers(0, len(target) - 1), max_size=3)):
            target[place] = data.draw(st.integers(0, 255))
    packed = zlib.compress(header)
    content = struct.pack("<I", len(packed)) + packed + zlib.compress(body)
    message = b"HYD1" + hashlib.blake2b(content, digest_size=16).digest() + content
    try:
        received = decode(message, WEIGHTS)
    except FederationError:
        return
    for name, array in dense(received).items():
        assert array.shape == WEIGHTS[name].shape and array.dtype == WEIGHTS[name].dtype
        assert np.isfinite(array).all()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [(("zip",), "compression is 'zip': use one of none, rows, int8, signs, topk"),
     (("topk", 0.0), "share is 0.0"), (("topk", float("nan")), "share is nan")],
)  # fmt: skip
def test_an_unusable_compression_is_refused(values: tuple, sentence: str) -> None:
    with pytest.raises(FederationError, match=sentence):
        Compression(*values)
