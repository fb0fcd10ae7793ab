"""Random numbers that nobody can foretell who lacks the key, and that the key gives again.

A stream of ChaCha20 under a key of its own for each purpose. Privacy takes its noise from one and
secure aggregation its masks: NumPy's and PyTorch's generators can be worked out from a few
hundred of their numbers, and noise that is known can be taken off again.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32


def derive(key: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose (HKDF-SHA256, RFC 5869), which tells nothing of `key`."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=purpose.encode()).derive(key)


class Keystream:
    """The stream of a key for one purpose, read from front to back.

    Parameters
    ----------
    key : bytes
        Secret, of 32 bytes from the operating system or a key agreement.
    purpose : str
        What the numbers are for. Two purposes share no number; the same one gives the same.
    """

    def __init__(self, key: bytes, purpose: str) -> None:
        # The nonce may be constant because the key serves this purpose alone.
        cipher = Cipher(algorithms.ChaCha20(derive(key, purpose), bytes(16)), mode=None)
        self._stream = cipher.encryptor()

    def take(self, count: int) -> bytes:
        """The next bytes."""
        return self._stream.update(bytes(count))

    def words(self, count: int) -> np.ndarray:
        """uint32[count], each value as likely as any other."""
        # Little-endian on every machine: both ends of a mask must read the same numbers.
        return np.frombuffer(self.take(4 * count), "<u4").astype(np.uint32)

    def uniform(self, count: int) -> np.ndarray:
        """float64[count] in (0, 1], of 53 random bits each."""
        words = np.frombuffer(self.take(8 * count), "<u8").astype(np.uint64)
        return ((words >> np.uint64(11)) + np.uint64(1)) * 2.0**-53

    def gaussian(self, count: int) -> np.ndarray:
        """float64[count] of mean 0 and deviation 1 (Box and Muller, 1958), none beyond 8.6."""
        pairs = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log(self.uniform(pairs)))
        angle = 2.0 * np.pi * self.uniform(pairs)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
