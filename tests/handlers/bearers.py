"""Headers with tokens, signed by a key that is made for the tests."""

from __future__ import annotations

import base64
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handlers.tokens import AUDIENCE

KEY = Ed25519PrivateKey.generate()
PUBLIC = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()


def bearer(key: Any = KEY, algorithm: str = "EdDSA", **changes: Any) -> str:
    """A header for `anna`, good for a minute, with these claims changed; None leaves one out."""
    now = int(time.time())
    claims = {"aud": AUDIENCE, "iat": now, "exp": now + 60, "sub": "anna"} | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return f"Bearer {jwt.encode(claims, key, algorithm=algorithm)}"
