"""Sums of encrypted vectors, as an alternative to masks: CKKS by TenSEAL (Microsoft SEAL).

The sites share one secret key that the server must not have. They encrypt their vectors, the
server adds the ciphertexts up without a key, and any site decrypts the sum. There is nothing to
mend when a site drops out, and one exchange is enough; but a number takes 30 bytes in the place
of 4, a site that has the key can read what another sends if it gets hold of it, and the result is
close to the sum, not the sum: encryption draws its noise anew each time, so that a round which is
repeated after a crash differs in the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tenseal

from federation.errors import FederationError

# 128 bits of security by the Homomorphic Encryption Standard (2018, table 1: at most 109 bits of
# modulus at degree 4096). One prime holds the numbers; sums need no more.
DEGREE = 4096
PRIMES = (54, 54)
SCALE = 2.0**38
# Beyond this a sum would wrap around the prime.
LARGEST_SUM = 2.0**12


@dataclass(frozen=True)
class Key:
    """A key pair.

    Attributes
    ----------
    secret : bytes
        For the sites alone: encrypts and decrypts.
    public : bytes
        For the server: adds.
    """

    secret: bytes
    public: bytes

    @classmethod
    def new(cls) -> Key:
        """Draw a key pair."""
        context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(PRIMES)
        )
        context.global_scale = SCALE
        parts = {"save_galois_keys": False, "save_relin_keys": False}
        return cls(
            context.serialize(save_secret_key=True, **parts),
            context.serialize(save_secret_key=False, **parts),
        )


def encrypt(key: bytes, vector: np.ndarray) -> list[bytes]:
    """Encrypt float[size] with either key, `DEGREE / 2` numbers to a ciphertext."""
    context = tenseal.context_from(key)
    slots = DEGREE // 2
    return [
        tenseal.ckks_vector(context, vector[start : start + slots]).serialize()
        for start in range(0, len(vector), slots)
    ]


def add(public: bytes, messages: Sequence[Sequence[bytes]]) -> list[bytes]:
    """At the server: the encrypted sum of what sites encrypted.

    Raises
    ------
    FederationError
        If the messages are of different lengths, or one is no ciphertext.
    """
    if len({len(message) for message in messages}) != 1:
        raise FederationError("The sites' encrypted vectors are not of one length.")
    context = tenseal.context_from(public)
    sums = []
    for parts in zip(*messages, strict=True):
        try:
            total, *others = (tenseal.ckks_vector_from(context, part) for part in parts)
            for other in others:
                total += other
        except (ValueError, RuntimeError) as error:
            raise FederationError(f"A site sent no usable ciphertext ({error}).") from error
        sums.append(total.serialize())
    return sums


def decrypt(secret: bytes, message: Sequence[bytes]) -> np.ndarray:
    """At a site: float64[size] that a message holds."""
    context = tenseal.context_from(secret)
    return np.concatenate(
        [tenseal.ckks_vector_from(context, part).decrypt() for part in message] or [np.empty(0)]
    )
