"""Whether the two sides reach each other, and only as they should: NAT, peering and routes.

Pure: looks at what the programs of an environment on AWS declare, before anything is made. A check
is one statement about one subnet, gateway, site or pair of networks; none is skipped in silence,
so that their number says how much was looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from infra.policy.rule import of_type, refers_to
from infra.resources import Declared

if TYPE_CHECKING:
    from stacks.settings import Settings, Site

ANYWHERE = "0.0.0.0/0"
Kind = Literal["nat", "peering", "route"]


@dataclass(frozen=True)
class Check:
    """What must hold, as a sentence, and whether it does."""

    kind: Kind
    statement: str
    holds: bool


class Network:
    """What an environment's programs declare of networks, by type."""

    def __init__(self, resources: Sequence[Declared]) -> None:
        def some(name: str) -> list[Declared]:
            return list(of_type(resources, f"aws:ec2/{name[0].lower()}{name[1:]}:{name}"))

        self.vpcs, self.subnets, self.tables = some("Vpc"), some("Subnet"), some("RouteTable")
        self.associations, self.routes = some("RouteTableAssociation"), some("Route")
        self.nats, self.internet = some("NatGateway"), some("InternetGateway")
        self.endpoints, self.machines = some("VpcEndpoint"), some("Instance")
        self.gateways, self.customers = some("VpnGateway"), some("CustomerGateway")
        self.connections = some("VpnConnection")
        self.told = some("VpnConnectionRoute")
        self.propagations = some("VpnGatewayRoutePropagation")

    def table(self, subnet: Declared) -> Declared | None:
        """The route table of a subnet."""
        for association in self.associations:
            if refers_to(association, "subnetId", subnet):
                return _target(association, "routeTableId", self.tables)
        return None

    def route(self, table: Declared, cidr: str) -> Declared | None:
        """The route of a table to exactly these addresses."""
        return next(
            (
                route
                for route in self.routes
                if self._is_of(route, table)
                and route.inputs.get("destinationCidrBlock") == cidr
            ),
            None,
        )

    def is_public(self, table: Declared) -> bool:
        """Whether a table's default route leads to an internet gateway."""
        route = self.route(table, ANYWHERE)
        return route is not None and _target(route, "gatewayId", self.internet) is not None

    def leads_to(self, table: Declared, site: Site) -> bool:
        """Whether a table has a way to a site: by a gateway that tells its routes, or a machine."""
        route = self.route(table, str(site.cidr))
        if route is not None and _target(route, "networkInterfaceId", self.machines):
            return True
        return any(
            self._is_of(propagation, table)
            and (gateway := _target(propagation, "vpnGatewayId", self.gateways)) is not None
            and any(
                refers_to(connection, "vpnGatewayId", gateway)
                for connection in self._connections_to(site)
            )
            for propagation in self.propagations
        )

    def _is_of(self, resource: Declared, table: Declared) -> bool:
        """Whether a resource belongs to a route table.

        The tables of all zones come from another layer as one output, of which every part comes
        from all of them: then the zone in the resource's name says which it is.
        """
        if not refers_to(resource, "routeTableId", table):
            return False
        tables = {each.urn for each in self.tables}
        if len(tables & resource.sources.get("routeTableId", frozenset())) < 2:
            return True
        return any(
            zone in resource.name
            for association in self.associations
            if refers_to(association, "routeTableId", table)
            and (subnet := _target(association, "subnetId", self.subnets)) is not None
            and (zone := _zone(subnet))
        )

    def _connections_to(self, site: Site) -> Iterator[Declared]:
        for told in self.told:
            if told.inputs.get("destinationCidrBlock") == str(site.cidr):
                if connection := _target(told, "vpnConnectionId", self.connections):
                    yield connection


def network_checks(resources: Sequence[Declared], settings: Settings) -> list[Check]:
    """Every check of an environment on AWS.

    Parameters
    ----------
    resources
        What its layers `cloud` and `link` declare.
    """
    network = Network(resources)
    return [
        *_nat(network, settings),
        *_peering(network, settings),
        *_routes(network, settings),
    ]


def _nat(network: Network, settings: Settings) -> Iterator[Check]:
    for nat in network.nats:
        subnet = _target(nat, "subnetId", network.subnets)
        table = subnet and network.table(subnet)
        holds = table is not None and network.is_public(table)
        yield Check("nat", f"{nat.name} lies where the internet is reached", holds)
    for subnet in network.subnets:
        table = network.table(subnet)
        if table is not None and network.is_public(table):
            continue
        route = table and network.route(table, ANYWHERE)
        nat = route and _target(route, "natGatewayId", network.nats)
        yield Check("nat", f"{subnet.name} reaches the internet by NAT only", nat is not None)
        if settings.network.nat == "per-zone":
            place = nat and _target(nat, "subnetId", network.subnets)
            same = place is not None and _zone(place) == _zone(subnet)
            yield Check("nat", f"{subnet.name} uses the NAT gateway of its own zone", same)


def _peering(network: Network, settings: Settings) -> Iterator[Check]:
    for (one, first), (other, second) in combinations(settings.networks().items(), 2):
        statement = f"{one} {first} and {other} {second} share no address"
        yield Check("peering", statement, not first.overlaps(second))
    vpc = str(settings.network.vpc_cidr)
    for site in settings.sites:
        name = f"{site.name} {site.cidr}"
        if settings.link.driver == "wireguard":
            passes = any(m.inputs.get("sourceDestCheck") is False for m in network.machines)
            yield Check("peering", f"a machine passes on what is for {name}", passes)
            continue
        found = [
            (connection, customer)
            for customer in network.customers
            if customer.inputs.get("ipAddress") == str(site.public_ip)
            for connection in network.connections
            if refers_to(connection, "customerGatewayId", customer)
        ]
        ends = any(
            (gateway := _target(connection, "vpnGatewayId", network.gateways)) is not None
            and _target(gateway, "vpcId", network.vpcs) is not None
            for connection, _ in found
        )
        yield Check("peering", f"the VPC is connected with {site.public_ip} of {name}", ends)
        carried = any(
            connection.inputs.get("localIpv4NetworkCidr") == str(site.cidr)
            and connection.inputs.get("remoteIpv4NetworkCidr") == vpc
            for connection, _ in found
        )
        yield Check("peering", f"the connection carries {vpc} and {name}, nothing else", carried)


def _routes(network: Network, settings: Settings) -> Iterator[Check]:
    for table in network.tables:
        public = network.is_public(table)
        for site in settings.sites:
            leads = network.leads_to(table, site)
            if public:
                yield Check("route", f"{table.name} has no way to {site.name}", not leads)
            else:
                yield Check("route", f"{table.name} leads to {site.name} by the link", leads)
        if not public:
            stored = any(table.urn in e.sources.get("routeTableIds", ()) for e in network.endpoints)
            yield Check("route", f"{table.name} reaches S3 without NAT", stored)


def _target(resource: Declared, name: str, among: Iterable[Declared]) -> Declared | None:
    """The one of several resources that an input comes from."""
    return next((other for other in among if refers_to(resource, name, other)), None)


def _zone(subnet: Declared) -> str:
    return str(subnet.inputs.get("availabilityZone"))
