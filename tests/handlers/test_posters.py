"""Who may post events for whom."""

from __future__ import annotations

import base64
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handlers.errors import NoCredential, OtherUser
from handlers.posters import AUDIENCE, Posters, open_posters
from handlers.tracing import Origin
from infra.handler_variables import posting_variables

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PUBLIC = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
STORE = {"HYBRID_SESSIONS": "unix:///nowhere"}


def bearer(key: Any = KEY, algorithm: str = "EdDSA", **changes: Any) -> str:
    """A header for `anna`, good for a minute, with these claims changed; None leaves one out."""
    now = int(time.time())
    claims = {"aud": AUDIENCE, "iat": now, "exp": now + 60, "sub": "anna"} | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return f"Bearer {jwt.encode(claims, key, algorithm=algorithm)}"


@pytest.fixture
def posters() -> Posters:
    found = open_posters(STORE | posting_variables("token", [PUBLIC]))
    assert found is not None
    return found


def test_a_token_lets_its_user_post_and_a_back_ends_any(posters: Posters) -> None:
    posters.require("anna", bearer())
    posters.require("anna", bearer().replace("Bearer", "bearer"))
    posters.require("whoever", bearer(sub=None, any_user=True))


@pytest.mark.parametrize("changes", [{}, {"sub": None}, {"sub": None, "any_user": "yes"}])
def test_nobody_posts_for_another_user(posters: Posters, changes: dict) -> None:
    with pytest.raises(OtherUser, match="for another user"):
        posters.require("bert", bearer(**changes))


@pytest.mark.parametrize("header", ["", "Basic YW5uYTp4", "Bearer"])
def test_without_a_token_nobody_posts(posters: Posters, header: str) -> None:
    with pytest.raises(NoCredential, match="with a token only"):
        posters.require("anna", header)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"key": OTHER}, "signed by no key"),
        # Whoever knows the public key could sign these, were the kind of signature theirs to choose.
        ({"key": PUBLIC, "algorithm": "HS256"}, "not good"),
        ({"key": None, "algorithm": "none"}, "not good"),
        ({"from_now": {"exp": -60}}, "has expired"),
        ({"from_now": {"iat": 3600}}, "not good"),
        ({"from_now": {"exp": 86460}}, "more than 86400 seconds"),
        ({"exp": None}, "not good"),
        ({"iat": None}, "not good"),
        ({"aud": "something-else"}, "not good"),
        ({"aud": None}, "not good"),
    ],
)
def test_what_is_no_good_token_is_refused(posters: Posters, how: dict, sentence: str) -> None:
    times = {name: int(time.time()) + after for name, after in how.get("from_now", {}).items()}
    with pytest.raises(NoCredential, match=sentence):
        posters.require("anna", bearer(**{n: v for n, v in how.items() if n != "from_now"}, **times))
    with pytest.raises(NoCredential, match="not good"):
        posters.require("anna", "Bearer nonsense")


def test_without_a_key_nobody_may_post_and_only_an_explicit_word_lets_everybody() -> None:
    for variables in (posting_variables("token", []), {}):
        closed = open_posters(STORE | variables)
        with pytest.raises(NoCredential):
            closed.require("anna", bearer())
    assert open_posters(STORE | posting_variables("none", [])) is None
    # Where events are kept nowhere the answer says so.
    assert open_posters(posting_variables("token", [PUBLIC])) is None


def test_no_log_shows_a_token() -> None:
    origin = Origin.of({"Authorization": "Bearer secret"})
    assert origin.authorization == "Bearer secret" and "secret" not in repr(origin)
