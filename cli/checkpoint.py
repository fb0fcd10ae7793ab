"""The resources that an environment's state records, read without unsealing its secrets."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cli.environment import Environment, engine_root
from cli.errors import CommandError
from cli.layers import LAYERS
from infra.faults import with_advice
from infra.offline.wire import SECRET_SIGNATURE, SIGNATURE_KEY, UNKNOWN, Secret
from infra.resources import PROVIDERS, Recorded

# Of state files; the engine of `make setup` writes version 3, and 4 where a feature needs it.
NEWEST_VERSION = 4


def recorded(environment: Environment) -> dict[str, Recorded]:
    """Resources of all layers by URN, in the order in which they were made.

    Raises
    ------
    CommandError
        The backend does not answer, or holds what cannot be read.
    """
    found = map(_resource, _entries(environment))
    return {resource.urn: resource for resource in found if resource is not None}


def recorded_names(environment: Environment) -> frozenset[str]:
    """Ids, names and ARNs of everything in the state, also of what waits for its deletion.

    Raises
    ------
    CommandError
        As for `recorded`.
    """
    found: set[str] = set()
    for entry in _entries(environment):
        outputs = entry.get("outputs") or {}
        named = (entry.get("id"), outputs.get("arn"), outputs.get("name"))
        found |= {each for each in named if isinstance(each, str)}
    return frozenset(found)


def _entries(environment: Environment) -> Iterator[dict[str, Any]]:
    """What the states of all layers list, in the order in which it was made."""
    backend = environment.engine_variables().get("PULUMI_BACKEND_URL", "")
    if backend.startswith("file://"):
        root, _, _ = backend.removeprefix("file://").partition("?")
        folder = Path(root) / ".pulumi" / "stacks" / "hybrid"
        states = [_from_file(folder / f"{environment.name}.{layer}.json") for layer in LAYERS]
    elif not environment.project.exists():
        states = []
    else:
        with ThreadPoolExecutor(len(LAYERS)) as pool:
            states = list(pool.map(lambda layer: _from_engine(environment, layer), LAYERS))
    for state in states:
        yield from state.get("resources") or ()


def _from_file(file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text())
        version, latest = int(state.get("version", 1)), state["checkpoint"]["latest"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandError(f"The state file {file} cannot be read: {error}.") from None
    if version > NEWEST_VERSION:
        told = f"The state file {file} cannot be read: unsupported checkpoint version {version}."
        raise CommandError(with_advice(told))
    return latest or {}


def _from_engine(environment: Environment, layer: str) -> dict[str, Any]:
    try:
        exported = subprocess.run(
            [engine_root() / "bin" / "pulumi", "stack", "export", "--non-interactive"]
            + ["--stack", f"{environment.name}.{layer}"],
            cwd=environment.project,
            env=os.environ | environment.engine_variables(),
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise CommandError("The Pulumi engine is not installed: run make setup.") from None
    if exported.returncode == 0:
        return json.loads(exported.stdout)["deployment"] or {}
    if "no stack named" in exported.stderr:
        return {}
    raise CommandError(f"The engine's backend does not answer: {exported.stderr.strip()}")


def _resource(entry: dict[str, Any]) -> Recorded | None:
    """None for what is no declared resource: the stack, default providers, what is only read."""
    kind, name = entry["type"], entry["urn"].rpartition("::")[2]
    made_by_engine = kind == "pulumi:pulumi:Stack" or (
        kind.startswith(PROVIDERS) and name.startswith("default")
    )
    if made_by_engine or entry.get("external") or entry.get("delete"):
        return None
    return Recorded(
        kind,
        entry["urn"],
        entry.get("id", ""),
        entry.get("custom", False),
        _sealed(entry.get("inputs") or {}),
        _sealed(entry.get("outputs") or {}),
        entry.get("protect", False),
    )


def _sealed(value: Any) -> Any:
    """Values with each encrypted one marked as an unknown secret."""
    if isinstance(value, dict):
        if value.get(SIGNATURE_KEY) == SECRET_SIGNATURE:
            return Secret(UNKNOWN)
        return {key: _sealed(item) for key, item in value.items()}
    return [_sealed(item) for item in value] if isinstance(value, list) else value
