"""How a resource type is declared, and what the engine is told of changes to one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from infra.offline.wire import UNKNOWN

Properties = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What a type's ``create`` is told.

    ``mark`` identifies the creation: it is the same when an interrupted ``up`` is repeated, and
    differs for any other resource and for a replacement.  Put on the cloud object at the moment it
    is made, it lets the repetition find what the interrupted run made but could not record.
    """

    urn: str
    inputs: Properties
    mark: str


@dataclass(frozen=True)
class ResourceType:
    """One entry of a plugin's table.

    Attributes
    ----------
    create
        ``(api, request) -> (id, outputs)``.  Makes the object, or finds the one an interrupted
        run made.
    read
        ``(api, id, state) -> observed``: properties as the cloud has them, merged over ``state``;
        None when the object is gone.
    delete
        ``(api, id, state)``; an object that is gone already is no error.
    configure
        ``(api, id, inputs, old_inputs) -> outputs | None``: carries out what creation left open and
        every change in place; ``old_inputs`` is empty after creation.  None: each change replaces.
    handled
        Input properties that the entry carries out; None stands for all that the SDK declares.
        Others are refused at preview: silence would look like success.
    replace_on
        Properties (dotted paths) whose change needs a new object; ``"*"`` stands for all.
    name
        Property (dotted path) that must be unique; made from the logical name when not given.
    delete_before_replace
        The old and the new object cannot exist side by side, whatever their names.
    secrets
        Outputs that are secret whatever the inputs are.
    derived
        Outputs that are secret as soon as one input is.
    volatile
        Outputs that any update may change, hence not known while one is previewed.
    """

    create: Callable[[Any, Request], tuple[str, Properties]]
    read: Callable[[Any, str, Properties], Properties | None]
    delete: Callable[[Any, str, Properties], None]
    configure: Callable[[Any, str, Properties, Properties], Properties | None] | None = None
    handled: frozenset[str] | None = None
    replace_on: tuple[str, ...] = ("*",)
    name: str | None = None
    delete_before_replace: bool = False
    secrets: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    volatile: tuple[str, ...] = ()
    defaults: Properties = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """A difference between recorded and wanted inputs, at a path such as ``spec.ports[0].port``."""

    path: str
    kind: Literal["ADD", "DELETE", "UPDATE"]

    @property
    def property(self) -> str:
        """The top-level property it lies in."""
        return re.split(r"[.\[]", self.path, maxsplit=1)[0]


def changes(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """Yield the smallest differences; a value not known yet counts as changed."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            inner = f"{path}.{key}" if path else key
            if new.get(key) is None and old.get(key) is not None:
                yield Change(inner, "DELETE")
            elif old.get(key) is None and new.get(key) is not None:
                yield Change(inner, "ADD")
            else:
                yield from changes(old.get(key), new.get(key), inner)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            inner = f"{path}[{index}]"
            if index >= len(new):
                yield Change(inner, "DELETE")
            elif index >= len(old):
                yield Change(inner, "ADD")
            else:
                yield from changes(old[index], new[index], inner)
    elif new is UNKNOWN or old != new:
        yield Change(path, "UPDATE")


def needs_replacement(change: Change, replace_on: tuple[str, ...]) -> bool:
    """Whether the change lies at or below a property of ``replace_on``."""
    if "*" in replace_on:
        return True
    path = re.sub(r"\[\d+\]", "", change.path)
    return any(path == each or path.startswith(f"{each}.") for each in replace_on)


def creation_mark(urn: str, inputs: Properties) -> str:
    """Mark of a creation: a digest of the resource's identity, a dot, one of its inputs."""
    return f"{resource_mark(urn)}.{_digest(json.dumps(inputs, sort_keys=True))[:16]}"


def resource_mark(urn: str) -> str:
    """The part of the mark that all creations of one resource share."""
    return _digest(urn)[:16]


def value_at(properties: Properties, path: str) -> Any:
    """Value at a dotted path; None where there is nothing, UNKNOWN below something unknown."""
    value: Any = properties
    for key in path.split("."):
        if value is UNKNOWN:
            return UNKNOWN
        value = value.get(key) if isinstance(value, dict) else None
    return value


def with_value_at(properties: Properties, path: str, value: Any) -> Properties:
    """A copy of ``properties`` with ``value`` at a dotted path."""
    key, _, rest = path.partition(".")
    return properties | {
        key: with_value_at(properties.get(key) or {}, rest, value) if rest else value
    }


def automatic_name(urn: str, inputs: Properties) -> str:
    """Name for a resource that was given none: logical name, dash, 7 hexadecimal digits.

    The digits follow from the inputs instead of chance, so that a repeated ``up`` asks for the same
    name and a replacement for another.
    """
    digits = _digest(urn + json.dumps(inputs, sort_keys=True, default=repr))[:7]
    return f"{_logical_name(urn)}-{digits}"


def is_automatic_name(urn: str, name: str) -> bool:
    """Whether :func:`automatic_name` made ``name``."""
    return re.fullmatch(rf"{re.escape(_logical_name(urn))}-[0-9a-f]{{7}}", name) is not None


def _logical_name(urn: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", urn.rpartition("::")[2].lower())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def says_the_same(declared: Any, observed: Any) -> bool:
    """Whether the cloud has what was declared.

    The cloud adds defaults, reorders sets and reformats JSON; none of this is drift.
    """
    if isinstance(declared, dict) and isinstance(observed, dict):
        return all(says_the_same(value, observed.get(key)) for key, value in declared.items())
    if isinstance(declared, list) and isinstance(observed, list):
        if len(declared) != len(observed):
            return False
        rest = list(observed)
        for value in declared:
            match = next((i for i, other in enumerate(rest) if says_the_same(value, other)), None)
            if match is None:
                return False
            del rest[match]
        return True
    if declared in (None, "", [], {}, False) and observed in (None, "", [], {}, False):
        return True
    if isinstance(declared, str) and isinstance(observed, str) and declared[:1] in ("{", "["):
        try:
            return json.loads(declared) == json.loads(observed)
        except ValueError:
            return False
    return declared == observed
