"""What differs between resources as declared and as recorded in a state, told without the engine.

Which properties need a new object is read from the tables of the offline plugins; of a type that
they do not know a change counts as one in place.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from infra.offline.install import PACKAGES
from infra.offline.resource import (
    Change,
    ResourceType,
    changes,
    needs_replacement,
    value_at,
    with_value_at,
)
from infra.offline.wire import UNKNOWN, Secret, without_nulls
from infra.resources import PROVIDERS, Declared, Recorded

# What the engine and the official plugins add to inputs.
_ADDED = frozenset({"__defaults", "__internal", "version", "pluginDownloadURL"})
_SEALED = "(secret)"


@dataclass(frozen=True)
class Step:
    """What would be done with one resource.

    Parameters
    ----------
    operation
        create, update, replace, delete or same.
    resource
        As declared; as recorded where it is to be deleted.
    properties
        Inputs that differ.
    replacing
        Those of them that need a new object.
    """

    operation: str
    resource: Declared | Recorded
    properties: tuple[str, ...] = ()
    replacing: tuple[str, ...] = ()


def compare(declared: Sequence[Declared], recorded: Mapping[str, Recorded]) -> list[Step]:
    """Steps from what is recorded to what is declared, deletions last.

    An input that comes from a resource which is created or replaced counts as changed. Two secrets
    count as equal, since a state holds them sealed; so does what is made of secrets of resources
    that stay the same, such as a fingerprint, which is unknown here.
    """
    steps: list[Step] = []
    moved: set[str] = set()
    same: set[str] = set()
    for resource in declared:
        step = _step(resource, recorded.get(resource.urn), moved, same)
        if step.operation in ("create", "replace"):
            moved.add(resource.urn)
        elif step.operation == "same":
            same.add(resource.urn)
        steps.append(step)
    wanted = {resource.urn for resource in declared}
    gone = [old for urn, old in recorded.items() if urn not in wanted]
    return steps + [Step("delete", old) for old in reversed(gone)]


def _step(resource: Declared, old: Recorded | None, moved: set[str], same: set[str]) -> Step:
    if old is None:
        return Step("create", resource)
    if not resource.custom:
        return Step("same", resource)
    entry = _entry(resource.type)
    before = _comparable(old.inputs)
    after = _completed(_comparable(resource.inputs), before, old, entry)
    for name, sources in resource.sources.items():
        if name in after and sources and sources <= same:
            after[name] = _made_known(after[name], before.get(name))
    found = [change for change in changes(before, after) if change.property not in resource.ignored]
    seen = {change.property for change in found}
    found += [
        Change(name, "UPDATE")
        for name, sources in resource.sources.items()
        if sources & moved and name not in seen | resource.ignored
    ]
    if not found:
        return Step("same", resource)
    replacing = [c for c in found if entry and needs_replacement(c, entry.replace_on)]
    return Step(
        "replace" if replacing else "update",
        resource,
        tuple(sorted({change.path for change in found})),
        tuple(sorted({change.path for change in replacing})),
    )


def _completed(
    after: dict[str, Any], before: dict[str, Any], old: Recorded, entry: ResourceType | None
) -> dict[str, Any]:
    """Declared inputs with what the provider had added to the recorded ones."""
    for name in old.inputs.get("__defaults") or ():
        if name in before:
            after.setdefault(name, before[name])
    if entry is not None:
        if entry.name is not None and value_at(after, entry.name) is None:
            after = with_value_at(after, entry.name, value_at(before, entry.name))
        for name, value in entry.defaults.items():
            after.setdefault(name, value)
    return after


def _comparable(inputs: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in inputs.items() if name not in _ADDED}
    return _sealed(without_nulls(kept))


def _sealed(value: Any) -> Any:
    if isinstance(value, Secret):
        return _SEALED
    if isinstance(value, dict):
        return {key: _sealed(item) for key, item in value.items() if key != "__defaults"}
    return [_sealed(item) for item in value] if isinstance(value, list) else value


def _made_known(after: Any, before: Any) -> Any:
    """A declared value with the recorded one in each place where it is unknown."""
    if after is UNKNOWN and before is not None:
        return before
    if isinstance(after, dict) and isinstance(before, dict):
        return {key: _made_known(item, before.get(key)) for key, item in after.items()}
    if isinstance(after, list) and isinstance(before, list) and len(after) == len(before):
        return [_made_known(*pair) for pair in zip(after, before, strict=True)]
    return after


@cache
def _entry(kind: str) -> ResourceType | None:
    package = kind.partition(":")[0]
    if kind.startswith(PROVIDERS) or package not in PACKAGES:
        return None
    return importlib.import_module(f"infra.offline.{package}").TYPES.get(kind)

