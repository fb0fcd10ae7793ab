"""Who may post and ask for a user: whoever has a token that names the user, signed by a trusted key.

A request concerns a user where it brings what the user did, or is answered by what is known of that.

A token is a JSON Web Token (RFC 7519), signed with Ed25519, in the header ``Authorization: Bearer``.
Its claims: ``aud`` is `AUDIENCE`; ``iat`` and ``exp`` are no further apart than `MOST_SECONDS`; and
``sub`` is the user, or ``any_user`` is true, for a back-end that posts for all.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from handlers.errors import NoCredential, OtherUser

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

AUDIENCE = "hybrid-events"
MOST_SECONDS = 86400
# Clocks of who signs and of who checks differ by no more.
LEEWAY_SECONDS = 30


class Tokens:
    """Checks tokens.

    Parameters
    ----------
    keys
        Of those whose tokens are good.
    """

    def __init__(self, keys: Sequence[Ed25519PublicKey]) -> None:
        self.keys = keys

    def require(self, user: str, authorization: str) -> None:
        """Let pass who may post and ask for a user.

        Parameters
        ----------
        authorization
            The request's header of that name; empty where it has none.

        Raises
        ------
        NoCredential
            There is no token, or not a good one.
        OtherUser
            The token is good, and for another user.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip() or not token.isascii():
            raise NoCredential(
                "Who posts or asks for a user needs a token: send the header Authorization: Bearer "
                "TOKEN, with one that names the user."
            )
        claims = self._claims(token.strip())
        if claims.get("any_user") is not True and claims.get("sub") != user:
            raise OtherUser("The token is for another user than the request.")

    def _claims(self, token: str) -> dict[str, Any]:
        import jwt

        for key in self.keys:
            try:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=["EdDSA"],
                    audience=AUDIENCE,
                    leeway=LEEWAY_SECONDS,
                    options={"require": ["aud", "exp", "iat"]},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise NoCredential("The token has expired: get a new one.") from None
            except jwt.InvalidTokenError as error:
                raise NoCredential(f"The token is not good: {str(error).rstrip('.')}.") from None
            # PyJWT takes numbers in quotes too.
            if int(claims["exp"]) - int(claims["iat"]) > MOST_SECONDS:
                raise NoCredential(
                    f"The token lives for more than {MOST_SECONDS} seconds: get a shorter one."
                )
            return claims
        raise NoCredential("The token is signed by no key that this service trusts.")


def tokens_of(keys: Iterable[str]) -> Tokens:
    """A `Tokens` of public keys, each 32 bytes in base64."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Tokens([Ed25519PublicKey.from_public_bytes(base64.b64decode(key)) for key in keys])


def open_tokens(variables: Mapping[str, str] = os.environ) -> Tokens | None:
    """What the service was started with; None where no user is known, or anybody may ask.

    Parameters
    ----------
    variables
        ``HYBRID_EVENTS_KEYS``: public keys as `tokens_of` takes them, parted by spaces; without one
        no token is good. ``HYBRID_EVENTS``: ``anybody`` lets everybody post and ask for everybody.
        Where there is no ``HYBRID_SESSIONS``, events are kept nowhere.
    """
    if not variables.get("HYBRID_SESSIONS") or variables.get("HYBRID_EVENTS") == "anybody":
        return None
    return tokens_of(variables.get("HYBRID_EVENTS_KEYS", "").split())
