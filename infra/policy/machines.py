"""Rules on machines: their metadata service, and how many GPUs there can be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from infra.offline.wire import UNKNOWN
from infra.policy.rule import Problem, at, listed, of_type, own_machines
from infra.resources import Declared

# Families with accelerators, as EC2 and Azure name them.
GPU_TYPES = re.compile(r"^(p\d|g\d|gr\d|trn\d|inf\d|dl\d|Standard_N[CDGV])")


def imds_v1(resources: Sequence[Declared], settings: Any) -> Iterator[Problem]:
    """Machines whose metadata service gives the role's credentials without a session."""
    templates = of_type(resources, "aws:ec2/launchTemplate:LaunchTemplate")
    for resource in (*templates, *own_machines(resources)):
        if at(resource.inputs, "metadataOptions.httpTokens") not in ("required", UNKNOWN):
            yield Problem(resource, "its metadataOptions.httpTokens is not 'required'")


def gpu_maximum(resources: Sequence[Declared], settings: Any) -> Iterator[Problem]:
    """Groups of GPU machines that may grow without end."""
    for group in of_type(resources, "aws:autoscaling/group:Group"):
        overrides = listed(at(group.inputs, "mixedInstancesPolicy.launchTemplate.overrides"))
        kinds = [kind for o in overrides if isinstance(kind := at(o, "instanceType"), str)]
        if any(map(GPU_TYPES.match, kinds)) and group.inputs.get("maxSize") is None:
            yield Problem(group, f"it makes machines of type {kinds[0]} and has no maxSize")
    for scaler in resources:
        if scaler.type.startswith("gcp:compute/") and scaler.type.endswith("utoscaler"):
            if at(scaler.inputs, "autoscalingPolicy.maxReplicas") is None:
                yield Problem(scaler, "its autoscalingPolicy has no maxReplicas")
    for setting in of_type(resources, "azure:monitoring/autoscaleSetting:AutoscaleSetting"):
        for profile in listed(setting.inputs.get("profiles")):
            if at(profile, "capacity.maximum") is None:
                yield Problem(setting, "a profile of it has no capacity.maximum")
