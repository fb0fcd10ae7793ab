"""Tokens by which clients may post and ask for users, and the keys that sign them."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING

from cli.environment import Environment
from cli.errors import CommandError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def trusted_keys(environment: Environment) -> list[str]:
    """Public keys whose tokens the service takes, the environment's own among them, in base64.

    That one is made if there is none. Where anybody may post and ask there are no keys.

    Raises
    ------
    StoreError
        A key cannot be made or read, or others can read the private one.
    """
    events = environment.settings.events
    if events.anybody:
        return []
    keys = environment.posting_keys()
    keys.own()
    return [*map(in_base64, keys.trusted().values()), *events.keys]


def token(environment: Environment, user: str | None, minutes: int) -> str:
    """A token to post and ask for a user, or for all users with None, for so many minutes.

    Raises
    ------
    CommandError
        In this environment anybody may post and ask.
    StoreError
        As `trusted_keys`.
    """
    import jwt

    from handlers.tokens import AUDIENCE

    if environment.settings.events.anybody:
        raise CommandError(
            f"In {environment.name} anybody may post and ask for everybody, since its settings have "
            "events.credential none: no token is wanted.",
            2,
        )
    now = int(time.time())
    whom = {"any_user": True} if user is None else {"sub": user}
    claims = {"aud": AUDIENCE, "iat": now, "exp": now + 60 * minutes} | whom
    return jwt.encode(claims, environment.posting_keys().own(), algorithm="EdDSA")


def in_base64(key: Ed25519PublicKey) -> str:
    """A public key as the settings' `events.keys` has it."""
    return base64.b64encode(key.public_bytes_raw()).decode()
