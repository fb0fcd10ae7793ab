"""EC2: single machines made from a launch template, and the addresses they are reached by."""

from __future__ import annotations

from infra.offline.aws.api import (
    MARK_TAG,
    Aws,
    gone_is_done,
    is_missing,
    observed_tags,
    tag_list,
)
from infra.offline.aws.ec2 import EIP, change_tags, until
from infra.offline.resource import Properties, Request, ResourceType

_GONE = ("shutting-down", "terminated")


def _find(api: Aws, **query: object) -> Properties | None:
    try:
        answer = api.client("ec2").describe_instances(**query)
    except Exception as error:
        if is_missing(error):
            return None
        raise
    found = (each for group in answer["Reservations"] for each in group["Instances"])
    return next((each for each in found if each["State"]["Name"] not in _GONE), None)


def _create(api: Aws, request: Request) -> tuple[str, Properties]:
    inputs = request.inputs
    found = _find(api, Filters=[{"Name": f"tag:{MARK_TAG}", "Values": [request.mark]}])
    if found is not None:
        return found["InstanceId"], {}
    template = inputs["launchTemplate"]
    tags = tag_list(api.tags(inputs) | {MARK_TAG: request.mark})
    answer = api.client("ec2").run_instances(
        MinCount=1,
        MaxCount=1,
        ClientToken=request.mark,
        LaunchTemplate={"LaunchTemplateId": template["id"], "Version": template["version"]},
        SubnetId=inputs["subnetId"],
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )
    return answer["Instances"][0]["InstanceId"], {}


def _configure(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    if new.get("sourceDestCheck", True) != old.get("sourceDestCheck", True):
        api.client("ec2").modify_instance_attribute(
            InstanceId=identity, SourceDestCheck={"Value": new.get("sourceDestCheck", True)}
        )
    if old:
        change_tags(api, identity, new, old)


def _read(api: Aws, identity: str, state: Properties) -> Properties | None:
    found = _find(api, InstanceIds=[identity])
    if found is None:
        return None
    interfaces = found.get("NetworkInterfaces") or [{}]
    return {
        "arn": api.arn("ec2", f"instance/{identity}"),
        "subnetId": found.get("SubnetId", ""),
        "privateIp": found.get("PrivateIpAddress", ""),
        "sourceDestCheck": found.get("SourceDestCheck", True),
        "primaryNetworkInterfaceId": interfaces[0].get("NetworkInterfaceId", ""),
        "instanceState": found["State"]["Name"],
    } | observed_tags(api, found.get("Tags"))


def _delete(api: Aws, identity: str, state: Properties) -> None:
    with gone_is_done():
        api.client("ec2").terminate_instances(InstanceIds=[identity])
    until(
        lambda: _find(api, InstanceIds=[identity]) is None, f"instance {identity} to be terminated"
    )


def _associate(api: Aws, request: Request) -> tuple[str, Properties]:
    inputs = request.inputs
    answer = api.client("ec2").associate_address(
        AllocationId=inputs["allocationId"],
        InstanceId=inputs["instanceId"],
        AllowReassociation=True,
    )
    return answer["AssociationId"], {}


def _read_association(api: Aws, identity: str, state: Properties) -> Properties | None:
    found = EIP.find(api, state["allocationId"]) or {}
    if found.get("AssociationId") != identity:
        return None
    return {"instanceId": found.get("InstanceId", ""), "publicIp": found["PublicIp"]}


def _disassociate(api: Aws, identity: str, state: Properties) -> None:
    with gone_is_done():
        if _read_association(api, identity, state) is not None:
            api.client("ec2").disassociate_address(AssociationId=identity)


TYPES = {
    "aws:ec2/instance:Instance": ResourceType(
        create=_create,
        read=_read,
        delete=_delete,
        configure=_configure,
        handled=frozenset({"launchTemplate", "subnetId", "sourceDestCheck", "tags", "region"}),
        replace_on=("launchTemplate", "subnetId"),
    ),
    "aws:ec2/eipAssociation:EipAssociation": ResourceType(
        create=_associate,
        read=_read_association,
        delete=_disassociate,
        handled=frozenset({"allocationId", "instanceId", "region"}),
        delete_before_replace=True,
    ),
}
