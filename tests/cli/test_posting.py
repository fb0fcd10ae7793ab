"""`hybrid events`: tokens and keys of who posts and asks for users."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.environment import Environment
from cli.posting import trusted_keys
from handlers.errors import NoCredential, OtherUser
from handlers.tokens import Tokens, open_tokens
from infra.handler_variables import token_variables
from stacks.settings import SHIPPED, load_settings
from tests.cli.ended import ends

BACK_END = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    return tmp_path


def with_events(home: Path, section: dict) -> None:
    settings = yaml.safe_load((SHIPPED / "local.yaml").read_text()) | {"events": section}
    (home / "environments").mkdir(exist_ok=True)
    (home / "environments" / "local.yaml").write_text(yaml.safe_dump(settings))


def service(home: Path) -> Tokens:
    """What TorchServe's workers make of what `hybrid up` tells them."""
    environment = Environment.load("local", home)
    variables = token_variables(
        environment.settings.events.credential, trusted_keys(environment)
    )
    return open_tokens({"HYBRID_SESSIONS": "unix:///nowhere"} | variables)


def printed(capsys, *arguments: str) -> str:
    code, out, _ = ends(capsys, "events", *arguments)
    assert code == 0
    return out.strip()


def test_the_service_takes_the_tokens_that_the_command_prints(home, capsys) -> None:
    anna = f"Bearer {printed(capsys, 'token', '--user', 'anna')}"
    anybody = f"Bearer {printed(capsys, 'token', '--any-user', '--minutes', '1440')}"
    tokens = service(home)
    tokens.require("anna", anna)
    tokens.require("bert", anybody)
    with pytest.raises(OtherUser):
        tokens.require("bert", anna)
    (key,) = home.glob("environments/*.events/*.pem")
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_new_key_signs_and_the_old_ones_tokens_stay_good_until_it_is_removed(
    home, capsys
) -> None:
    old = f"Bearer {printed(capsys, 'token', '--user', 'anna')}"
    printed(capsys, "key", "--rotate")
    service(home).require("anna", old)
    new = f"Bearer {printed(capsys, 'token', '--user', 'anna')}"
    told = json.loads(printed(capsys, "key", "--json"))
    assert len(told["trusted"]) == 2
    for file in Path(told["folder"], "trusted").iterdir():
        file.unlink()
    service(home).require("anna", new)
    with pytest.raises(NoCredential, match="signed by no key"):
        service(home).require("anna", old)


def test_a_back_end_signs_with_a_key_that_the_settings_name(home, capsys) -> None:
    with_events(home, {"keys": [BACK_END]})
    assert printed(capsys, "key").splitlines()[1:] == [BACK_END]
    with_events(home, {"keys": ["c2hvcnQ="]})
    code, _, error = ends(capsys, "events", "key")
    assert code == 2 and "events.keys.0 is 'c2hvcnQ='" in error


def test_where_anybody_may_post_there_are_no_tokens(home, capsys) -> None:
    with_events(home, {"credential": "none"})
    code, _, error = ends(capsys, "events", "token", "--user", "anna")
    assert code == 2 and "anybody may post and ask for everybody" in error
    assert service(home) is None and not list(home.glob("environments/*.events"))


def test_shipped_settings_ask_for_a_token() -> None:
    for name in ("local", "production", "production-gcp", "production-azure"):
        assert load_settings(name, [SHIPPED]).events.credential == "token"


@pytest.mark.parametrize("arguments", [[], ["--user", "u", "--any-user"]])
def test_a_token_is_for_one_user_or_for_any(home, capsys, arguments) -> None:
    code, _, error = ends(capsys, "events", "token", *arguments)
    assert code == 2 and "either --user or --any-user" in error


def test_a_key_that_others_can_read_signs_nothing(home, capsys) -> None:
    printed(capsys, "key")
    (key,) = home.glob("environments/*.events/*.pem")
    key.chmod(0o644)
    code, _, error = ends(capsys, "events", "token", "--user", "anna")
    assert code == 1 and "chmod 600" in error and "hybrid events key --rotate" in error
