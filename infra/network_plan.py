"""Plan of the addresses: which networks may stand side by side, and a VPC's subnets over its zones.

Pure: no Pulumi, no cloud. A network is an :class:`ipaddress.IPv4Network`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from itertools import combinations

# k3s's own defaults; a site or VPC inside them would be unreachable from pods.
PODS = IPv4Network("10.42.0.0/16")
SERVICES = IPv4Network("10.43.0.0/16")

# Tunnels have their inside addresses here, and AWS its own services.
LINK_LOCAL = IPv4Network("169.254.0.0/16")

# What anybody may use within (RFC 1918), in the order in which it is suggested.
PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))

# What AWS accepts for a VPC and for a subnet.
LARGEST_VPC, SMALLEST_SUBNET = 16, 28


class NetworkPlanError(ValueError):
    """Networks that cannot work together; the sentence names them."""

    exit_code = 2


@dataclass(frozen=True)
class Subnet:
    """One subnet of the plan.

    Attributes
    ----------
    zone
        Availability zone it lies in.
    public
        Whether its route leads to the internet gateway instead of a NAT gateway.
    network
        Its addresses.
    """

    zone: str
    public: bool
    network: IPv4Network


def overlaps(networks: Mapping[str, IPv4Network]) -> list[tuple[str, str]]:
    """Pairs of names whose networks share an address, in the order given."""
    return [
        (one, other)
        for (one, first), (other, second) in combinations(networks.items(), 2)
        if first.overlaps(second)
    ]


def require_disjoint(networks: Mapping[str, IPv4Network]) -> None:
    """Check that every address belongs to one network at most.

    Raises
    ------
    NetworkPlanError
        Two networks overlap: traffic between them could not be routed.
    """
    for one, other in overlaps(networks):
        raise NetworkPlanError(
            f"{one} {networks[one]} overlaps {other} {networks[other]}: give them separate ranges"
        )


def free_networks(taken: Iterable[IPv4Network], prefix: int) -> Iterator[IPv4Network]:
    """Private networks of a size that overlap none of those taken, nor k3s's, lowest first.

    Parameters
    ----------
    taken
        Networks in use.
    prefix
        Length of the prefix of the networks wanted.
    """
    taken = [*taken, PODS, SERVICES]
    for space in PRIVATE:
        if prefix < space.prefixlen:
            continue
        first, size = int(space.network_address), 2 ** (32 - prefix)
        while first <= int(space.broadcast_address):
            candidate = IPv4Network((first, prefix))
            blockers = [int(net.broadcast_address) for net in taken if net.overlaps(candidate)]
            if not blockers:
                yield candidate
            # The next multiple of the size after everything that is in the way here.
            first = max([first, *blockers]) // size * size + size


def plan_subnets(vpc: IPv4Network, zones: Iterable[str]) -> list[Subnet]:
    """Cut a VPC into a large private and a small public subnet for each zone.

    The VPC is halved until there is a slice for each zone. Of a slice, the first half is private,
    since machines live there; of the second half the first quarter is public, since only NAT
    gateways do. The rest stays free for what comes later.

    Parameters
    ----------
    vpc
        Addresses of the whole VPC.
    zones
        Availability zones, in a fixed order: a zone appended later moves no subnet as long as the
        number of slices, the next power of two, stays.

    Returns
    -------
    list of Subnet
        Private subnets in the order of the zones, then the public ones.

    Raises
    ------
    NetworkPlanError
        A zone is named twice, there is none, or the VPC is too large or too small.
    """
    zones = list(zones)
    if not zones or len(set(zones)) != len(zones):
        raise NetworkPlanError(f"zones {zones} must be one or more different names")
    if vpc.prefixlen < LARGEST_VPC:
        raise NetworkPlanError(f"VPC {vpc} is larger than the /{LARGEST_VPC} that AWS allows")
    slice_prefix = vpc.prefixlen + (len(zones) - 1).bit_length()
    public_prefix = slice_prefix + 3
    if public_prefix > SMALLEST_SUBNET:
        largest = SMALLEST_SUBNET - (public_prefix - vpc.prefixlen)
        raise NetworkPlanError(
            f"VPC {vpc} is too small for {len(zones)} zones: it must be a /{largest} or larger"
        )
    slices = list(vpc.subnets(new_prefix=slice_prefix))[: len(zones)]
    private, public = [], []
    for zone, part in zip(zones, slices, strict=True):
        machines, rest = part.subnets(prefixlen_diff=1)
        private.append(Subnet(zone, False, machines))
        public.append(Subnet(zone, True, next(rest.subnets(new_prefix=public_prefix))))
    return private + public
