"""Who may post and ask for whom."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handlers.errors import NoCredential, OtherUser
from handlers.tokens import Tokens, open_tokens
from handlers.tracing import Origin
from infra.handler_variables import token_variables
from tests.handlers.bearers import PUBLIC, bearer

OTHER = Ed25519PrivateKey.generate()
STORE = {"HYBRID_SESSIONS": "unix:///nowhere"}


@pytest.fixture
def tokens() -> Tokens:
    found = open_tokens(STORE | token_variables("token", [PUBLIC]))
    assert found is not None
    return found


def test_a_token_lets_its_user_post_and_a_back_ends_any(tokens: Tokens) -> None:
    tokens.require("anna", bearer())
    tokens.require("anna", bearer().replace("Bearer", "bearer"))
    tokens.require("whoever", bearer(sub=None, any_user=True))
    tokens.require("anna", bearer(exp=str(int(time.time()) + 60)))


@pytest.mark.parametrize("changes", [{}, {"sub": None}, {"sub": None, "any_user": "yes"}])
def test_nobody_posts_for_another_user(tokens: Tokens, changes: dict) -> None:
    with pytest.raises(OtherUser, match="for another user"):
        tokens.require("bert", bearer(**changes))


@pytest.mark.parametrize("header", ["", "Basic YW5uYTp4", "Bearer", "Bearer \udc80"])
def test_without_a_token_nobody_posts(tokens: Tokens, header: str) -> None:
    with pytest.raises(NoCredential, match="needs a token"):
        tokens.require("anna", header)


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
def test_what_is_no_good_token_is_refused(tokens: Tokens, how: dict, sentence: str) -> None:
    times = {name: int(time.time()) + after for name, after in how.get("from_now", {}).items()}
    with pytest.raises(NoCredential, match=sentence):
        tokens.require("anna", bearer(**{n: v for n, v in how.items() if n != "from_now"}, **times))
    with pytest.raises(NoCredential, match="not good"):
        tokens.require("anna", "Bearer nonsense")


def test_without_a_key_nobody_may_post_and_only_an_explicit_word_lets_everybody() -> None:
    for variables in (token_variables("token", []), {}):
        closed = open_tokens(STORE | variables)
        with pytest.raises(NoCredential):
            closed.require("anna", bearer())
    assert open_tokens(STORE | token_variables("none", [])) is None
    # Where events are kept nowhere the answer says so.
    assert open_tokens(token_variables("token", [PUBLIC])) is None


def test_no_log_shows_a_token() -> None:
    origin = Origin.of({"Authorization": "Bearer secret"})
    assert origin.authorization == "Bearer secret" and "secret" not in repr(origin)
