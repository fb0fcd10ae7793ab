"""Commands on this machine; commands on others are left to the official plugin."""

from __future__ import annotations

import os
import secrets
import subprocess

from infra.offline.errors import OfflineError
from infra.offline.resource import Properties, Request, ResourceType

_SHELL = ["/bin/sh", "-c"]
_SHOWN_LINES = 20


def connect(configuration: Properties) -> None:
    """There is nothing to connect to."""


def _run(script: str, inputs: Properties, previous: Properties) -> Properties:
    """Run a script and give its ``stdout`` and ``stderr``, without the last line break."""
    environment = os.environ | (inputs.get("environment") or {})
    if inputs.get("addPreviousOutputInEnv", True):
        for name in ("stdout", "stderr"):
            if previous.get(name) is not None:
                environment[f"PULUMI_COMMAND_{name.upper()}"] = previous[name]
    done = subprocess.run(
        [*(inputs.get("interpreter") or _SHELL), script],
        cwd=inputs.get("dir"),
        env=environment,
        input=inputs.get("stdin") or "",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        # Only what the command said: its text and its environment may hold secrets.
        said = "\n".join(done.stderr.strip().splitlines()[-_SHOWN_LINES:])
        raise OfflineError(f"the command ended with exit status {done.returncode}: {said}")
    return {"stdout": done.stdout.removesuffix("\n"), "stderr": done.stderr.removesuffix("\n")}


def _create(api: None, request: Request) -> tuple[str, Properties]:
    script = request.inputs.get("create")
    outputs = _run(script, request.inputs, {}) if script else {"stdout": "", "stderr": ""}
    return f"command-{secrets.token_hex(8)}", outputs


def _update(api: None, identity: str, new: Properties, old: Properties) -> Properties | None:
    script = new.get("update") or new.get("create")
    return _run(script, new, old) if old and script else None


def _delete(api: None, identity: str, state: Properties) -> None:
    if state.get("delete"):
        _run(state["delete"], state, state)


def _refuse(token: str) -> ResourceType:
    def create(api: None, request: Request) -> tuple[str, Properties]:
        raise OfflineError(
            f"{token} speaks SSH to another machine, which the offline plugin cannot do: deploy to "
            "an environment that uses the official command plugin"
        )

    def delete(api: None, identity: str, state: Properties) -> None:
        create(api, Request("", {}, ""))

    return ResourceType(create=create, read=lambda api, identity, state: {}, delete=delete)


TYPES = {
    "command:local:Command": ResourceType(
        create=_create,
        read=lambda api, identity, state: {},
        delete=_delete,
        configure=_update,
        handled=frozenset(
            {
                "addPreviousOutputInEnv",
                "create",
                "delete",
                "dir",
                "environment",
                "interpreter",
                "logging",
                "stdin",
                "triggers",
                "update",
            }
        ),
        replace_on=("triggers",),
        derived=("stdout", "stderr"),
        volatile=("stdout", "stderr"),
    ),
    "command:remote:Command": _refuse("command:remote:Command"),
    "command:remote:CopyToRemote": _refuse("command:remote:CopyToRemote"),
}
