"""Shamir's secret sharing (1979): any `threshold` holders know the secret, fewer know nothing."""

from __future__ import annotations

from collections.abc import Mapping

from federation.errors import FederationError
from federation.keystream import Keystream

# A prime (Mersenne's thirteenth), so large that a key of 32 bytes is one element.
PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = 66


def split(secret: bytes, threshold: int, holders: int, source: Keystream) -> list[bytes]:
    """Shares of a secret of 32 bytes, for the holders 0, 1, … in this order.

    Parameters
    ----------
    threshold : int
        Shares that are needed to join them, from 1 to `holders`.
    source : Keystream
        Whoever knows what it gives knows the secret.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= holders:
        raise ValueError(f"{len(secret)} bytes for {threshold} of {holders} holders")
    # 64 bits more than the prime has: what is left over after the division favours no number.
    coefficients = [int.from_bytes(secret, "big")] + [
        int.from_bytes(source.take(SHARE_BYTES + 8), "big") % PRIME for _ in range(threshold - 1)
    ]
    shares = []
    for point in range(1, holders + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * point + coefficient) % PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "big"))
    return shares


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret, from the shares of at least `threshold` holders by their number.

    Raises
    ------
    FederationError
        If the shares are of no secret: too few of them, or one is wrong.
    """
    points = {holder + 1: int.from_bytes(share, "big") for holder, share in shares.items()}
    secret = 0
    for point, value in points.items():
        numerator = denominator = 1
        for other in points.keys() - {point}:
            numerator = numerator * other % PRIME
            denominator = denominator * (other - point) % PRIME
        secret += value * numerator * pow(denominator, -1, PRIME)
    secret %= PRIME
    # A wrong sum is one of 2^521 numbers: hardly ever one that is as small as a secret.
    if secret >= 1 << (8 * SECRET_BYTES):
        raise FederationError(
            f"The shares of {len(shares)} sites do not belong together, or are too few."
        )
    return secret.to_bytes(SECRET_BYTES, "big")
