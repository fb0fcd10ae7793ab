"""EC2 Auto Scaling groups and their lifecycle hooks."""

from __future__ import annotations

from typing import Any

from infra.offline.aws.api import MARK_TAG, Aws, error_code, gone_is_done
from infra.offline.aws.ec2 import until
from infra.offline.aws.iam import claim
from infra.offline.resource import Properties, Request, ResourceType

_SIZES = {
    "minSize": "MinSize",
    "maxSize": "MaxSize",
    "desiredCapacity": "DesiredCapacity",
    "defaultCooldown": "DefaultCooldown",
    "healthCheckType": "HealthCheckType",
    "healthCheckGracePeriod": "HealthCheckGracePeriod",
    "capacityRebalance": "CapacityRebalance",
    "maxInstanceLifetime": "MaxInstanceLifetime",
    "defaultInstanceWarmup": "DefaultInstanceWarmup",
    "protectFromScaleIn": "NewInstancesProtectedFromScaleIn",
    "terminationPolicies": "TerminationPolicies",
    "serviceLinkedRoleArn": "ServiceLinkedRoleARN",
    "placementGroup": "PlacementGroup",
}
# Say how the official provider waits; nothing to carry out here.
_WAITING = (
    "forceDelete",
    "forceDeleteWarmPool",
    "waitForCapacityTimeout",
    "ignoreFailedScalingActivities",
)


def _find(api: Aws, name: str) -> Properties | None:
    answer = api.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    return next(iter(answer["AutoScalingGroups"]), None)


def _template(template: Properties) -> Properties:
    """A launch template reference; ``id`` and ``launchTemplateId`` are both in use."""
    identity = template.get("id") or template.get("launchTemplateId")
    name = template.get("name") or template.get("launchTemplateName")
    reference = {"LaunchTemplateId": identity} if identity else {"LaunchTemplateName": name}
    if template.get("version"):
        reference["Version"] = template["version"]
    return reference


def _mixed_instances(policy: Properties) -> Properties:
    distribution = policy.get("instancesDistribution") or {}
    template = policy["launchTemplate"]
    mixed: Properties = {
        "LaunchTemplate": {
            "LaunchTemplateSpecification": _template(template["launchTemplateSpecification"])
        }
    }
    overrides = []
    for each in template.get("overrides") or ():
        override = {
            "InstanceType": each.get("instanceType"),
            "WeightedCapacity": each.get("weightedCapacity"),
            "InstanceRequirements": _pascal(each["instanceRequirements"])
            if each.get("instanceRequirements")
            else None,
            "LaunchTemplateSpecification": _template(each["launchTemplateSpecification"])
            if each.get("launchTemplateSpecification")
            else None,
        }
        overrides.append({key: value for key, value in override.items() if value is not None})
    if overrides:
        mixed["LaunchTemplate"]["Overrides"] = overrides
    if distribution:
        mixed["InstancesDistribution"] = _pascal(distribution)
    return mixed


def _pascal(value: Any) -> Any:
    if isinstance(value, dict):
        return {name[0].upper() + name[1:]: _pascal(item) for name, item in value.items()}
    return [_pascal(item) for item in value] if isinstance(value, list) else value


def _parameters(inputs: Properties) -> Properties:
    parameters = {key: inputs[name] for name, key in _SIZES.items() if inputs.get(name) is not None}
    if inputs.get("vpcZoneIdentifiers"):
        parameters["VPCZoneIdentifier"] = ",".join(inputs["vpcZoneIdentifiers"])
    if inputs.get("availabilityZones"):
        parameters["AvailabilityZones"] = inputs["availabilityZones"]
    if inputs.get("launchTemplate"):
        parameters["LaunchTemplate"] = _template(inputs["launchTemplate"])
    if inputs.get("mixedInstancesPolicy"):
        parameters["MixedInstancesPolicy"] = _mixed_instances(inputs["mixedInstancesPolicy"])
    return parameters


def _tags(api: Aws, name: str, inputs: Properties) -> list[Properties]:
    """The group's tags as the API takes them; the provider's default tags do not apply here."""
    return [
        {
            "ResourceId": name,
            "ResourceType": "auto-scaling-group",
            "Key": tag["key"],
            "Value": tag["value"],
            "PropagateAtLaunch": tag["propagateAtLaunch"],
        }
        for tag in inputs.get("tags") or ()
    ]


def _create(api: Aws, request: Request) -> tuple[str, Properties]:
    inputs, name = request.inputs, request.inputs["name"]
    found = _find(api, name)
    if found is not None:
        claim(request, "Auto Scaling group", name, found.get("Tags"))
        return name, {}
    mark = {
        "ResourceId": name,
        "ResourceType": "auto-scaling-group",
        "Key": MARK_TAG,
        "Value": request.mark,
        "PropagateAtLaunch": False,
    }
    api.client("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName=name, Tags=[*_tags(api, name, inputs), mark], **_parameters(inputs)
    )
    return name, {}


def _configure(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    autoscaling = api.client("autoscaling")
    if old:
        autoscaling.update_auto_scaling_group(AutoScalingGroupName=identity, **_parameters(new))
        wanted, present = _tags(api, identity, new), _tags(api, identity, old)
        keys = {tag["Key"] for tag in wanted}
        if removed := [tag for tag in present if tag["Key"] not in keys]:
            autoscaling.delete_tags(Tags=removed)
        if wanted and wanted != present:
            autoscaling.create_or_update_tags(Tags=wanted)
    suspended, before = (
        set(new.get("suspendedProcesses") or ()),
        set(old.get("suspendedProcesses") or ()),
    )
    if suspended - before:
        autoscaling.suspend_processes(
            AutoScalingGroupName=identity, ScalingProcesses=sorted(suspended - before)
        )
    if before - suspended:
        autoscaling.resume_processes(
            AutoScalingGroupName=identity, ScalingProcesses=sorted(before - suspended)
        )
    metrics, before = set(new.get("enabledMetrics") or ()), set(old.get("enabledMetrics") or ())
    if metrics - before:
        autoscaling.enable_metrics_collection(
            AutoScalingGroupName=identity,
            Metrics=sorted(metrics),
            Granularity=new.get("metricsGranularity", "1Minute"),
        )


def _read(api: Aws, identity: str, state: Properties) -> Properties | None:
    found = _find(api, identity)
    if found is None or found.get("Status") == "Delete in progress":
        return None
    observed = {name: found[key] for name, key in _SIZES.items() if found.get(key) is not None}
    observed |= {
        "name": found["AutoScalingGroupName"],
        "arn": found["AutoScalingGroupARN"],
        "availabilityZones": found["AvailabilityZones"],
        "vpcZoneIdentifiers": [each for each in found["VPCZoneIdentifier"].split(",") if each],
        "tags": [
            {
                "key": tag["Key"],
                "value": tag.get("Value", ""),
                "propagateAtLaunch": bool(tag["PropagateAtLaunch"]),
            }
            for tag in found.get("Tags") or ()
            if tag["Key"] != MARK_TAG
        ],
    }
    return observed


def _delete(api: Aws, identity: str, state: Properties) -> None:
    if _find(api, identity) is None:
        return
    autoscaling = api.client("autoscaling")
    force = bool(state.get("forceDelete"))
    if not force:  # drained first: instances hold security groups and subnets
        autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=identity, MinSize=0, MaxSize=0, DesiredCapacity=0
        )
        until(
            lambda: not (_find(api, identity) or {"Instances": []})["Instances"],
            f"the Auto Scaling group {identity} to terminate its instances",
        )
    try:
        with gone_is_done():
            autoscaling.delete_auto_scaling_group(AutoScalingGroupName=identity, ForceDelete=force)
    except Exception as error:
        if error_code(error) != "ValidationError" or _find(api, identity) is not None:
            raise
    until(lambda: _find(api, identity) is None, f"the Auto Scaling group {identity} to be deleted")


_HOOK = {
    "defaultResult": "DefaultResult",
    "heartbeatTimeout": "HeartbeatTimeout",
    "lifecycleTransition": "LifecycleTransition",
    "notificationMetadata": "NotificationMetadata",
    "notificationTargetArn": "NotificationTargetARN",
    "roleArn": "RoleARN",
}


def _put_hook(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    api.client("autoscaling").put_lifecycle_hook(
        LifecycleHookName=identity,
        AutoScalingGroupName=new["autoscalingGroupName"],
        **{key: new[name] for name, key in _HOOK.items() if new.get(name) is not None},
    )


def _read_hook(api: Aws, identity: str, state: Properties) -> Properties | None:
    group = state["autoscalingGroupName"]
    if _find(api, group) is None:
        return None
    answer = api.client("autoscaling").describe_lifecycle_hooks(
        AutoScalingGroupName=group, LifecycleHookNames=[identity]
    )
    for hook in answer["LifecycleHooks"]:
        return {name: hook[key] for name, key in _HOOK.items() if hook.get(key)} | {
            "name": identity,
            "autoscalingGroupName": group,
        }
    return None


def _delete_hook(api: Aws, identity: str, state: Properties) -> None:
    if _read_hook(api, identity, state) is not None:
        api.client("autoscaling").delete_lifecycle_hook(
            LifecycleHookName=identity, AutoScalingGroupName=state["autoscalingGroupName"]
        )


TYPES = {
    "aws:autoscaling/lifecycleHook:LifecycleHook": ResourceType(
        create=lambda api, request: (request.inputs["name"], {}),
        read=_read_hook,
        delete=_delete_hook,
        configure=_put_hook,
        handled=frozenset({*_HOOK, "autoscalingGroupName", "name"}),
        replace_on=("autoscalingGroupName", "name", "lifecycleTransition"),
        name="name",
    ),
    "aws:autoscaling/group:Group": ResourceType(
        create=_create,
        read=_read,
        delete=_delete,
        configure=_configure,
        handled=frozenset(
            {
                *_SIZES,
                *_WAITING,
                "availabilityZones",
                "enabledMetrics",
                "launchTemplate",
                "metricsGranularity",
                "mixedInstancesPolicy",
                "name",
                "region",
                "suspendedProcesses",
                "tags",
                "vpcZoneIdentifiers",
            }
        ),
        replace_on=("name",),
        name="name",
    ),
}
