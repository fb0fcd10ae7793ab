"""How much a namespace may take: what its pods ask for, summed. Pure: no Pulumi."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

_UNITS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|[KMGT]i)?")


def total(quantities: Iterable[str], times: int = 1) -> str:
    """The sum of Kubernetes quantities, so many times, in the largest unit that divides it.

    Raises
    ------
    ValueError
        One of them is no quantity with one of the units m, Ki, Mi, Gi and Ti.
    """
    value = times * sum(map(_value, quantities), Decimal(0))
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if value and value % _UNITS[unit] == 0:
            return f"{int(value / _UNITS[unit])}{unit}"
    return str(int(value)) if value == int(value) else f"{int(value * 1000)}m"


def quota(
    pods: int, containers: Sequence[Mapping[str, Any]], claims: Sequence[str] = ()
) -> dict[str, str]:
    """The `hard` part of a ResourceQuota for so many pods, all alike, and their volume claims.

    Parameters
    ----------
    pods
        As many as there are at the same time, those of a rolling update included.
    containers
        Of one pod, each with `resources`.
    claims
        Sizes of the volumes.
    """
    hard = {"pods": str(pods), "persistentvolumeclaims": str(len(claims))}
    if claims:
        hard["requests.storage"] = total(claims)
    for key in ("requests", "limits"):
        parts = [container["resources"][key] for container in containers]
        for resource in dict.fromkeys(name for part in parts for name in part):
            asked = [part[resource] for part in parts if resource in part]
            # Devices are asked for by their limit, but a quota knows only their request.
            kind = "requests" if "/" in resource else key
            hard[f"{kind}.{resource}"] = total(asked, pods)
    return hard


def _value(quantity: str) -> Decimal:
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity such as 500m, 2 or 4Gi")
    return Decimal(match[1]) * _UNITS[match[2] or ""]
