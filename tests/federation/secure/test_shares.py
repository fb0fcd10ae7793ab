from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import FederationError
from federation.keystream import Keystream
from federation.secure.shares import PRIME, join, split

SECRET = bytes(range(32))


def test_the_field_has_a_prime_order():
    # Lucas and Lehmer's test of a Mersenne number.
    value = 4
    for _ in range(521 - 2):
        value = (value * value - 2) % PRIME
    assert value == 0


@settings(max_examples=40, deadline=None)
@given(data=st.data(), secret=st.binary(min_size=32, max_size=32))
def test_any_threshold_of_holders_joins_the_secret(data, secret):
    holders = data.draw(st.integers(1, 50))
    threshold = data.draw(st.integers(1, holders))
    shares = split(secret, threshold, holders, Keystream(SECRET, "a"))
    some = data.draw(st.permutations(range(holders)))[:threshold]
    assert join({holder: shares[holder] for holder in some}) == secret


def test_fewer_know_nothing():
    # Whatever two of three holders have, every secret still fits: here, one other than the true.
    shares = split(SECRET, 3, 5, Keystream(SECRET, "a"))
    with pytest.raises(FederationError, match="The shares of 2 sites do not belong together"):
        join({0: shares[0], 1: shares[1]})
    other = bytes(32)
    # The line through (0, other), holder 0 and holder 1 gives holder 2 a share that joins to it.
    points = {0: 0, 1: int.from_bytes(shares[0], "big"), 2: int.from_bytes(shares[1], "big")}
    forged = 0
    for x, y in points.items():
        top = bottom = 1
        for z in points.keys() - {x}:
            top, bottom = top * (3 - z) % PRIME, bottom * (x - z) % PRIME
        forged = (forged + y * top * pow(bottom, -1, PRIME)) % PRIME
    assert join({0: shares[0], 1: shares[1], 2: forged.to_bytes(66, "big")}) == other


def test_a_wrong_share_is_noticed():
    shares = split(SECRET, 2, 3, Keystream(SECRET, "a"))
    with pytest.raises(FederationError, match="do not belong together"):
        join({0: shares[0], 1: shares[2]})


def test_shares_of_different_streams_differ():
    first, second = (split(SECRET, 2, 3, Keystream(SECRET, name)) for name in "ab")
    assert not set(first) & set(second)
