"""Random values have the length and the characters that were asked for."""

from __future__ import annotations

import base64
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.offline.errors import OfflineError
from infra.offline.random import TYPES
from infra.offline.resource import Request


def create(name: str, **inputs: Any) -> dict[str, Any]:
    token = f"random:index/{name[0].lower()}{name[1:]}:{name}"
    return TYPES[token].create(None, Request("urn", inputs, "mark"))[1]


@given(st.integers(8, 64), st.integers(0, 4), st.integers(0, 4), st.booleans())
def test_passwords(length: int, digits: int, upper: int, special: bool) -> None:
    inputs = {"length": length, "minNumeric": digits, "minUpper": upper, "special": special}
    password = create("RandomPassword", **inputs)["result"]
    assert len(password) == length
    assert sum(character in string.digits for character in password) >= digits
    assert sum(character in string.ascii_uppercase for character in password) >= upper
    assert special or password.isalnum()


def test_impossible_passwords_are_refused() -> None:
    with pytest.raises(OfflineError, match="length 2 cannot have the characters"):
        create("RandomPassword", length=2, minLower=3)


def test_ids_and_bytes_are_the_same_value_in_each_notation() -> None:
    made = create("RandomId", byteLength=8, prefix="store-")
    value = bytes.fromhex(made["hex"].removeprefix("store-"))
    assert int(made["dec"].removeprefix("store-")) == int.from_bytes(value)
    assert base64.b64decode(made["b64Std"].removeprefix("store-")) == value
    made = create("RandomBytes", length=32)
    assert base64.b64decode(made["base64"]) == bytes.fromhex(made["hex"])
    assert len(made["hex"]) == 64
