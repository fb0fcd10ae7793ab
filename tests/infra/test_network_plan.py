"""The address plan: nothing overlaps, every zone is served, and what cannot be is refused."""

from __future__ import annotations

from ipaddress import IPv4Network
from itertools import combinations, islice

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from infra.network_plan import (
    PODS,
    SERVICES,
    PRIVATE,
    SMALLEST_SUBNET,
    NetworkPlanError,
    free_networks,
    overlaps,
    plan_subnets,
    require_disjoint,
)

networks = st.builds(
    lambda address, prefix: IPv4Network((address, prefix), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(8, 28),
)
vpcs = st.builds(
    lambda address, prefix: IPv4Network((address, prefix), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(16, 22),
)
zones = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True)


def addresses(network: IPv4Network) -> range:
    return range(int(network.network_address), int(network.broadcast_address) + 1)


@given(vpcs, zones)
def test_subnets_lie_in_the_vpc_and_share_no_address(vpc, zones):
    subnets = [subnet.network for subnet in plan_subnets(vpc, zones)]
    assert all(subnet.subnet_of(vpc) for subnet in subnets)
    assert not any(one.overlaps(other) for one, other in combinations(subnets, 2))


@given(vpcs, zones)
def test_every_zone_gets_one_private_and_one_public_subnet(vpc, zones):
    plan = plan_subnets(vpc, zones)
    for public in (False, True):
        assert [subnet.zone for subnet in plan if subnet.public is public] == zones
    assert all(subnet.network.prefixlen <= SMALLEST_SUBNET for subnet in plan)


@given(vpcs, zones)
def test_machines_get_at_least_a_quarter_of_the_vpc(vpc, zones):
    private = sum(s.network.num_addresses for s in plan_subnets(vpc, zones) if not s.public)
    assert private * 4 >= vpc.num_addresses


@given(vpcs, zones)
def test_appending_a_zone_moves_no_subnet_within_a_power_of_two(vpc, zones):
    assume(len(zones) > 1 and (len(zones) - 1).bit_length() == (len(zones) - 2).bit_length())
    before, after = plan_subnets(vpc, zones[:-1]), plan_subnets(vpc, zones)
    assert set(before) <= set(after)


@given(st.dictionaries(st.text(min_size=1), networks, max_size=6))
def test_overlaps_are_exactly_the_pairs_with_a_common_address(named):
    found = set(overlaps(named))
    for one, other in combinations(named, 2):
        first, second = addresses(named[one]), addresses(named[other])
        common = max(first.start, second.start) < min(first.stop, second.stop)
        assert ((one, other) in found) is common


@given(st.lists(networks, max_size=8), st.integers(8, 28))
def test_networks_suggested_are_private_and_overlap_nothing(taken, prefix):
    found = list(islice(free_networks(taken, prefix), 6))
    everything = [*found, *taken, PODS, SERVICES]
    for one in found:
        assert one.prefixlen == prefix and any(one.subnet_of(space) for space in PRIVATE)
        assert not any(one.overlaps(other) for other in everything if other is not one)


@given(st.lists(networks, max_size=4))
def test_no_free_network_is_passed_over(taken):
    found = list(free_networks(taken, 14))
    for candidate in (net for space in PRIVATE[:1] for net in space.subnets(new_prefix=14)):
        free = not any(candidate.overlaps(other) for other in [*taken, PODS, SERVICES])
        assert (candidate in found) is free


def test_an_overlap_is_told_by_both_names_and_ranges():
    with pytest.raises(NetworkPlanError) as error:
        require_disjoint(
            {"network.vpc_cidr": IPv4Network("10.42.128.0/20"), "k3s's pods": PODS}
        )
    assert str(error.value) == (
        "network.vpc_cidr 10.42.128.0/20 overlaps k3s's pods 10.42.0.0/16: "
        "give them separate ranges"
    )
    require_disjoint({"pods": PODS, "services": SERVICES})


@pytest.mark.parametrize(
    ("vpc", "zones", "sentence"),
    [
        ("10.0.0.0/8", ["a"], "VPC 10.0.0.0/8 is larger than the /16 that AWS allows"),
        (
            "10.0.0.0/26",
            ["a", "b"],
            "VPC 10.0.0.0/26 is too small for 2 zones: it must be a /24 or larger",
        ),
        ("10.0.0.0/16", [], "zones [] must be one or more different names"),
        ("10.0.0.0/16", ["a", "a"], "zones ['a', 'a'] must be one or more different names"),
    ],
)
def test_a_vpc_that_cannot_be_cut_is_refused(vpc, zones, sentence):
    with pytest.raises(NetworkPlanError) as error:
        plan_subnets(IPv4Network(vpc), zones)
    assert str(error.value) == sentence


@given(st.integers(17, 28), zones)
def test_the_size_named_as_large_enough_is_so(prefix, zones):
    try:
        plan_subnets(IPv4Network(("10.0.0.0", prefix)), zones)
    except NetworkPlanError as error:
        named = int(str(error).split("/")[-1].split()[0])
        plan_subnets(IPv4Network(("10.0.0.0", named)), zones)
        with pytest.raises(NetworkPlanError):
            plan_subnets(IPv4Network(("10.0.0.0", named + 1)), zones)
