"""What a rule is, and how rules look at resources."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from infra.offline.wire import UNKNOWN, Secret
from infra.resources import Declared

if TYPE_CHECKING:
    from stacks.settings import Settings

Severity = Literal["mandatory", "advisory", "off"]


@dataclass(frozen=True)
class Problem:
    """A violation: the resource (None for the settings) and what is wrong, as a sentence."""

    resource: Declared | None
    sentence: str


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes
    ----------
    name, severity
        What waivers and settings call it; what it does unless the settings say otherwise.
    meaning
        What must hold, as a sentence.
    check
        Yields the violations among all resources; a value that is not known yet violates nothing.
    """

    name: str
    severity: Severity
    meaning: str
    check: Callable[[Sequence[Declared], Settings], Iterator[Problem]]


def of_type(resources: Sequence[Declared], *kinds: str) -> Iterator[Declared]:
    """Resources of one of some types."""
    return (resource for resource in resources if resource.type in kinds)


def at(value: Any, path: str) -> Any:
    """What stands at a dotted path, secrets in clear; None where nothing is, else UNKNOWN."""
    for key in path.split("."):
        value = revealed(value)
        if value is UNKNOWN:
            return UNKNOWN
        if isinstance(value, list):
            value = value[int(key)] if key.isdigit() and int(key) < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return revealed(value)


def revealed(value: Any) -> Any:
    """A value that may be marked as secret, without its mark."""
    return value.value if isinstance(value, Secret) else value


def listed(value: Any) -> list[Any]:
    """The items of a list; a single value as a list, nothing and the unknown as none."""
    value = revealed(value)
    if value is None or value is UNKNOWN:
        return []
    return value if isinstance(value, list) else [value]


def own_machines(resources: Sequence[Declared]) -> Iterator[Declared]:
    """EC2 machines that are described by themselves; a launch template's are described there."""
    for machine in of_type(resources, "aws:ec2/instance:Instance"):
        if machine.inputs.get("launchTemplate") is None:
            yield machine


def true(value: Any) -> bool:
    """Whether a flag is set; the unknown counts as set."""
    return value is UNKNOWN or value is True or value == "true"


def document(value: Any) -> dict[str, Any]:
    """A JSON document given as text or as an object; empty where it is not known yet."""
    value = revealed(value)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def refers_to(resource: Declared, name: str, other: Declared) -> bool:
    """Whether an input comes from another resource, or names it."""
    if other.urn in resource.sources.get(name, ()):
        return True
    given = resource.inputs.get(name)
    return given is not None and given is not UNKNOWN and given == other.inputs.get(name)
