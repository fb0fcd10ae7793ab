"""Sums of encrypted vectors, as an alternative to masks: CKKS by TenSEAL (Microsoft SEAL).

The sites share one secret key that the server must not have. They encrypt their vectors, the
server adds the ciphertexts up without a key, and any site decrypts the sum. There is nothing to
mend when a site drops out, and one exchange is enough; but a number takes 30 bytes in the place
of 4, and a site that has the key can read what another sends if it gets hold of it.

CKKS computes with real numbers and an error. Vectors here are of whole numbers, which stand far
enough apart that the sum is rounded back to what it is exactly: a round that is repeated has the
same sum, although encryption draws its noise anew each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from federation.errors import FederationError

if TYPE_CHECKING:
    import tenseal

# 128 bits of security by the Homomorphic Encryption Standard (2018, table 1: at most 109 bits of
# modulus at degree 4096). One prime holds the numbers; sums need no more.
DEGREE = 4096
PRIMES = (54, 54)
# In a ciphertext.
NUMBERS = DEGREE // 2
SCALE = 2.0**38
# Bits of a whole number and its sign, in a sum of up to 50 vectors; the prime has room for 2 more.
BITS = 31
# What a whole number is worth in CKKS's own numbers: the errors of 50 vectors' encryption reach
# 0.03 of it, and a sum that is further off a whole number than LARGEST_ERROR is none.
UNIT = 2.0**-18
LARGEST_ERROR = 0.25
# What is left out of a serialised key: sums need neither.
PARTS = {"save_galois_keys": False, "save_relin_keys": False}
# Of a ciphertext: two polynomials of one prime, which SEAL packs a little.
CIPHERTEXT_BYTES = 2 * 8 * DEGREE + 1024


def new_key() -> bytes:
    """Draw a secret key, for the sites alone: encrypts and decrypts."""
    library = _library()
    context = library.context(library.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(PRIMES))
    context.global_scale = SCALE
    return context.serialize(save_secret_key=True, **PARTS)


def public_of(secret: bytes) -> bytes:
    """What of a key the server has: it adds."""
    return _context(secret).serialize(save_secret_key=False, **PARTS)


def name_of(secret: bytes) -> str:
    """What tells a secret key from others, and says nothing of it."""
    return hashlib.sha256(b"name of a key" + secret).hexdigest()[:32]


def encrypt(key: bytes, vector: np.ndarray) -> list[bytes]:
    """Encrypt int32[size] with either key, `NUMBERS` of them to a ciphertext."""
    context = _context(key)
    return [
        _library().ckks_vector(context, vector[start : start + NUMBERS] * UNIT).serialize()
        for start in range(0, len(vector), NUMBERS)
    ]


class Total:
    """At the server: the sum of what sites encrypted, itself encrypted.

    Parameters
    ----------
    public : bytes
        The public key.
    size : int
        Length of the vectors.
    """

    def __init__(self, public: bytes, size: int) -> None:
        self._context, self._size = _context(public), size
        self._parts: list[Any] = []

    def add(self, message: Sequence[bytes]) -> None:
        """Add a site's vector.

        Raises
        ------
        FederationError
            If it is none of this length; then nothing of it is added.
        """
        starts = range(0, self._size, NUMBERS)
        sizes = [min(NUMBERS, self._size - start) for start in starts]
        if len(message) != len(sizes):
            raise FederationError(
                f"{len(message)} ciphertexts in the place of the {len(sizes)} of {self._size:,} "
                "numbers."
            )
        try:
            parts = [_library().ckks_vector_from(self._context, part) for part in message]
            if [part.size() for part in parts] != sizes:
                raise ValueError("of another length")
            if self._parts:
                parts = [mine + theirs for mine, theirs in zip(self._parts, parts, strict=True)]
        except (ValueError, RuntimeError) as error:
            raise FederationError(f"A ciphertext that cannot be used ({error}).") from error
        self._parts = parts

    def serialize(self) -> list[bytes]:
        """The sum as a message."""
        return [part.serialize() for part in self._parts]


def decrypt(secret: bytes, message: Sequence[bytes]) -> np.ndarray:
    """At a site: int32[size] that a message holds.

    Raises
    ------
    FederationError
        If it is nothing that was encrypted under this key.
    """
    context = _context(secret)
    try:
        found = [_library().ckks_vector_from(context, part).decrypt() for part in message]
    except (ValueError, RuntimeError) as error:
        raise FederationError(f"The encrypted sum cannot be read ({error}).") from error
    values = np.concatenate([np.array(part) for part in found] or [np.empty(0)]) / UNIT
    whole = np.rint(values)
    if np.abs(values - whole).max(initial=0.0) > LARGEST_ERROR or (np.abs(whole) >= 2**31).any():
        raise FederationError(
            "The encrypted sum holds no whole numbers: a site has encrypted under another key."
        )
    return whole.astype(np.int64).astype(np.int32)


def joined(message: Sequence[bytes]) -> bytes:
    """A message's ciphertexts as one piece."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in message)


def parted(content: bytes) -> list[bytes]:
    """What :func:`joined` was given.

    Raises
    ------
    FederationError
        If it is cut short.
    """
    parts, start = [], 0
    while start < len(content):
        end = start + 4 + int.from_bytes(content[start : start + 4], "little")
        if end > len(content) or start + 4 > len(content):
            raise FederationError("A message of ciphertexts is cut short.")
        parts.append(content[start + 4 : end])
        start = end
    return parts


def _context(key: bytes) -> tenseal.Context:
    try:
        return _library().context_from(key)
    except (ValueError, RuntimeError) as error:
        raise FederationError(f"A key of encrypted sums cannot be read ({error}).") from error


def _library() -> Any:
    # Loaded at its first use: it takes a while, and only encrypted sums need it.
    try:
        import tenseal
    except ImportError as error:
        raise FederationError(
            f"Encrypted sums need TenSEAL, which cannot be loaded here ({error}): install it with "
            "uv pip install tenseal, or use --secure masks."
        ) from error
    return tenseal
