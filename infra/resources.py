"""Resources as programs declare them and as a state records them: what planners and rules read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The engine's own name for the type of all providers begins so.
PROVIDERS = "pulumi:providers:"


@dataclass(frozen=True)
class Declared:
    """A resource that a program declares.

    Parameters
    ----------
    layer, type, name, urn
        Which resource.
    custom
        Whether a provider makes it; else it is a component, which only groups others.
    inputs
        By the engine's names; :data:`infra.offline.wire.UNKNOWN` and ``Secret`` mark values.
    sources
        By input, URNs of the resources that it comes from.
    ignored
        Inputs whose change is ignored.
    """

    layer: str
    type: str
    name: str
    urn: str
    custom: bool
    inputs: Mapping[str, Any]
    sources: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Recorded:
    """A resource in a state: what it is, its id, its inputs and outputs by the engine's names."""

    type: str
    urn: str
    id: str
    custom: bool
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    protect: bool = False
