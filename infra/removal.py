"""Removing what the engine's state does not know, in an order that the services accept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from botocore.exceptions import ClientError
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception,
    retry_if_result,
    stop_after_delay,
    wait_exponential,
)

from infra.clients import Aws, Gcs
from infra.holdings import empty_gcs, empty_s3
from infra.listers import Found

# An instance takes minutes to stop, and its interface goes after it.
PATIENCE_SECONDS = 900.0
_IN_USE = ("DependencyViolation", "DeleteConflict", "ResourceInUse", "InUse", "IncorrectState")


class RemovalError(Exception):
    """Something that cannot be removed, or does not go in time."""

    exit_code = 1


def remove(found: Iterable[Found], aws: Aws, gcs: Gcs) -> None:
    """Remove objects, given in the order of the listers; wait for each until it is gone.

    Raises
    ------
    RemovalError
        A service refuses, or something does not go: the sentence names it.
    """
    for each in found:
        take = _remove_gcs if each.service == "gcs" else _TAKE.get(each.kind)
        if take is None:
            raise RemovalError(f"There is no way known to remove {each}: remove it by hand.")
        try:
            _patiently(lambda: take(gcs if each.service == "gcs" else aws, each.identity))
        except ClientError as error:
            raise RemovalError(f"{each} cannot be removed: {error}") from None


def strip(found: Iterable[Found], aws: Aws) -> None:
    """Take policies and keys off roles and users, and subnets off route tables.

    None of these has a tag, so that one which is in no state is not found by itself; and while one
    is left, what it hangs on cannot be deleted.
    """
    for each in found:
        if each.kind == "role":
            strip_policies(aws("iam"), "role", each.identity)
        elif each.kind == "user":
            _strip_user(aws, each.identity)
        elif each.kind == "route table":
            _leave_subnets(aws, each.identity)


def drain(aws: Aws, group: str) -> None:
    """Bring a group to zero instances, and wait until they and their interfaces are gone.

    The security groups of the instances cannot be deleted before. What would hold the instances
    goes first: lifecycle hooks (to delete one completes what waits for it), protection from
    scaling in, and processes that somebody suspended.
    """
    autoscaling = aws("autoscaling")
    hooks = autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=group)["LifecycleHooks"]
    for hook in hooks:
        autoscaling.delete_lifecycle_hook(
            AutoScalingGroupName=group, LifecycleHookName=hook["LifecycleHookName"]
        )
    autoscaling.resume_processes(AutoScalingGroupName=group)
    instances = _instances(aws, group)
    if protected := [each["InstanceId"] for each in instances if each.get("ProtectedFromScaleIn")]:
        autoscaling.set_instance_protection(
            AutoScalingGroupName=group, InstanceIds=protected, ProtectedFromScaleIn=False
        )
    autoscaling.update_auto_scaling_group(
        AutoScalingGroupName=group, MinSize=0, MaxSize=0, DesiredCapacity=0
    )
    _until(lambda: not _instances(aws, group), f"the instances of group {group} to terminate")
    # The group lets go of an instance before EC2 has ended it.
    ids = [each["InstanceId"] for each in instances]
    _until(lambda: not _alive(aws, ids), f"instances {', '.join(ids)} to terminate")
    _until(lambda: not _interfaces(aws, ids), f"the interfaces of {', '.join(ids)} to go")


def _instances(aws: Aws, group: str) -> list[dict[str, Any]]:
    answer = aws("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[group])
    return [each for found in answer["AutoScalingGroups"] for each in found["Instances"]]


def _alive(aws: Aws, ids: list[str]) -> bool:
    if not ids:
        return False
    names = {"Name": "instance-id", "Values": ids}
    running = {
        "Name": "instance-state-name",
        "Values": ["pending", "running", "stopping", "stopped", "shutting-down"],
    }
    return bool(aws("ec2").describe_instances(Filters=[names, running])["Reservations"])


def _interfaces(aws: Aws, ids: list[str]) -> bool:
    """Whether interfaces are still there that go along with their instances."""
    if not ids:
        return False
    attached = {"Name": "attachment.instance-id", "Values": ids}
    found = aws("ec2").describe_network_interfaces(Filters=[attached])["NetworkInterfaces"]
    return any(each["Attachment"]["DeleteOnTermination"] for each in found)


def _until(holds: Callable[[], bool], what: str) -> None:
    try:
        Retrying(
            retry=retry_if_result(lambda result: not result),
            wait=wait_exponential(0.2, max=10),
            stop=stop_after_delay(PATIENCE_SECONDS),
        )(holds)
    except RetryError:
        minutes = PATIENCE_SECONDS / 60
        raise RemovalError(
            f"Waited {minutes:.0f} minutes in vain for {what}: look at it in the console, then "
            "run the command again."
        ) from None


def _patiently(call: Callable[[], Any]) -> None:
    """Call until nothing holds the object any more; an object that is gone is no error."""
    in_use = retry_if_exception(lambda error: any(word in _code(error) for word in _IN_USE))
    try:
        Retrying(
            retry=in_use,
            wait=wait_exponential(0.5, max=10),
            stop=stop_after_delay(PATIENCE_SECONDS),
            reraise=True,
        )(call)
    except ClientError as error:
        code = _code(error)
        if not (code.endswith((".NotFound", "NotFoundException")) or code.startswith("NoSuch")):
            raise


def _code(error: BaseException) -> str:
    return getattr(error, "response", {}).get("Error", {}).get("Code", "")


def _remove_group(aws: Aws, name: str) -> None:
    drain(aws, name)
    aws("autoscaling").delete_auto_scaling_group(AutoScalingGroupName=name)
    _until(
        lambda: not aws("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])[
            "AutoScalingGroups"
        ],
        f"group {name} to be deleted",
    )


def _terminate(aws: Aws, identity: str) -> None:
    if not _alive(aws, [identity]):
        return  # with its group
    aws("ec2").modify_instance_attribute(
        InstanceId=identity, DisableApiTermination={"Value": False}
    )
    aws("ec2").terminate_instances(InstanceIds=[identity])
    _until(lambda: not _alive(aws, [identity]), f"instance {identity} to terminate")
    _until(lambda: not _interfaces(aws, [identity]), f"the interfaces of {identity} to go")


def _remove_nat(aws: Aws, identity: str) -> None:
    ec2 = aws("ec2")
    gateway = ec2.describe_nat_gateways(NatGatewayIds=[identity])["NatGateways"][0]
    ec2.delete_nat_gateway(NatGatewayId=identity)
    _until(
        lambda: all(
            each["State"] == "deleted"
            for each in ec2.describe_nat_gateways(NatGatewayIds=[identity])["NatGateways"]
        ),
        f"NAT gateway {identity} to be deleted",
    )
    for address in gateway.get("NatGatewayAddresses") or ():
        if allocation := address.get("AllocationId"):
            _leave_holder(aws, allocation)


def _leave_holder(aws: Aws, allocation: str) -> None:
    for address in aws("ec2").describe_addresses(AllocationIds=[allocation])["Addresses"]:
        if association := address.get("AssociationId"):
            aws("ec2").disassociate_address(AssociationId=association)


def _release(aws: Aws, allocation: str) -> None:
    _leave_holder(aws, allocation)
    aws("ec2").release_address(AllocationId=allocation)


def _remove_connection(aws: Aws, identity: str) -> None:
    ec2 = aws("ec2")
    ec2.delete_vpn_connection(VpnConnectionId=identity)
    _until(
        lambda: all(
            each["State"] == "deleted"
            for each in ec2.describe_vpn_connections(VpnConnectionIds=[identity])["VpnConnections"]
        ),
        f"VPN connection {identity} to be deleted",
    )


def _remove_vpn_gateway(aws: Aws, identity: str) -> None:
    ec2 = aws("ec2")

    def attachments() -> list[dict[str, Any]]:
        found = ec2.describe_vpn_gateways(VpnGatewayIds=[identity])["VpnGateways"]
        each = [a for gateway in found for a in gateway.get("VpcAttachments") or ()]
        return [a for a in each if a.get("State") != "detached"]

    for attachment in attachments():
        if attachment.get("State") != "detaching":
            ec2.detach_vpn_gateway(VpnGatewayId=identity, VpcId=attachment["VpcId"])
    _until(lambda: not attachments(), f"VPN gateway {identity} to be detached")
    ec2.delete_vpn_gateway(VpnGatewayId=identity)


def _remove_internet_gateway(aws: Aws, identity: str) -> None:
    ec2 = aws("ec2")
    found = ec2.describe_internet_gateways(InternetGatewayIds=[identity])["InternetGateways"]
    for attachment in found[0]["Attachments"]:
        ec2.detach_internet_gateway(InternetGatewayId=identity, VpcId=attachment["VpcId"])
    ec2.delete_internet_gateway(InternetGatewayId=identity)


def _remove_endpoint(aws: Aws, identity: str) -> None:
    aws("ec2").delete_vpc_endpoints(VpcEndpointIds=[identity])


def _leave_subnets(aws: Aws, identity: str) -> None:
    ec2 = aws("ec2")
    for table in ec2.describe_route_tables(RouteTableIds=[identity])["RouteTables"]:
        for association in table["Associations"]:
            ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])


def _remove_table(aws: Aws, identity: str) -> None:
    _leave_subnets(aws, identity)
    aws("ec2").delete_route_table(RouteTableId=identity)


def _remove_profile(aws: Aws, name: str) -> None:
    iam = aws("iam")
    profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    for role in profile["Roles"]:
        iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=role["RoleName"])
    iam.delete_instance_profile(InstanceProfileName=name)


def strip_policies(iam: Any, owner: str, name: str) -> None:
    """Take all policies off an IAM `role` or `user`, given a client of IAM."""
    this = {f"{owner.title()}Name": name}

    def call(operation: str, **more: str) -> Any:
        return getattr(iam, operation)(**this, **more)

    for policy in call(f"list_{owner}_policies")["PolicyNames"]:
        call(f"delete_{owner}_policy", PolicyName=policy)
    for policy in call(f"list_attached_{owner}_policies")["AttachedPolicies"]:
        call(f"detach_{owner}_policy", PolicyArn=policy["PolicyArn"])


def _strip_user(aws: Aws, name: str) -> None:
    iam = aws("iam")
    for key in iam.list_access_keys(UserName=name)["AccessKeyMetadata"]:
        iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
    strip_policies(iam, "user", name)


def _remove_role(aws: Aws, name: str) -> None:
    strip_policies(aws("iam"), "role", name)
    aws("iam").delete_role(RoleName=name)


def _remove_user(aws: Aws, name: str) -> None:
    _strip_user(aws, name)
    aws("iam").delete_user(UserName=name)


def _remove_bucket(aws: Aws, name: str) -> None:
    empty_s3(aws, name)
    aws("s3").delete_bucket(Bucket=name)


def _remove_gcs(gcs: Gcs, name: str) -> None:
    empty_gcs(gcs, name)
    gcs.client().bucket(name).delete()


def _call(service: str, operation: str, parameter: str, **more: Any) -> Callable[[Aws, str], Any]:
    """A removal that is one call."""
    return lambda aws, identity: getattr(aws(service), operation)(**{parameter: identity}, **more)


_TAKE: dict[str, Callable[[Aws, str], Any]] = {
    "group": _remove_group,
    "instance": _terminate,
    "launch template": _call("ec2", "delete_launch_template", "LaunchTemplateId"),
    "load balancer": _call("elbv2", "delete_load_balancer", "LoadBalancerArn"),
    "target group": _call("elbv2", "delete_target_group", "TargetGroupArn"),
    "nat gateway": _remove_nat,
    "vpn connection": _remove_connection,
    "vpn gateway": _remove_vpn_gateway,
    "customer gateway": _call("ec2", "delete_customer_gateway", "CustomerGatewayId"),
    "vpc endpoint": _remove_endpoint,
    "network interface": _call("ec2", "delete_network_interface", "NetworkInterfaceId"),
    "address": _release,
    "internet gateway": _remove_internet_gateway,
    "subnet": _call("ec2", "delete_subnet", "SubnetId"),
    "route table": _remove_table,
    "security group": _call("ec2", "delete_security_group", "GroupId"),
    "vpc": _call("ec2", "delete_vpc", "VpcId"),
    "volume": _call("ec2", "delete_volume", "VolumeId"),
    "key pair": _call("ec2", "delete_key_pair", "KeyName"),
    "instance profile": _remove_profile,
    "role": _remove_role,
    "user": _remove_user,
    "policy": _call("iam", "delete_policy", "PolicyArn"),
    "secret": _call(
        "secretsmanager", "delete_secret", "SecretId", ForceDeleteWithoutRecovery=True
    ),
    "parameter": _call("ssm", "delete_parameter", "Name"),
    "log group": _call("logs", "delete_log_group", "logGroupName"),
    "bucket": _remove_bucket,
}
