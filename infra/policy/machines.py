"""Rules on machines: their metadata service, and how many GPUs there can be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from infra.machine_groups import AZURE_GROUP, GCP_BOUNDS, GCP_TEMPLATE
from infra.offline.wire import UNKNOWN
from infra.policy.rule import Problem, at, listed, of_type, own_machines, refers_to
from infra.resources import Declared

# Families with accelerators, as the clouds name them.
GPU_TYPES = re.compile(r"^(p\d|g\d|gr\d|trn\d|inf\d|dl\d|Standard_N[CDGV]|a[234]-)")
GCP_GROUPS = (
    "gcp:compute/instanceGroupManager:InstanceGroupManager",
    "gcp:compute/regionInstanceGroupManager:RegionInstanceGroupManager",
)
GCP_SCALERS = (GCP_BOUNDS, "gcp:compute/regionAutoscaler:RegionAutoscaler")


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
    yield from _of_google(resources)
    for scale_set in of_type(resources, AZURE_GROUP):
        # The cluster autoscaler reads it there; a scale set has no largest size of its own.
        kind = str(scale_set.inputs.get("skuName"))
        if GPU_TYPES.match(kind) and at(scale_set.inputs, "tags.max") is None:
            yield Problem(scale_set, f"it makes machines of type {kind} and has no tag max")


def _of_google(resources: Sequence[Declared]) -> Iterator[Problem]:
    """There the bounds of a group are in a resource of their own."""
    scalers = list(of_type(resources, *GCP_SCALERS))
    for scaler in scalers:
        if at(scaler.inputs, "autoscalingPolicy.maxReplicas") is None:
            yield Problem(scaler, "its autoscalingPolicy has no maxReplicas")
    kinds = {
        template.urn: str(template.inputs.get("machineType"))
        for template in of_type(resources, GCP_TEMPLATE)
    }
    for group in of_type(resources, *GCP_GROUPS):
        found = (kinds.get(urn, "") for urn in group.sources.get("versions", ()))
        kind = next(filter(GPU_TYPES.match, found), None)
        if kind and not any(refers_to(scaler, "target", group) for scaler in scalers):
            yield Problem(group, f"it makes machines of type {kind} and no autoscaler bounds it")
