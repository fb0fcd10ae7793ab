"""Local commands run; remote ones are left to the official plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.offline.command import TYPES
from infra.offline.errors import OfflineError
from infra.offline.resource import Request

LOCAL = TYPES["command:local:Command"]


def create(**inputs: Any) -> tuple[str, dict[str, Any]]:
    return LOCAL.create(None, Request("urn", inputs, "mark"))


def test_create_update_and_delete_really_run(tmp_path: Path) -> None:
    inputs = {
        "create": 'echo "$GREETING" | tee made; cat',
        "update": 'echo "$GREETING after $PULUMI_COMMAND_STDOUT"',
        "delete": 'mv made "$PULUMI_COMMAND_STDOUT"',
        "environment": {"GREETING": "hello"},
        "stdin": "from outside",
        "dir": str(tmp_path),
    }
    identity, outputs = create(**inputs)
    assert outputs == {"stdout": "hello\nfrom outside", "stderr": ""}
    old = inputs | {"stdout": "first"}
    assert LOCAL.configure is not None
    changed = LOCAL.configure(None, identity, inputs, old)
    assert changed == {"stdout": "hello after first", "stderr": ""}
    LOCAL.delete(None, identity, inputs | {"stdout": "gone"})
    assert [each.name for each in tmp_path.iterdir()] == ["gone"]


def test_another_interpreter(tmp_path: Path) -> None:
    assert create(create="print(6 * 7)", interpreter=["python3", "-c"])[1]["stdout"] == "42"


def test_a_failure_tells_what_the_command_said_and_not_its_text() -> None:
    with pytest.raises(OfflineError, match="exit status 3: oh no") as failed:
        create(create="echo oh no >&2; PASSWORD=hunter2; exit 3")
    assert "hunter2" not in str(failed.value)


@pytest.mark.parametrize("token", ["command:remote:Command", "command:remote:CopyToRemote"])
def test_remote_types_need_the_official_plugin(token: str) -> None:
    with pytest.raises(OfflineError, match=f"{token} speaks SSH.*official command plugin"):
        TYPES[token].create(None, Request("urn", {}, "mark"))
