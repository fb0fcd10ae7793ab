"""The link: two tunnels a site, strong proposals only, keys that stay secret."""

from __future__ import annotations

import pulumi
import pytest

from infra.site_link import LinkedSite, SiteLink, SiteLinkArgs, tunnel_options

SITES = [
    LinkedSite("berlin", "10.61.0.0/16", "198.51.100.10"),
    LinkedSite("lyon", "10.62.0.0/16", "198.51.100.20"),
]


def link() -> SiteLink:
    return SiteLink("link", SiteLinkArgs("vpc-1", "10.60.0.0/16", {"a": "rtb-a"}, SITES, 64512))


@pytest.mark.parametrize("number", [1, 2])
def test_no_weak_proposal_is_offered(number):
    options = tunnel_options(number)
    assert options[f"tunnel{number}_ike_versions"] == ["ikev2"]
    for phase in (1, 2):
        prefix = f"tunnel{number}_phase{phase}"
        assert options[f"{prefix}_encryption_algorithms"] == ["AES256-GCM-16"]
        assert min(options[f"{prefix}_dh_group_numbers"]) >= 19
        assert not any("SHA1" in name for name in options[f"{prefix}_integrity_algorithms"])


def test_each_site_has_a_connection_with_both_tunnels_and_a_route(declare):
    made, seen = declare(link)
    connections = seen.inputs["aws:ec2/vpnConnection:VpnConnection"]
    assert set(connections) == {"link-berlin", "link-lyon"}
    for site in SITES:
        inputs = connections[f"link-{site.name}"]
        assert inputs["localIpv4NetworkCidr"] == site.cidr
        assert inputs["tunnel1IkeVersions"] == inputs["tunnel2IkeVersions"] == ["ikev2"]
        gateway = seen.inputs["aws:ec2/customerGateway:CustomerGateway"][f"link-{site.name}"]
        assert gateway["ipAddress"] == site.public_ip
        route = seen.inputs["aws:ec2/vpnConnectionRoute:VpnConnectionRoute"][f"link-{site.name}"]
        assert route["destinationCidrBlock"] == site.cidr
    assert set(made.connections) == {"berlin", "lyon"}


def test_one_gateway_serves_all_sites_and_tells_the_routes(declare):
    _, seen = declare(link)
    assert seen.only("aws:ec2/vpnGateway:VpnGateway")["vpcId"] == "vpc-1"
    kind = "aws:ec2/vpnGatewayRoutePropagation:VpnGatewayRoutePropagation"
    assert seen.only(kind)["routeTableId"] == "rtb-a"


def test_the_keys_of_the_tunnels_are_secret(declare, settled):
    made, _ = declare(link)
    assert all(settled(tunnels)[2] for tunnels in made.tunnels.values())


def test_a_preview_works_before_the_vpc_exists(declare, settled):
    def program() -> SiteLink:
        unknown = pulumi.Output.from_input(pulumi.output.UNKNOWN)
        args = SiteLinkArgs(unknown, "10.60.0.0/16", {"a": unknown}, SITES, 64512)
        return SiteLink("link", args)

    made, seen = declare(program, preview=True)
    assert "vpcId" not in seen.only("aws:ec2/vpnGateway:VpnGateway")
    assert settled(made.connections["lyon"])[1] is False
