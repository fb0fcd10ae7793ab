"""Everything of an environment that the clouds hold, asked of each service by its own calls.

The tagging API is not used: it knows about half of these kinds, and objects without tags not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.clients import Aws, Gcs

ENVIRONMENT_TAG = "hybrid:environment"
ENVIRONMENT_LABEL = "hybrid-environment"  # a label of Google Cloud has no colon


@dataclass(frozen=True)
class Found:
    """An object in a cloud.

    Parameters
    ----------
    service, kind
        For example ``ec2``, ``subnet``.
    identity
        By which the service, and the engine's state, know it: an id, a name or an ARN.
    name
        What a person calls it; the identity where it has no name.
    tags
        Its tags or labels.
    within
        Identity of what made it or holds it, and takes it along: an instance's group.
    """

    service: str
    kind: str
    identity: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)
    within: str = field(default="", compare=False)

    def __str__(self) -> str:
        called = f" ({self.name})" if self.name != self.identity else ""
        return f"{self.service} {self.kind} {self.identity}{called}"

    def belongs_to(self, environment: str) -> bool:
        """Whether its tag names the environment, or it has no such tag but one of our names.

        A bucket has no tag for a moment after its creation, so that a crash can leave it without.
        Our names are ``hybrid-<environment>[-<part>]-<7 digits>``.
        """
        owner = self.tags.get(ENVIRONMENT_TAG) or self.tags.get(ENVIRONMENT_LABEL)
        if owner is not None:
            return owner == environment
        ours = rf"hybrid-{re.escape(environment)}(-[a-z0-9]+)?-[0-9a-f]{{7,26}}"
        return re.fullmatch(ours, self.name) is not None


@dataclass(frozen=True)
class Kind:
    """How one kind of AWS object is listed.

    Parameters
    ----------
    operation, key
        The call, and where its answer has the list.
    identity, name
        Keys of an object; the name's default is the tag ``Name``.
    states
        Those in which an object is as good as gone.
    tags
        ``(aws, object) -> tags`` where the list does not bring them. They are asked for only where
        the name speaks of us, or an account of a thousand roles would take a thousand calls.
    arguments
        Of the call.
    passes
        Which objects count; AWS makes some by itself, which go with what they belong to.
    within
        ``(object, tags) -> identity`` of what takes it along when it goes.
    """

    service: str
    kind: str
    operation: str
    key: str
    identity: str
    name: str = ""
    states: frozenset[str] = frozenset({"deleted", "deleting", "terminated"})
    tags: Callable[[Aws, dict[str, Any]], Any] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    passes: Callable[[dict[str, Any]], bool] = lambda each: True
    within: Callable[[dict[str, Any], Mapping[str, str]], str] = lambda each, tags: ""

    def list(self, aws: Aws) -> Iterator[Found]:
        """Everything of this kind, of whatever environment."""
        for each in self._objects(aws):
            if _state(each) in self.states or not self.passes(each):
                continue
            tags = _plain(each.get("Tags") or each.get("TagSet") or each.get("TagList"))
            name = each.get(self.name) or tags.get("Name") or each[self.identity]
            if self.tags is not None and "hybrid" in name:
                tags = _plain(self.tags(aws, each))
            within = self.within(each, tags)
            yield Found(self.service, self.kind, each[self.identity], name, tags, within)

    def _objects(self, aws: Aws) -> Iterator[dict[str, Any]]:
        client = aws(self.service)
        pages = (
            client.get_paginator(self.operation).paginate(**self.arguments)
            if client.can_paginate(self.operation)
            else [getattr(client, self.operation)(**self.arguments)]
        )
        outer, _, inner = self.key.partition(".")
        for page in pages:
            for each in page.get(outer) or ():
                if inner:
                    yield from each[inner]
                else:
                    yield each


def _plain(tags: Any) -> dict[str, str]:
    """Tags as a mapping, from whichever shape the service has them in."""
    if isinstance(tags, dict):
        return tags
    return {tag["Key"]: tag.get("Value", "") for tag in tags or ()}


def _state(each: dict[str, Any]) -> str:
    state = each.get("State", "")
    return state.get("Name") or state.get("Code", "") if isinstance(state, dict) else state


def _bucket_tags(aws: Aws, bucket: dict[str, Any]) -> Any:
    from botocore.exceptions import ClientError

    try:
        return aws("s3").get_bucket_tagging(Bucket=bucket["Name"])["TagSet"]
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchTagSet", "NoSuchBucket"):
            return {}
        raise


def _balancer_tags(aws: Aws, each: dict[str, Any]) -> Any:
    arn = each.get("LoadBalancerArn") or each["TargetGroupArn"]
    return aws("elbv2").describe_tags(ResourceArns=[arn])["TagDescriptions"][0]["Tags"]


def _ec2(kind: str, key: str, identity: str, **more: Any) -> Kind:
    operation = f"describe_{kind.replace(' ', '_')}{'es' if kind.endswith('s') else 's'}"
    return Kind("ec2", kind, more.pop("operation", operation), key, identity, **more)


# In the order in which they can be removed: what holds another comes before it.
AWS_KINDS = (
    Kind(
        "autoscaling", "group", "describe_auto_scaling_groups", "AutoScalingGroups",
        "AutoScalingGroupName",
    ),
    _ec2(
        "instance", "Reservations.Instances", "InstanceId",
        within=lambda each, tags: tags.get("aws:autoscaling:groupName", ""),
    ),
    _ec2("launch template", "LaunchTemplates", "LaunchTemplateId", name="LaunchTemplateName"),
    Kind(
        "elbv2", "load balancer", "describe_load_balancers", "LoadBalancers", "LoadBalancerArn",
        name="LoadBalancerName", tags=_balancer_tags,
    ),
    Kind(
        "elbv2", "target group", "describe_target_groups", "TargetGroups", "TargetGroupArn",
        name="TargetGroupName", tags=_balancer_tags,
    ),
    _ec2("nat gateway", "NatGateways", "NatGatewayId"),
    _ec2("vpn connection", "VpnConnections", "VpnConnectionId"),
    _ec2("vpn gateway", "VpnGateways", "VpnGatewayId"),
    _ec2("customer gateway", "CustomerGateways", "CustomerGatewayId"),
    _ec2("vpc endpoint", "VpcEndpoints", "VpcEndpointId"),
    _ec2(
        "network interface", "NetworkInterfaces", "NetworkInterfaceId",
        # Others are NAT gateways', endpoints' and balancers' own, and go with those.
        passes=lambda each: not each.get("RequesterManaged")
        and each.get("InterfaceType", "interface") == "interface",
        within=lambda each, tags: each.get("Attachment", {}).get("InstanceId", ""),
    ),
    _ec2("address", "Addresses", "AllocationId"),
    _ec2("internet gateway", "InternetGateways", "InternetGatewayId"),
    _ec2("subnet", "Subnets", "SubnetId", passes=lambda each: not each.get("DefaultForAz")),
    _ec2(
        "route table", "RouteTables", "RouteTableId",
        passes=lambda each: not any(a.get("Main") for a in each.get("Associations") or ()),
    ),
    _ec2(
        "security group", "SecurityGroups", "GroupId", name="GroupName",
        passes=lambda each: each["GroupName"] != "default",
    ),
    _ec2("vpc", "Vpcs", "VpcId", passes=lambda each: not each["IsDefault"]),
    _ec2(
        "volume", "Volumes", "VolumeId",
        within=lambda each, tags: next((a["InstanceId"] for a in each.get("Attachments", ())), ""),
    ),
    _ec2("key pair", "KeyPairs", "KeyName"),
    Kind(
        "iam", "instance profile", "list_instance_profiles", "InstanceProfiles",
        "InstanceProfileName",
        tags=lambda aws, each: aws("iam").get_instance_profile(
            InstanceProfileName=each["InstanceProfileName"]
        )["InstanceProfile"].get("Tags"),
    ),
    Kind(
        "iam", "role", "list_roles", "Roles", "RoleName",
        tags=lambda aws, each: aws("iam").get_role(RoleName=each["RoleName"])["Role"].get("Tags"),
        passes=lambda each: not each["Path"].startswith("/aws-service-role/"),
    ),
    Kind(
        "iam", "user", "list_users", "Users", "UserName",
        tags=lambda aws, each: aws("iam").get_user(UserName=each["UserName"])["User"].get("Tags"),
    ),
    Kind(
        "iam", "policy", "list_policies", "Policies", "Arn", name="PolicyName",
        tags=lambda aws, each: aws("iam").get_policy(PolicyArn=each["Arn"])["Policy"].get("Tags"),
        arguments={"Scope": "Local"},
    ),
    Kind("secretsmanager", "secret", "list_secrets", "SecretList", "ARN", name="Name"),
    Kind(
        "ssm", "parameter", "describe_parameters", "Parameters", "Name",
        tags=lambda aws, each: aws("ssm").list_tags_for_resource(
            ResourceType="Parameter", ResourceId=each["Name"]
        )["TagList"],
    ),
    Kind(
        "logs", "log group", "describe_log_groups", "logGroups", "logGroupName",
        tags=lambda aws, each: aws("logs").list_tags_log_group(
            logGroupName=each["logGroupName"]
        )["tags"],
    ),
    Kind("s3", "bucket", "list_buckets", "Buckets", "Name", tags=_bucket_tags),
)  # fmt: skip


def list_aws(aws: Aws, services: frozenset[str] | None = None) -> list[Found]:
    """Every object of the kinds above, in the order in which they can be removed.

    Parameters
    ----------
    services
        Ask only these; all by default.
    """
    kinds = [kind for kind in AWS_KINDS if services is None or kind.service in services]
    return [found for kind in kinds for found in kind.list(aws)]


def list_gcs(gcs: Gcs) -> list[Found]:
    """Every bucket of the project."""
    return [
        Found("gcs", "bucket", bucket.name, bucket.name, bucket.labels)
        for bucket in gcs.client().list_buckets()
    ]


def list_all(aws: Aws, gcs: Gcs) -> list[Found]:
    """Every object of every service."""
    return list_aws(aws) + list_gcs(gcs)
