"""The checks of NAT, peering and routes: each notices what it is there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from infra.network_checks import network_checks
from infra.resources import Declared
from stacks.capture import Capture
from stacks.settings import SHIPPED, Settings, load_settings


@cache
def planned(environment: str, driver: str) -> tuple[list[Declared], Settings]:
    """What layers `cloud` and `link` declare with one of the link's drivers."""
    settings = load_settings(environment, [SHIPPED])
    link = settings.link.model_copy(update={"driver": driver})
    chosen = settings.model_copy(update={"link": link})
    return Capture(environment, chosen).run(("cloud", "link")), chosen


def broken(resources: list[Declared], settings: Settings) -> list[str]:
    return [check.statement for check in network_checks(resources, settings) if not check.holds]


@pytest.mark.parametrize("driver", ["ipsec", "wireguard"])
def test_in_what_we_declare_every_check_holds_and_each_subnet_site_and_pair_has_one(driver):
    resources, settings = planned("production", driver)
    checks = network_checks(resources, settings)
    assert broken(resources, settings) == []
    zones, sites, networks = 3, 2, 6
    count = {kind: sum(c.kind == kind for c in checks) for kind in ("nat", "peering", "route")}
    assert count == {
        "nat": zones * 3,  # each gateway, each private subnet twice
        "peering": networks * (networks - 1) // 2 + sites * (2 if driver == "ipsec" else 1),
        "route": (zones + 1) * sites + zones,  # private tables and the public one, and S3
    }


def without(kind: str, name: str) -> Callable[[list[Declared]], list[Declared]]:
    """Leave out what `up` would have made."""
    return lambda found: [r for r in found if not (r.type.endswith(f":{kind}") and name in r.name)]


def with_input(kind: str, name: str, **inputs: object) -> Callable[[list[Declared]], list]:
    """Declare something else in one resource; what it referred to there is no source any more."""

    def change(found: list[Declared]) -> list[Declared]:
        return [
            replace(
                r,
                inputs={**r.inputs, **inputs},
                sources={key: value for key, value in r.sources.items() if key not in inputs},
            )
            if r.type.endswith(f":{kind}") and name in r.name
            else r
            for r in found
        ]

    return change


@pytest.mark.parametrize(
    ("driver", "change", "told"),
    [
        ("ipsec", without("Route", "public"), "lies where the internet is reached"),
        ("ipsec", without("Route", "private-eu-central-1b"), "1b reaches the internet by NAT only"),
        ("ipsec", with_input("Subnet", "public-eu-central-1c", availabilityZone="eu-central-1a"),
         "private-eu-central-1c uses the NAT gateway of its own zone"),
        ("ipsec", with_input("CustomerGateway", "lyon", ipAddress="198.51.100.1"),
         "connected with 203.0.113.20 of site-lyon"),
        ("ipsec", with_input("VpnConnection", "lyon", remoteIpv4NetworkCidr="0.0.0.0/0"),
         "carries 10.70.0.0/16 and site-lyon"),
        ("ipsec", with_input("VpnConnection", "berlin", vpnGatewayId="vgw-0"),
         "connected with 203.0.113.10 of site-berlin"),
        ("ipsec", without("VpnConnectionRoute", "berlin"), "leads to site-berlin by the link"),
        ("ipsec", without("VpnGatewayRoutePropagation", "1a"), "1a leads to site-lyon by the link"),
        ("ipsec", without("VpcEndpoint", "s3"), "reaches S3 without NAT"),
        ("wireguard", with_input("Instance", "", sourceDestCheck=True), "a machine passes on"),
        ("wireguard", without("Route", "lyon"), "leads to site-lyon by the link"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_of_where_it_is(driver, change, told):
    resources, settings = planned("production", driver)
    changed = change(list(resources))
    assert changed != list(resources), "the change found nothing to change"
    assert any(told in statement for statement in broken(changed, settings))


def test_a_public_subnet_that_reaches_a_site_is_told_of():
    resources, settings = planned("production", "ipsec")
    public = next(r for r in resources if r.type.endswith(":RouteTable") and "public" in r.name)
    propagation = next(r for r in resources if r.type.endswith(":VpnGatewayRoutePropagation"))
    sources = {**propagation.sources, "routeTableId": frozenset({public.urn})}
    changed = [*resources, replace(propagation, sources=sources)]
    assert broken(changed, settings) == [
        f"{public.name} has no way to site-berlin", f"{public.name} has no way to site-lyon",
    ]  # fmt: skip
