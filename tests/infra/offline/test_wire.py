"""Property values survive the way to the engine and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infra.offline.wire import (
    UNKNOWN,
    Secret,
    decode,
    encode,
    has_secret,
    has_unknown,
    keep_secrets,
    reveal,
    without_nulls,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not x.is_integer())
    | st.text()
    | st.just(UNKNOWN)
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(names, inner, max_size=3)
    | inner.map(Secret),
    max_leaves=12,
)


@given(st.dictionaries(names, values, max_size=4))
def test_decode_inverts_encode(properties) -> None:
    assert decode(encode(properties)) == properties


@given(values)
def test_reveal_leaves_no_secret(value) -> None:
    assert not has_secret(reveal(value))
    assert has_unknown(reveal(value)) == has_unknown(value)


@given(values)
def test_keep_secrets_restores_the_marks(value) -> None:
    assert reveal(keep_secrets(reveal(value), value)) == reveal(value)
    assert has_secret(keep_secrets(reveal(value), value)) == has_secret(value)


def test_a_secret_whose_shape_changed_is_hidden_whole() -> None:
    assert keep_secrets(["a", "b"], [Secret("a")]) == Secret(["a", "b"])


def test_a_secret_does_not_show_in_text() -> None:
    assert "hunter2" not in repr({"password": Secret("hunter2")})


def test_nulls_in_objects_go_and_in_lists_stay() -> None:
    assert without_nulls({"a": None, "b": [None, {"c": None}]}) == {"b": [None, {}]}
