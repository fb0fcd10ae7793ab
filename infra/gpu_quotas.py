"""Which of AWS's quotas the GPU pool needs, and how much of each. Pure.

Quotas of machines count vCPUs; codes and names are those of the Service Quotas of EC2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Quota:
    """A quota of service "ec2"."""

    code: str
    name: str


# By the beginning of an instance type's name: on demand, spot.
_QUOTAS = {
    r"(g\d|vt)": (
        Quota("L-DB2E81BA", "Running On-Demand G and VT instances"),
        Quota("L-3819A6DF", "All G and VT Spot Instance Requests"),
    ),
    r"p[234]": (
        Quota("L-417A185B", "Running On-Demand P instances"),
        Quota("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    ),
    r"p5": (
        Quota("L-417A185B", "Running On-Demand P instances"),
        Quota("L-C4BD4855", "All P5 Spot Instance Requests"),
    ),
}


def needed(
    vcpus: Mapping[str, int], *, maximum: int, on_demand_base: int, spot_share: float
) -> dict[Quota, int]:
    """vCPUs of each quota that a full pool needs.

    Parameters
    ----------
    vcpus
        Size of each instance type of the pool. A type of another family than G, VT and P counts
        towards no quota here.
    maximum, on_demand_base, spot_share
        The pool's own settings. Of the types that share a quota the largest is counted.
    """
    base = min(on_demand_base, maximum)
    above = maximum - base
    on_demand = base + math.ceil(above * round(100 * (1 - spot_share)) / 100)
    found: dict[Quota, int] = {}
    for kind, size in vcpus.items():
        for pattern, quotas in _QUOTAS.items():
            if re.match(pattern, kind):
                for quota, machines in zip(quotas, (on_demand, maximum - on_demand), strict=True):
                    if machines:
                        found[quota] = max(found.get(quota, 0), machines * size)
    return found
