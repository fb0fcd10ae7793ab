"""The picture: layers are boxes, arrows lead from what is needed to what needs it."""

from __future__ import annotations

import re

from cli.graph import draw
from infra.resources import Declared


def test_resources_lie_in_their_layer_and_arrows_follow_the_sources():
    vpc = Declared("cloud", "aws:ec2/vpc:Vpc", "net", "urn-vpc", True, {})
    sources = {"vpcId": frozenset(["urn-vpc"]), "tags": frozenset(["urn-component"])}
    gateway = Declared(
        "link", "aws:ec2/vpnGateway:VpnGateway", "<gate>", "urn-gate", True, {}, sources
    )
    component = Declared("cloud", "hybrid:infra:GpuPool", "pool", "urn-component", False, {})
    svg = draw([vpc, component, gateway])
    assert svg.lstrip().startswith("<?xml") and "&lt;gate&gt;" in svg
    titles = re.findall(r"<title>(.*?)</title>", svg)
    assert {"cluster_cloud", "cluster_link", "urn&#45;vpc"} <= set(titles)
    assert [t for t in titles if "&#45;&gt;" in t] == ["urn&#45;vpc&#45;&gt;urn&#45;gate"]
