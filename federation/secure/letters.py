"""Letters from site to site that the server passes on and cannot read."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from federation.errors import FederationError
from federation.keystream import derive


def public(private: bytes) -> bytes:
    """The public half of an X25519 key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, other: bytes) -> bytes:
    """The secret that the holders of two keys share, each with its own private half."""
    try:
        key = X25519PublicKey.from_public_bytes(other)
        return X25519PrivateKey.from_private_bytes(private).exchange(key)
    except ValueError as error:
        raise FederationError("A site sent a public key that is none.") from error


def box(private: bytes, other: bytes, about: str) -> ChaCha20Poly1305:
    """Seals and opens what two sites write to each other about one thing."""
    return ChaCha20Poly1305(derive(agree(private, other), about))
