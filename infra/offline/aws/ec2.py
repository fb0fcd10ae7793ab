"""EC2: networks, security groups and launch templates."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infra.offline.aws.api import (
    MARK_TAG,
    Aws,
    error_code,
    gone_is_done,
    is_missing,
    observed_tags,
    tag_list,
    tag_map,
)
from infra.offline.errors import OfflineError
from infra.offline.resource import Properties, Request, ResourceType

_GONE_STATES = frozenset({"deleted", "deleting", "terminated"})
_DEPENDENCY_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Kind:
    """An EC2 object with an id and tags, as its API operations see it.

    Attributes
    ----------
    noun
        Name in the operations: ``vpc`` for create_vpc, describe_vpcs, delete_vpc.
    response
        Key of the object in the answer to create; the describe operation's is its plural.
    identity
        Key of the id in the object; the describe operation's parameter is its plural.
    arguments
        Input property to parameter of create.
    observed
        Output property to key of the described object.
    extra
        ``(api, object) -> properties`` beyond ``observed``.
    configure, configured
        ``(api, id, inputs, old_inputs)`` after creation and on change; the inputs it looks at.
    before_delete, after_delete
        ``(api, id, object)``: detach what would hold the object; clear what it leaves behind.
    plural, resource_type, create, delete
        Names that do not follow from ``noun``.
    deletes_several
        The delete operation takes a list of ids.
    prepare
        Turns the parameters of create into their final shape.
    """

    noun: str
    response: str
    identity: str
    arguments: dict[str, str]
    observed: dict[str, str] = field(default_factory=dict)
    extra: Callable[[Aws, Properties], Properties] | None = None
    configure: Callable[[Aws, str, Properties, Properties], None] | None = None
    configured: tuple[str, ...] = ()
    before_delete: Callable[[Aws, str, Properties], None] | None = None
    after_delete: Callable[[Aws, str, Properties], None] | None = None
    plural: str = ""
    resource_type: str = ""
    create: str = ""
    delete: str = ""
    deletes_several: bool = False
    prepare: Callable[[Properties], Properties] | None = None
    secrets: tuple[str, ...] = ()
    defaults: Properties = field(default_factory=dict)
    delete_before_replace: bool = False
    name: str | None = None

    def entry(self) -> ResourceType:
        """The table's entry."""
        in_place = {"tags", *self.configured}
        return ResourceType(
            create=self._create,
            read=self.read,
            delete=self._delete,
            configure=self._configure,
            handled=frozenset({*self.arguments, *in_place, "region"}),
            replace_on=tuple(name for name in self.arguments if name not in in_place),
            secrets=self.secrets,
            defaults=self.defaults,
            name=self.name,
            delete_before_replace=self.delete_before_replace,
        )

    def _describe(self, api: Aws, **query: Any) -> list[Properties]:
        operation = f"describe_{self.plural or self.noun + 's'}"
        try:
            answer = getattr(api.client("ec2"), operation)(**query)
        except Exception as error:
            if is_missing(error):
                return []
            raise
        key = f"{self.response}s" if self.response != "Address" else "Addresses"
        return [each for each in answer[key] if _state(each) not in _GONE_STATES]

    def find(self, api: Aws, identity: str) -> Properties | None:
        """The object as EC2 describes it; None when it does not exist."""
        parameter = f"{self.identity}s"
        return next(iter(self._describe(api, **{parameter: [identity]})), None)

    def _create(self, api: Aws, request: Request) -> tuple[str, Properties]:
        marked = self._describe(
            api, Filters=[{"Name": f"tag:{MARK_TAG}", "Values": [request.mark]}]
        )
        if marked:
            return marked[0][self.identity], {}
        parameters = {
            parameter: request.inputs[name]
            for name, parameter in self.arguments.items()
            if request.inputs.get(name) is not None
        }
        if self.prepare is not None:
            parameters = self.prepare(parameters)
        tags = api.tags(request.inputs) | {MARK_TAG: request.mark}
        parameters["TagSpecifications"] = [
            {
                "ResourceType": self.resource_type or self.noun.replace("_", "-"),
                "Tags": tag_list(tags),
            }
        ]
        operation = getattr(api.client("ec2"), self.create or f"create_{self.noun}")
        answer = operation(**parameters)
        return answer.get(self.response, answer)[self.identity], {}

    def _configure(self, api: Aws, identity: str, new: Properties, old: Properties) -> None:
        if self.configure is not None:
            self.configure(api, identity, new, old)
        if old:
            change_tags(api, identity, new, old)

    def read(self, api: Aws, identity: str, state: Properties) -> Properties | None:
        """Properties as EC2 has them; None when the object does not exist."""
        found = self.find(api, identity)
        if found is None:
            return None
        properties = {
            name: found[key] for name, key in self.observed.items() if found.get(key) is not None
        }
        properties |= observed_tags(api, found.get("Tags"))
        if self.extra is not None:
            properties |= self.extra(api, found)
        return properties

    def _delete(self, api: Aws, identity: str, state: Properties) -> None:
        found = self.find(api, identity)
        if found is None:
            return
        if self.before_delete is not None:
            self.before_delete(api, identity, found)
        operation = getattr(api.client("ec2"), self.delete or f"delete_{self.noun}")
        target: Properties = {self.identity: identity}
        if self.deletes_several:
            target = {f"{self.identity}s": [identity]}
        with gone_is_done():
            patiently(lambda: operation(**target))
        until(lambda: self.find(api, identity) is None, f"{self.noun} {identity} to be deleted")
        if self.after_delete is not None:
            self.after_delete(api, identity, found)


def _state(described: Properties) -> str:
    state = described.get("State", "")
    return state.get("Code", "") if isinstance(state, dict) else state


def patiently(call: Callable[[], Any]) -> Any:
    """Call until what depends on the object has gone, for up to a minute."""
    deadline = time.monotonic() + _DEPENDENCY_WAIT_SECONDS
    while True:
        try:
            return call()
        except Exception as error:
            if error_code(error) != "DependencyViolation" or time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait up to a minute for ``condition``."""
    deadline = time.monotonic() + _DEPENDENCY_WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise OfflineError(f"waited {_DEPENDENCY_WAIT_SECONDS:.0f} s in vain for {what}")
        time.sleep(0.2)


def change_tags(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    """Bring the tags of an EC2 object from those of ``old`` to those of ``new``."""
    wanted, present = api.tags(new), api.tags(old)
    if removed := [{"Key": key} for key in present if key not in wanted]:
        api.client("ec2").delete_tags(Resources=[identity], Tags=removed)
    if wanted != present and wanted:
        api.client("ec2").create_tags(Resources=[identity], Tags=tag_list(wanted))


# Networks


def _vpc_attributes(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    for name, default in (("enableDnsSupport", True), ("enableDnsHostnames", False)):
        if new.get(name, default) != old.get(name, default):
            parameter = name[0].upper() + name[1:]
            api.client("ec2").modify_vpc_attribute(
                VpcId=identity, **{parameter: {"Value": new.get(name, default)}}
            )


def _observe_vpc(api: Aws, vpc: Properties) -> Properties:
    ec2, identity = api.client("ec2"), vpc["VpcId"]
    here = [{"Name": "vpc-id", "Values": [identity]}]
    properties: Properties = {"arn": api.arn("ec2", f"vpc/{identity}", account=vpc["OwnerId"])}
    for name in ("enableDnsSupport", "enableDnsHostnames"):
        answer = ec2.describe_vpc_attribute(VpcId=identity, Attribute=name)
        properties[name] = answer[name[0].upper() + name[1:]]["Value"]
    main = [*here, {"Name": "association.main", "Values": ["true"]}]
    for table in ec2.describe_route_tables(Filters=main)["RouteTables"]:
        properties["mainRouteTableId"] = properties["defaultRouteTableId"] = table["RouteTableId"]
    default = [*here, {"Name": "group-name", "Values": ["default"]}]
    for group in ec2.describe_security_groups(Filters=default)["SecurityGroups"]:
        properties["defaultSecurityGroupId"] = group["GroupId"]
    return properties


VPC = Kind(
    noun="vpc",
    response="Vpc",
    identity="VpcId",
    arguments={"cidrBlock": "CidrBlock", "instanceTenancy": "InstanceTenancy"},
    observed={
        "cidrBlock": "CidrBlock",
        "instanceTenancy": "InstanceTenancy",
        "ownerId": "OwnerId",
        "dhcpOptionsId": "DhcpOptionsId",
    },
    extra=_observe_vpc,
    configure=_vpc_attributes,
    configured=("enableDnsSupport", "enableDnsHostnames"),
)


def _subnet_attributes(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    wanted = new.get("mapPublicIpOnLaunch", False)
    if wanted != old.get("mapPublicIpOnLaunch", False):
        api.client("ec2").modify_subnet_attribute(
            SubnetId=identity, MapPublicIpOnLaunch={"Value": wanted}
        )


SUBNET = Kind(
    noun="subnet",
    response="Subnet",
    identity="SubnetId",
    arguments={
        "vpcId": "VpcId",
        "cidrBlock": "CidrBlock",
        "availabilityZone": "AvailabilityZone",
        "availabilityZoneId": "AvailabilityZoneId",
    },
    observed={
        "vpcId": "VpcId",
        "cidrBlock": "CidrBlock",
        "availabilityZone": "AvailabilityZone",
        "availabilityZoneId": "AvailabilityZoneId",
        "mapPublicIpOnLaunch": "MapPublicIpOnLaunch",
        "arn": "SubnetArn",
        "ownerId": "OwnerId",
    },
    configure=_subnet_attributes,
    configured=("mapPublicIpOnLaunch",),
    delete_before_replace=True,  # two subnets cannot have the same addresses
)


def _attach_internet_gateway(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    attached = {each["VpcId"] for each in INTERNET_GATEWAY.find(api, identity)["Attachments"]}
    wanted = {new["vpcId"]} if new.get("vpcId") else set()
    for vpc in attached - wanted:
        api.client("ec2").detach_internet_gateway(InternetGatewayId=identity, VpcId=vpc)
    for vpc in wanted - attached:
        api.client("ec2").attach_internet_gateway(InternetGatewayId=identity, VpcId=vpc)


def _detach_internet_gateway(api: Aws, identity: str, found: Properties) -> None:
    for attachment in found["Attachments"]:
        with gone_is_done():
            api.client("ec2").detach_internet_gateway(
                InternetGatewayId=identity, VpcId=attachment["VpcId"]
            )


INTERNET_GATEWAY = Kind(
    noun="internet_gateway",
    response="InternetGateway",
    identity="InternetGatewayId",
    arguments={},
    observed={"ownerId": "OwnerId"},
    extra=lambda api, found: {
        "arn": api.arn("ec2", f"internet-gateway/{found['InternetGatewayId']}"),
        "vpcId": found["Attachments"][0]["VpcId"] if found["Attachments"] else "",
    },
    configure=_attach_internet_gateway,
    configured=("vpcId",),
    before_delete=_detach_internet_gateway,
)


def _observe_nat_gateway(api: Aws, found: Properties) -> Properties:
    address = (found.get("NatGatewayAddresses") or [{}])[0]
    pairs = {
        "allocationId": "AllocationId",
        "publicIp": "PublicIp",
        "privateIp": "PrivateIp",
        "networkInterfaceId": "NetworkInterfaceId",
        "associationId": "AssociationId",
    }
    return {name: address[key] for name, key in pairs.items() if address.get(key)}


def _free_addresses(api: Aws, identity: str, found: Properties) -> None:
    # EC2 does so itself; moto leaves the address with the gateway that is gone.
    for address in found.get("NatGatewayAddresses") or ():
        if allocation := address.get("AllocationId"):
            _leave_holder(api, allocation, EIP.find(api, allocation) or {})


NAT_GATEWAY = Kind(
    noun="nat_gateway",
    resource_type="natgateway",
    response="NatGateway",
    identity="NatGatewayId",
    arguments={
        "subnetId": "SubnetId",
        "allocationId": "AllocationId",
        "connectivityType": "ConnectivityType",
    },
    observed={"subnetId": "SubnetId", "connectivityType": "ConnectivityType"},
    extra=_observe_nat_gateway,
    after_delete=_free_addresses,
    delete_before_replace=True,  # an address serves one gateway
)


def _leave_holder(api: Aws, identity: str, found: Properties) -> None:
    if association := found.get("AssociationId"):
        with gone_is_done():
            api.client("ec2").disassociate_address(AssociationId=association)


EIP = Kind(
    noun="address",
    plural="addresses",
    resource_type="elastic-ip",
    response="Address",
    identity="AllocationId",
    create="allocate_address",
    delete="release_address",
    arguments={"domain": "Domain"},
    observed={
        "domain": "Domain",
        "publicIp": "PublicIp",
        "allocationId": "AllocationId",
        "associationId": "AssociationId",
        "privateIp": "PrivateIpAddress",
    },
    extra=lambda api, found: {"arn": api.arn("ec2", f"elastic-ip/{found['AllocationId']}")},
    before_delete=_leave_holder,
    defaults={"domain": "vpc"},
)


ROUTE_TABLE = Kind(
    noun="route_table",
    response="RouteTable",
    identity="RouteTableId",
    arguments={"vpcId": "VpcId"},
    observed={"vpcId": "VpcId", "ownerId": "OwnerId"},
    extra=lambda api, found: {"arn": api.arn("ec2", f"route-table/{found['RouteTableId']}")},
)


def _endpoint_attachments(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    if not old:
        return  # passed at creation
    changes: Properties = {}
    for name, noun in (
        ("routeTableIds", "RouteTableIds"),
        ("subnetIds", "SubnetIds"),
        ("securityGroupIds", "SecurityGroupIds"),
    ):
        wanted, present = set(new.get(name) or ()), set(old.get(name) or ())
        if wanted - present:
            changes[f"Add{noun}"] = sorted(wanted - present)
        if present - wanted:
            changes[f"Remove{noun}"] = sorted(present - wanted)
    if new.get("policy") != old.get("policy"):
        changes |= {"PolicyDocument": new["policy"]} if new.get("policy") else {"ResetPolicy": True}
    if new.get("privateDnsEnabled") != old.get("privateDnsEnabled"):
        changes["PrivateDnsEnabled"] = bool(new.get("privateDnsEnabled"))
    if changes:
        api.client("ec2").modify_vpc_endpoint(VpcEndpointId=identity, **changes)


VPC_ENDPOINT = Kind(
    noun="vpc_endpoint",
    response="VpcEndpoint",
    identity="VpcEndpointId",
    arguments={
        "vpcId": "VpcId",
        "serviceName": "ServiceName",
        "vpcEndpointType": "VpcEndpointType",
        "routeTableIds": "RouteTableIds",
        "subnetIds": "SubnetIds",
        "securityGroupIds": "SecurityGroupIds",
        "policy": "PolicyDocument",
        "privateDnsEnabled": "PrivateDnsEnabled",
    },
    observed={
        "vpcId": "VpcId",
        "serviceName": "ServiceName",
        "vpcEndpointType": "VpcEndpointType",
        "routeTableIds": "RouteTableIds",
        "policy": "PolicyDocument",
        "state": "State",
        "ownerId": "OwnerId",
    },
    extra=lambda api, found: {"arn": api.arn("ec2", f"vpc-endpoint/{found['VpcEndpointId']}")},
    configure=_endpoint_attachments,
    configured=("routeTableIds", "subnetIds", "securityGroupIds", "policy", "privateDnsEnabled"),
    delete="delete_vpc_endpoints",
    deletes_several=True,
    defaults={"vpcEndpointType": "Gateway"},
)


# Routes

_ROUTE_DESTINATIONS = {
    "destinationCidrBlock": "DestinationCidrBlock",
    "destinationIpv6CidrBlock": "DestinationIpv6CidrBlock",
    "destinationPrefixListId": "DestinationPrefixListId",
}
_ROUTE_TARGETS = {
    "gatewayId": "GatewayId",
    "natGatewayId": "NatGatewayId",
    "egressOnlyGatewayId": "EgressOnlyInternetGatewayId",
    "transitGatewayId": "TransitGatewayId",
    "vpcPeeringConnectionId": "VpcPeeringConnectionId",
    "networkInterfaceId": "NetworkInterfaceId",
    "vpcEndpointId": "VpcEndpointId",
}


def _route_destination(inputs: Properties) -> dict[str, str]:
    for name, parameter in _ROUTE_DESTINATIONS.items():
        if inputs.get(name):
            return {parameter: inputs[name]}
    raise OfflineError("a route needs one of " + ", ".join(_ROUTE_DESTINATIONS))


def _route_target(inputs: Properties) -> dict[str, str]:
    return {key: inputs[name] for name, key in _ROUTE_TARGETS.items() if inputs.get(name)}


def _find_route(api: Aws, inputs: Properties) -> Properties | None:
    table = ROUTE_TABLE.find(api, inputs["routeTableId"])
    destination = _route_destination(inputs)
    routes = table["Routes"] if table else ()
    return next((r for r in routes if destination.items() <= r.items()), None)


def _create_route(api: Aws, request: Request) -> tuple[str, Properties]:
    inputs = request.inputs
    destination = _route_destination(inputs)
    if _find_route(api, inputs) is None:
        api.client("ec2").create_route(
            RouteTableId=inputs["routeTableId"], **destination, **_route_target(inputs)
        )
    digits = int(hashlib.sha256("".join(destination.values()).encode()).hexdigest()[:8], 16)
    return f"r-{inputs['routeTableId']}{digits}", {}


def _change_route(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    found = _find_route(api, new) or {}
    if not _route_target(new).items() <= found.items():
        api.client("ec2").replace_route(
            RouteTableId=new["routeTableId"], **_route_destination(new), **_route_target(new)
        )


def _read_route(api: Aws, identity: str, state: Properties) -> Properties | None:
    found = _find_route(api, state)
    if found is None:
        return None
    observed = {name: found.get(key, "") for name, key in _ROUTE_TARGETS.items() if name in state}
    return observed | {"state": found.get("State", "active"), "origin": found.get("Origin", "")}


def _delete_route(api: Aws, identity: str, state: Properties) -> None:
    with gone_is_done():
        if _find_route(api, state) is not None:
            api.client("ec2").delete_route(
                RouteTableId=state["routeTableId"], **_route_destination(state)
            )


def _associations(api: Aws, name: str, value: str) -> list[Properties]:
    answer = api.client("ec2").describe_route_tables(
        Filters=[{"Name": f"association.{name}", "Values": [value]}]
    )
    key = {"subnet-id": "SubnetId", "gateway-id": "GatewayId"}.get(name, "RouteTableAssociationId")
    return [
        association
        for table in answer["RouteTables"]
        for association in table["Associations"]
        if association.get(key) == value
    ]


def _associate(api: Aws, request: Request) -> tuple[str, Properties]:
    inputs = request.inputs
    name, parameter = (
        ("subnet-id", "SubnetId")
        if inputs.get("subnetId")
        else (
            "gateway-id",
            "GatewayId",
        )
    )
    value = inputs.get("subnetId") or inputs.get("gatewayId")
    if not value:
        raise OfflineError("a route table association needs subnetId or gatewayId")
    for present in _associations(api, name, value):
        return present["RouteTableAssociationId"], {}
    answer = api.client("ec2").associate_route_table(
        RouteTableId=inputs["routeTableId"], **{parameter: value}
    )
    return answer["AssociationId"], {}


def _observe_association(api: Aws, identity: str, state: Properties) -> Properties | None:
    for found in _associations(api, "route-table-association-id", identity):
        observed = {"routeTableId": found["RouteTableId"]}
        if found.get("SubnetId"):
            observed["subnetId"] = found["SubnetId"]
        if found.get("GatewayId"):
            observed["gatewayId"] = found["GatewayId"]
        return observed
    return None


def _change_association(
    api: Aws, identity: str, new: Properties, old: Properties
) -> Properties | None:
    for found in _associations(api, "route-table-association-id", identity):
        if found["RouteTableId"] != new["routeTableId"]:
            api.client("ec2").replace_route_table_association(
                AssociationId=identity, RouteTableId=new["routeTableId"]
            )
    return None


def _disassociate(api: Aws, identity: str, state: Properties) -> None:
    with gone_is_done():
        api.client("ec2").disassociate_route_table(AssociationId=identity)


# Security groups


def _permission(rule: Properties) -> Properties:
    """An inline ``ingress``/``egress`` entry as EC2's IpPermission."""
    permission: Properties = {"IpProtocol": str(rule["protocol"])}
    if permission["IpProtocol"] not in ("-1", "all"):
        permission |= {"FromPort": rule["fromPort"], "ToPort": rule["toPort"]}
    else:
        permission["IpProtocol"] = "-1"
    described = {"Description": rule["description"]} if rule.get("description") else {}
    for name, key, inner in (
        ("cidrBlocks", "IpRanges", "CidrIp"),
        ("ipv6CidrBlocks", "Ipv6Ranges", "CidrIpv6"),
        ("prefixListIds", "PrefixListIds", "PrefixListId"),
        ("securityGroups", "UserIdGroupPairs", "GroupId"),
    ):
        if rule.get(name):
            permission[key] = [{inner: value} | described for value in rule[name]]
    return permission


def _security_group_rules(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    ec2 = api.client("ec2")
    if not old:
        # As the official provider: a new group has no rule that the program did not ask for.
        everything = SECURITY_GROUP.find(api, identity).get("IpPermissionsEgress")
        if everything:
            ec2.revoke_security_group_egress(GroupId=identity, IpPermissions=everything)
    for direction in ("ingress", "egress"):
        wanted = [_permission(rule) for rule in new.get(direction) or ()]
        present = [_permission(rule) for rule in old.get(direction) or ()]
        removed = [each for each in present if each not in wanted]
        added = [each for each in wanted if each not in present]
        if removed:
            with gone_is_done():
                getattr(ec2, f"revoke_security_group_{direction}")(
                    GroupId=identity, IpPermissions=removed
                )
        if added:
            try:
                getattr(ec2, f"authorize_security_group_{direction}")(
                    GroupId=identity, IpPermissions=added
                )
            except Exception as error:
                if error_code(error) != "InvalidPermission.Duplicate":
                    raise


def _sources(permissions: list[Properties], rules: list[Properties]) -> list[Properties]:
    """Declared rules that EC2 still has, and others as EC2 has them."""
    present = {
        (
            each["IpProtocol"],
            each.get("FromPort"),
            each.get("ToPort"),
            inner[key],
        )
        for each in permissions
        for field_name, key in (
            ("IpRanges", "CidrIp"),
            ("Ipv6Ranges", "CidrIpv6"),
            ("PrefixListIds", "PrefixListId"),
            ("UserIdGroupPairs", "GroupId"),
        )
        for inner in each.get(field_name) or ()
    }
    return [rule for rule in rules if _permission_keys(_permission(rule)) <= present]


def _permission_keys(permission: Properties) -> set[tuple[Any, ...]]:
    return {
        (permission["IpProtocol"], permission.get("FromPort"), permission.get("ToPort"), value)
        for field_name in ("IpRanges", "Ipv6Ranges", "PrefixListIds", "UserIdGroupPairs")
        for inner in permission.get(field_name, ())
        for key, value in inner.items()
        if key != "Description"
    }


def _read_security_group(api: Aws, identity: str, state: Properties) -> Properties | None:
    observed = SECURITY_GROUP.read(api, identity, state)
    if observed is None:
        return None
    found = SECURITY_GROUP.find(api, identity) or {}
    for direction, key in (("ingress", "IpPermissions"), ("egress", "IpPermissionsEgress")):
        if state.get(direction):
            observed[direction] = _sources(found.get(key) or [], state[direction])
    return observed


SECURITY_GROUP = Kind(
    noun="security_group",
    response="SecurityGroup",
    identity="GroupId",
    arguments={"name": "GroupName", "description": "Description", "vpcId": "VpcId"},
    observed={
        "name": "GroupName",
        "description": "Description",
        "vpcId": "VpcId",
        "ownerId": "OwnerId",
    },
    extra=lambda api, found: {"arn": api.arn("ec2", f"security-group/{found['GroupId']}")},
    configure=_security_group_rules,
    configured=("ingress", "egress", "revokeRulesOnDelete"),
    defaults={"description": "Managed by Pulumi"},
    name="name",
)


def _rule_permission(inputs: Properties) -> Properties:
    permission: Properties = {"IpProtocol": inputs["ipProtocol"]}
    for name, key in (("fromPort", "FromPort"), ("toPort", "ToPort")):
        if inputs.get(name) is not None:
            permission[key] = inputs[name]
    described = {"Description": inputs["description"]} if inputs.get("description") else {}
    for name, key, inner in (
        ("cidrIpv4", "IpRanges", "CidrIp"),
        ("cidrIpv6", "Ipv6Ranges", "CidrIpv6"),
        ("prefixListId", "PrefixListIds", "PrefixListId"),
        ("referencedSecurityGroupId", "UserIdGroupPairs", "GroupId"),
    ):
        if inputs.get(name):
            permission[key] = [{inner: inputs[name]} | described]
    return permission


def _rule_source(rule: Properties) -> Properties:
    observed = {
        "ipProtocol": rule["IpProtocol"],
        "fromPort": rule.get("FromPort"),
        "toPort": rule.get("ToPort"),
        "cidrIpv4": rule.get("CidrIpv4"),
        "cidrIpv6": rule.get("CidrIpv6"),
        "prefixListId": rule.get("PrefixListId"),
        "referencedSecurityGroupId": (rule.get("ReferencedGroupInfo") or {}).get("GroupId"),
        "description": rule.get("Description"),
    }
    if observed["ipProtocol"] == "-1":
        observed["fromPort"] = observed["toPort"] = None
    return {name: value for name, value in observed.items() if value not in (None, "")}


def _rule_kind(direction: str) -> ResourceType:
    outward = direction == "egress"

    def rules(api: Aws, group: str) -> list[Properties]:
        try:
            answer = api.client("ec2").describe_security_group_rules(
                Filters=[{"Name": "group-id", "Values": [group]}]
            )
        except Exception as error:
            if is_missing(error):
                return []
            raise
        return [each for each in answer["SecurityGroupRules"] if each["IsEgress"] == outward]

    def same_content(api: Aws, inputs: Properties) -> str | None:
        # EC2 allows no second rule of the same content, so equal content is the same rule.
        wanted = _rule_source(_as_described(inputs)) | {"description": None}
        for rule in rules(api, inputs["securityGroupId"]):
            if _rule_source(rule) | {"description": None} == wanted:
                return rule["SecurityGroupRuleId"]
        return None

    def create(api: Aws, request: Request) -> tuple[str, Properties]:
        present = same_content(api, request.inputs)
        if present is not None:
            return present, {}
        answer = getattr(api.client("ec2"), f"authorize_security_group_{direction}")(
            GroupId=request.inputs["securityGroupId"],
            IpPermissions=[_rule_permission(request.inputs)],
            TagSpecifications=[
                {
                    "ResourceType": "security-group-rule",
                    "Tags": tag_list(api.tags(request.inputs) | {MARK_TAG: request.mark}),
                }
            ],
        )
        made = answer.get("SecurityGroupRules")  # moto leaves out those between groups
        return made[0]["SecurityGroupRuleId"] if made else same_content(api, request.inputs), {}

    def read(api: Aws, identity: str, state: Properties) -> Properties | None:
        for rule in rules(api, state["securityGroupId"]):
            if rule["SecurityGroupRuleId"] == identity:
                return (
                    _rule_source(rule)
                    | (observed_tags(api, rule["Tags"]) if rule.get("Tags") else {})
                    | {
                        "securityGroupRuleId": identity,
                        "arn": api.arn("ec2", f"security-group-rule/{identity}"),
                    }
                )
        return None

    def configure(api: Aws, identity: str, new: Properties, old: Properties) -> None:
        if old:
            change_tags(api, identity, new, old)

    def delete(api: Aws, identity: str, state: Properties) -> None:
        present = {rule["SecurityGroupRuleId"] for rule in rules(api, state["securityGroupId"])}
        if identity in present:
            with gone_is_done():
                getattr(api.client("ec2"), f"revoke_security_group_{direction}")(
                    GroupId=state["securityGroupId"], SecurityGroupRuleIds=[identity]
                )

    content = (
        "securityGroupId",
        "ipProtocol",
        "fromPort",
        "toPort",
        "cidrIpv4",
        "cidrIpv6",
        "prefixListId",
        "referencedSecurityGroupId",
        "description",
    )
    return ResourceType(
        create=create,
        read=read,
        delete=delete,
        configure=configure,
        handled=frozenset({*content, "tags", "region"}),
        replace_on=content,
        delete_before_replace=True,
    )


def _as_described(inputs: Properties) -> Properties:
    return {
        "IpProtocol": inputs["ipProtocol"],
        "FromPort": inputs.get("fromPort"),
        "ToPort": inputs.get("toPort"),
        "CidrIpv4": inputs.get("cidrIpv4"),
        "CidrIpv6": inputs.get("cidrIpv6"),
        "PrefixListId": inputs.get("prefixListId"),
        "ReferencedGroupInfo": {"GroupId": inputs.get("referencedSecurityGroupId")},
    }


# Launch templates

_TEMPLATE_DATA = {
    "blockDeviceMappings": "BlockDeviceMappings",
    "capacityReservationSpecification": "CapacityReservationSpecification",
    "cpuOptions": "CpuOptions",
    "creditSpecification": "CreditSpecification",
    "disableApiStop": "DisableApiStop",
    "disableApiTermination": "DisableApiTermination",
    "ebsOptimized": "EbsOptimized",
    "enclaveOptions": "EnclaveOptions",
    "hibernationOptions": "HibernationOptions",
    "iamInstanceProfile": "IamInstanceProfile",
    "imageId": "ImageId",
    "instanceInitiatedShutdownBehavior": "InstanceInitiatedShutdownBehavior",
    "instanceMarketOptions": "InstanceMarketOptions",
    "instanceType": "InstanceType",
    "keyName": "KeyName",
    "maintenanceOptions": "MaintenanceOptions",
    "metadataOptions": "MetadataOptions",
    "monitoring": "Monitoring",
    "networkInterfaces": "NetworkInterfaces",
    "placement": "Placement",
    "privateDnsNameOptions": "PrivateDnsNameOptions",
    "tagSpecifications": "TagSpecifications",
    "userData": "UserData",
    "vpcSecurityGroupIds": "SecurityGroupIds",
}
_TEXT_BOOLEANS = frozenset(
    {"EbsOptimized", "Encrypted", "DeleteOnTermination", "AssociatePublicIpAddress"}
)
_INNER_NAMES = {"SecurityGroups": "Groups"}


def template_data(inputs: Properties) -> Properties:
    """``LaunchTemplateData`` for the inputs of a launch template."""
    return {
        key: _api_value(key, inputs[name])
        for name, key in _TEMPLATE_DATA.items()
        if inputs.get(name) is not None
    }


def _api_value(key: str, value: Any) -> Any:
    if key == "Tags":
        return tag_list(value)
    if isinstance(value, dict):
        inner = {name[0].upper() + name[1:]: item for name, item in value.items()}
        return {
            _INNER_NAMES.get(name, name): _api_value(name, item)
            for name, item in inner.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_api_value("", item) for item in value]
    if key in _TEXT_BOOLEANS and isinstance(value, str):
        return value == "true"
    return value


def _property_value(key: str, value: Any) -> Any:
    """The inverse of :func:`_api_value`."""
    if key == "Tags":
        return tag_map(value)
    if isinstance(value, dict):
        names = {inner: name for name, inner in _INNER_NAMES.items()}
        return {
            (outer := names.get(name, name))[0].lower() + outer[1:]: _property_value(name, item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_property_value("", item) for item in value]
    if key in _TEXT_BOOLEANS:
        return str(value).lower()
    return value


def _find_template(api: Aws, **query: Any) -> Properties | None:
    try:
        answer = api.client("ec2").describe_launch_templates(**query)
    except Exception as error:
        if is_missing(error) or error_code(error).startswith("InvalidLaunchTemplateName.NotFound"):
            return None
        raise
    return next(iter(answer["LaunchTemplates"]), None)


def _create_template(api: Aws, request: Request) -> tuple[str, Properties]:
    inputs = request.inputs
    found = _find_template(api, Filters=[{"Name": f"tag:{MARK_TAG}", "Values": [request.mark]}])
    if found is not None:
        return found["LaunchTemplateId"], {}
    _check_user_data(inputs)
    described = {"VersionDescription": inputs["description"]} if inputs.get("description") else {}
    answer = api.client("ec2").create_launch_template(
        LaunchTemplateName=inputs["name"],
        LaunchTemplateData=template_data(inputs),
        TagSpecifications=[
            {
                "ResourceType": "launch-template",
                "Tags": tag_list(api.tags(inputs) | {MARK_TAG: request.mark}),
            }
        ],
        **described,
    )
    return answer["LaunchTemplate"]["LaunchTemplateId"], {}


def _check_user_data(inputs: Properties) -> None:
    if user_data := inputs.get("userData"):
        try:
            base64.b64decode(user_data, validate=True)
        except ValueError:
            raise OfflineError("userData of a launch template must be base64") from None


def _change_template(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    if not old:
        return
    ec2 = api.client("ec2")
    _check_user_data(new)
    if template_data(new) != template_data(old) or new.get("description") != old.get("description"):
        described = {"VersionDescription": new["description"]} if new.get("description") else {}
        ec2.create_launch_template_version(
            LaunchTemplateId=identity, LaunchTemplateData=template_data(new), **described
        )
    found = _find_template(api, LaunchTemplateIds=[identity]) or {}
    default = (
        found["LatestVersionNumber"]
        if new.get("updateDefaultVersion")
        else new.get("defaultVersion")
    )
    if default and default != found["DefaultVersionNumber"]:
        ec2.modify_launch_template(LaunchTemplateId=identity, DefaultVersion=str(default))
    change_tags(api, identity, new, old)


def _read_template(api: Aws, identity: str, state: Properties) -> Properties | None:
    found = _find_template(api, LaunchTemplateIds=[identity])
    if found is None:
        return None
    observed = {
        "name": found["LaunchTemplateName"],
        "arn": api.arn("ec2", f"launch-template/{identity}"),
        "latestVersion": found["LatestVersionNumber"],
        "defaultVersion": found["DefaultVersionNumber"],
    } | observed_tags(api, found.get("Tags"))
    versions = api.client("ec2").describe_launch_template_versions(
        LaunchTemplateId=identity, Versions=["$Latest"]
    )["LaunchTemplateVersions"]
    data = versions[0]["LaunchTemplateData"]
    # moto lists the tags of the template itself among those for what is launched from it.
    data["TagSpecifications"] = [
        each
        for each in data.get("TagSpecifications") or ()
        if each["ResourceType"] != "launch-template"
    ]
    wanted = template_data(state)
    for name, key in _TEMPLATE_DATA.items():
        if name in state and key in data:
            same = _contains(data[key], wanted[key])
            observed[name] = state[name] if same else _property_value(key, data[key])
    return observed


def _contains(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(_contains(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(map(_contains, found, wanted))
    return str(found).lower() == str(wanted).lower()


def _delete_template(api: Aws, identity: str, state: Properties) -> None:
    with gone_is_done():
        if _find_template(api, LaunchTemplateIds=[identity]) is not None:
            api.client("ec2").delete_launch_template(LaunchTemplateId=identity)


TYPES = {
    "aws:ec2/vpc:Vpc": VPC.entry(),
    "aws:ec2/subnet:Subnet": SUBNET.entry(),
    "aws:ec2/internetGateway:InternetGateway": INTERNET_GATEWAY.entry(),
    "aws:ec2/natGateway:NatGateway": NAT_GATEWAY.entry(),
    "aws:ec2/eip:Eip": EIP.entry(),
    "aws:ec2/routeTable:RouteTable": ROUTE_TABLE.entry(),
    "aws:ec2/route:Route": ResourceType(
        create=_create_route,
        read=_read_route,
        delete=_delete_route,
        configure=_change_route,
        handled=frozenset({"routeTableId", "region", *_ROUTE_DESTINATIONS, *_ROUTE_TARGETS}),
        replace_on=("routeTableId", *_ROUTE_DESTINATIONS),
        delete_before_replace=True,
    ),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": ResourceType(
        create=_associate,
        read=_observe_association,
        delete=_disassociate,
        handled=frozenset({"routeTableId", "subnetId", "gatewayId", "region"}),
        delete_before_replace=True,
    ),
    "aws:ec2/vpcEndpoint:VpcEndpoint": VPC_ENDPOINT.entry(),
    "aws:ec2/securityGroup:SecurityGroup": dataclasses.replace(
        SECURITY_GROUP.entry(), read=_read_security_group
    ),
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": _rule_kind("ingress"),
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": _rule_kind("egress"),
    "aws:ec2/launchTemplate:LaunchTemplate": ResourceType(
        create=_create_template,
        read=_read_template,
        delete=_delete_template,
        configure=_change_template,
        handled=frozenset(
            {
                *_TEMPLATE_DATA,
                "name",
                "description",
                "tags",
                "updateDefaultVersion",
                "defaultVersion",
                "region",
            }
        ),
        replace_on=("name",),
        name="name",
        volatile=("latestVersion", "defaultVersion"),
    ),
}
