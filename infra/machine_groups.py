"""Groups of machines as the clouds' resources declare them, told in one way for all clouds.

Pure: reads inputs of resources; a value that is not known yet counts as absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from infra.policy.rule import at, listed
from infra.resources import Declared, Recorded

Resource = Declared | Recorded

AWS_GROUP = "aws:autoscaling/group:Group"
AWS_TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
# Google's autoscaler has the bounds of a group; a template has its name without the zone's letter.
GCP_BOUNDS = "gcp:compute/autoscaler:Autoscaler"
GCP_TEMPLATE = "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"
AZURE_GROUP = (
    "azure:compute/orchestratedVirtualMachineScaleSet:OrchestratedVirtualMachineScaleSet"
)


@dataclass(frozen=True)
class MachineGroup:
    """Sizes of a group, its machines' types, which of them are on demand, the disk of each.

    Attributes
    ----------
    base, on_demand
        Machines that are on demand in any case; of those above, the share from 0 to 1.
    volume
        GiB.
    """

    cloud: Literal["aws", "gcp", "azure"]
    minimum: int
    maximum: int
    kinds: tuple[str, ...]
    base: int
    on_demand: float
    volume: float


def machine_group(resource: Resource, everything: Sequence[Resource]) -> MachineGroup | None:
    """The group that a resource stands for; None for one that is no group."""
    read = {AWS_GROUP: _aws, GCP_BOUNDS: _gcp, AZURE_GROUP: _azure}.get(resource.type)
    return None if read is None else read(resource, everything)


def _aws(resource: Resource, everything: Sequence[Resource]) -> MachineGroup:
    inputs = resource.inputs
    policy = inputs.get("mixedInstancesPolicy")
    share = at(policy, "instancesDistribution.onDemandPercentageAboveBaseCapacity")
    return MachineGroup(
        "aws",
        int(inputs.get("minSize") or 0),
        int(inputs.get("maxSize") or 0),
        tuple(str(at(o, "instanceType")) for o in listed(at(policy, "launchTemplate.overrides"))),
        int(at(policy, "instancesDistribution.onDemandBaseCapacity") or 0),
        float(100 if share is None else share) / 100,
        max((size for r in everything if r.type == AWS_TEMPLATE for size in _volumes(r)), default=0),
    )


def _gcp(resource: Resource, everything: Sequence[Resource]) -> MachineGroup:
    name = _name(resource).rpartition("-")[0]
    template: Mapping[str, Any] = next(
        (r.inputs for r in everything if r.type == GCP_TEMPLATE and _name(r) == name), {}
    )
    policy = resource.inputs.get("autoscalingPolicy")
    spot = at(template, "scheduling.provisioningModel") == "SPOT"
    kind = template.get("machineType")
    return MachineGroup(
        "gcp",
        int(at(policy, "minReplicas") or 0),
        int(at(policy, "maxReplicas") or 0),
        (str(kind),) if kind else (),
        0,
        0.0 if spot else 1.0,
        sum(float(at(disk, "diskSizeGb") or 0) for disk in listed(template.get("disks"))),
    )


def _azure(resource: Resource, everything: Sequence[Resource]) -> MachineGroup:
    inputs = resource.inputs
    spot = inputs.get("priority") == "Spot"
    share = at(inputs, "priorityMix.regularPercentageAboveBase")
    # Bounds are the cluster autoscaler's business, which reads them from these tags.
    return MachineGroup(
        "azure",
        int(at(inputs, "tags.min") or 0),
        int(at(inputs, "tags.max") or 0),
        (str(inputs.get("skuName")),),
        int(at(inputs, "priorityMix.baseRegularCount") or 0),
        float(share or 0) / 100 if spot else 1.0,
        float(at(inputs, "osDisk.diskSizeGb") or 0),
    )


def _volumes(template: Resource) -> Iterator[float]:
    for mapping in listed(template.inputs.get("blockDeviceMappings")):
        size = at(mapping, "ebs.volumeSize")
        if isinstance(size, (int, float)):
            yield float(size)


def _name(resource: Resource) -> str:
    return resource.urn.rpartition("::")[2]
