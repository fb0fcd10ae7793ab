"""What an operation does or would do to the layers of an environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CHANGING = ("create", "update", "replace", "delete")


@dataclass(frozen=True)
class Change:
    """One step of a plan.

    Parameters
    ----------
    layer, type, name
        Which resource.
    operation
        create, update, replace or delete.
    properties
        Inputs that differ, for an update or a replacement.
    replacing
        Those of them for which a new object is needed.
    """

    layer: str
    operation: str
    type: str
    name: str
    properties: list[str]
    replacing: list[str] = field(default_factory=list)


@dataclass
class LayerResult:
    """What an operation did to one layer, how many resources it has, and what it gives others."""

    layer: str
    changes: list[Change] = field(default_factory=list)
    resources: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)
