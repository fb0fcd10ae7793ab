"""EC2: virtual private gateways, customer gateways and Site-to-Site VPN connections."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree
from typing import Any

from infra.offline.aws.api import Aws, error_code, gone_is_done
from infra.offline.aws.ec2 import ROUTE_TABLE, Kind, until
from infra.offline.resource import Properties, Request, ResourceType


def _attached(gateway: Properties) -> list[str]:
    return [
        each["VpcId"]
        for each in gateway["VpcAttachments"]
        if each["State"] in ("attached", "attaching")
    ]


def _attach(api: Aws, identity: str, new: Properties, old: Properties) -> None:
    present = set(_attached(VPN_GATEWAY.find(api, identity) or {"VpcAttachments": []}))
    wanted = {new["vpcId"]} if new.get("vpcId") else set()
    for vpc in present - wanted:
        api.client("ec2").detach_vpn_gateway(VpnGatewayId=identity, VpcId=vpc)
    for vpc in wanted - present:
        api.client("ec2").attach_vpn_gateway(VpnGatewayId=identity, VpcId=vpc)


def _detach(api: Aws, identity: str, found: Properties) -> None:
    for vpc in _attached(found):
        with gone_is_done():
            api.client("ec2").detach_vpn_gateway(VpnGatewayId=identity, VpcId=vpc)
    until(
        lambda: not _attached(VPN_GATEWAY.find(api, identity) or {"VpcAttachments": []}),
        f"the VPN gateway {identity} to be detached",
    )


VPN_GATEWAY = Kind(
    noun="vpn_gateway",
    response="VpnGateway",
    identity="VpnGatewayId",
    arguments={"amazonSideAsn": "AmazonSideAsn", "availabilityZone": "AvailabilityZone"},
    extra=lambda api, found: {
        "arn": api.arn("ec2", f"vpn-gateway/{found['VpnGatewayId']}"),
        "amazonSideAsn": str(found.get("AmazonSideAsn", 64512)),
        "vpcId": next(iter(_attached(found)), ""),
    },
    configure=_attach,
    configured=("vpcId",),
    before_delete=_detach,
    prepare=lambda parameters: {"Type": "ipsec.1"}
    | parameters
    | (
        {"AmazonSideAsn": int(parameters["AmazonSideAsn"])} if "AmazonSideAsn" in parameters else {}
    ),
)

CUSTOMER_GATEWAY = Kind(
    noun="customer_gateway",
    response="CustomerGateway",
    identity="CustomerGatewayId",
    arguments={
        "bgpAsn": "BgpAsn",
        "ipAddress": "IpAddress",
        "type": "Type",
        "certificateArn": "CertificateArn",
        "deviceName": "DeviceName",
    },
    observed={"ipAddress": "IpAddress", "type": "Type"},
    extra=lambda api, found: {
        "arn": api.arn("ec2", f"customer-gateway/{found['CustomerGatewayId']}"),
        "bgpAsn": str(found["BgpAsn"]),
    },
    prepare=lambda parameters: parameters
    | ({"BgpAsn": int(parameters["BgpAsn"])} if "BgpAsn" in parameters else {}),
)

_TUNNEL = {
    "InsideCidr": "TunnelInsideCidr",
    "PresharedKey": "PreSharedKey",
    "DpdTimeoutAction": "DPDTimeoutAction",
    "DpdTimeoutSeconds": "DPDTimeoutSeconds",
    "StartupAction": "StartupAction",
    "RekeyMarginTimeSeconds": "RekeyMarginTimeSeconds",
    "RekeyFuzzPercentage": "RekeyFuzzPercentage",
    "ReplayWindowSize": "ReplayWindowSize",
    "Phase1LifetimeSeconds": "Phase1LifetimeSeconds",
    "Phase2LifetimeSeconds": "Phase2LifetimeSeconds",
    "EnableTunnelLifecycleControl": "EnableTunnelLifecycleControl",
}
_TUNNEL_LISTS = {
    "IkeVersions": "IKEVersions",
    "Phase1DhGroupNumbers": "Phase1DHGroupNumbers",
    "Phase1EncryptionAlgorithms": "Phase1EncryptionAlgorithms",
    "Phase1IntegrityAlgorithms": "Phase1IntegrityAlgorithms",
    "Phase2DhGroupNumbers": "Phase2DHGroupNumbers",
    "Phase2EncryptionAlgorithms": "Phase2EncryptionAlgorithms",
    "Phase2IntegrityAlgorithms": "Phase2IntegrityAlgorithms",
}
_TUNNEL_INPUTS = tuple(
    f"tunnel{number}{name}" for number in (1, 2) for name in (*_TUNNEL, *_TUNNEL_LISTS)
)
_OPTIONS = {
    "staticRoutesOnly": "StaticRoutesOnly",
    "enableAcceleration": "EnableAcceleration",
    "localIpv4NetworkCidr": "LocalIpv4NetworkCidr",
    "remoteIpv4NetworkCidr": "RemoteIpv4NetworkCidr",
}
_CONNECTION = {
    "customerGatewayId": "CustomerGatewayId",
    "vpnGatewayId": "VpnGatewayId",
    "transitGatewayId": "TransitGatewayId",
    "type": "Type",
}


def connection_options(parameters: Properties) -> Properties:
    """Move the options of a connection's parameters to where create_vpn_connection has them."""
    options = {key: parameters.pop(name) for name, key in _OPTIONS.items() if name in parameters}
    tunnels = []
    for number in (1, 2):
        tunnel: Properties = {}
        for name, key in _TUNNEL.items():
            if (value := parameters.pop(f"tunnel{number}{name}", None)) is not None:
                tunnel[key] = value
        for name, key in _TUNNEL_LISTS.items():
            if (values := parameters.pop(f"tunnel{number}{name}", None)) is not None:
                tunnel[key] = [{"Value": value} for value in values]
        tunnels.append(tunnel)
    if any(tunnels):
        options["TunnelOptions"] = tunnels
    return parameters | ({"Options": options} if options else {})


def _observe_connection(api: Aws, found: Properties) -> Properties:
    observed: Properties = {"arn": api.arn("ec2", f"vpn-connection/{found['VpnConnectionId']}")}
    configuration = found.get("CustomerGatewayConfiguration")
    if not configuration:
        return observed
    observed["customerGatewayConfiguration"] = configuration
    # A document of the service we have just asked over its own endpoint, not of a stranger.
    tunnels = ElementTree.fromstring(configuration.strip()).findall("ipsec_tunnel")
    paths = {
        "Address": "vpn_gateway/tunnel_outside_address/ip_address",
        "CgwInsideAddress": "customer_gateway/tunnel_inside_address/ip_address",
        "VgwInsideAddress": "vpn_gateway/tunnel_inside_address/ip_address",
        "BgpAsn": "vpn_gateway/bgp/asn",
        "PresharedKey": "ike/pre_shared_key",
    }
    for number, tunnel in enumerate(tunnels[:2], start=1):
        for name, path in paths.items():
            if (text := tunnel.findtext(path)) is not None:
                observed[f"tunnel{number}{name}"] = text.strip()
    return observed


VPN_CONNECTION = Kind(
    noun="vpn_connection",
    response="VpnConnection",
    identity="VpnConnectionId",
    arguments=_CONNECTION
    | {name: name for name in _OPTIONS}
    | {name: name for name in _TUNNEL_INPUTS},
    observed={
        "customerGatewayId": "CustomerGatewayId",
        "vpnGatewayId": "VpnGatewayId",
        "type": "Type",
    },
    extra=_observe_connection,
    prepare=connection_options,
    secrets=("customerGatewayConfiguration", "tunnel1PresharedKey", "tunnel2PresharedKey"),
)


def _connection_entry() -> ResourceType:
    plain = VPN_CONNECTION.entry()

    def read(api: Aws, identity: str, state: Properties) -> Properties | None:
        observed = plain.read(api, identity, state)
        if observed is None:
            return None
        # Emulators make up their own keys; what the program asked for is what the tunnel has.
        declared = {name: state[name] for name in _TUNNEL_INPUTS if name in state}
        return observed | declared

    return dataclasses.replace(plain, read=read)


def _lacks(error: Exception) -> bool:
    """Whether an emulator has no such operation; moto then answers with a page of HTML."""
    missing = ("InvalidAction", "NotImplemented", "501", "UnknownOperation")
    return error_code(error) in missing or type(error).__name__ == "ResponseParserError"


def _call_if_there(operation: Any, **parameters: Any) -> None:
    try:
        operation(**parameters)
    except Exception as error:
        if not _lacks(error):
            raise


def _create_connection_route(api: Aws, request: Request) -> tuple[str, Properties]:
    cidr, connection = request.inputs["destinationCidrBlock"], request.inputs["vpnConnectionId"]
    _call_if_there(
        api.client("ec2").create_vpn_connection_route,
        VpnConnectionId=connection,
        DestinationCidrBlock=cidr,
    )
    return f"{cidr}:{connection}", {}


def _read_connection_route(api: Aws, identity: str, state: Properties) -> Properties | None:
    found = VPN_CONNECTION.find(api, state["vpnConnectionId"])
    if found is None:
        return None
    routes = found.get("Routes")
    if routes and state["destinationCidrBlock"] not in {r["DestinationCidrBlock"] for r in routes}:
        return None
    return {}


def _delete_connection_route(api: Aws, identity: str, state: Properties) -> None:
    with gone_is_done():
        _call_if_there(
            api.client("ec2").delete_vpn_connection_route,
            VpnConnectionId=state["vpnConnectionId"],
            DestinationCidrBlock=state["destinationCidrBlock"],
        )


def _propagate(api: Aws, request: Request) -> tuple[str, Properties]:
    gateway, table = request.inputs["vpnGatewayId"], request.inputs["routeTableId"]
    _call_if_there(
        api.client("ec2").enable_vgw_route_propagation, GatewayId=gateway, RouteTableId=table
    )
    return f"{gateway}_{table}", {}


def _read_propagation(api: Aws, identity: str, state: Properties) -> Properties | None:
    table = ROUTE_TABLE.find(api, state["routeTableId"])
    if table is None or VPN_GATEWAY.find(api, state["vpnGatewayId"]) is None:
        return None
    propagating = {each["GatewayId"] for each in table.get("PropagatingVgws") or ()}
    return {} if not propagating or state["vpnGatewayId"] in propagating else None


def _stop_propagation(api: Aws, identity: str, state: Properties) -> None:
    with gone_is_done():
        _call_if_there(
            api.client("ec2").disable_vgw_route_propagation,
            GatewayId=state["vpnGatewayId"],
            RouteTableId=state["routeTableId"],
        )


TYPES = {
    "aws:ec2/vpnGateway:VpnGateway": VPN_GATEWAY.entry(),
    "aws:ec2/customerGateway:CustomerGateway": CUSTOMER_GATEWAY.entry(),
    "aws:ec2/vpnConnection:VpnConnection": _connection_entry(),
    "aws:ec2/vpnConnectionRoute:VpnConnectionRoute": ResourceType(
        create=_create_connection_route,
        read=_read_connection_route,
        delete=_delete_connection_route,
    ),
    "aws:ec2/vpnGatewayRoutePropagation:VpnGatewayRoutePropagation": ResourceType(
        create=_propagate, read=_read_propagation, delete=_stop_propagation
    ),
}
