"""Rules of AWS security groups, each an object of its own, so that one changes without the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi_aws import ec2, vpc

Rule = Mapping[str, Any]


def ports(cidr: str, protocol: str, first: int, last: int) -> Rule:
    """Traffic of one network to or from the ports `first` to `last`."""
    return {
        "cidr_ipv4": cidr,
        "ip_protocol": protocol,
        "from_port": first,
        "to_port": last,
    }


def make_rules(
    group: ec2.SecurityGroup,
    name: str,
    inbound: Mapping[str, Rule],
    outbound: Mapping[str, Rule],
    opts: pulumi.ResourceOptions,
) -> None:
    """Make a group's rules; a rule's key is the end of its name."""
    for direction, rules, rule_type in (
        ("in", inbound, vpc.SecurityGroupIngressRule),
        ("out", outbound, vpc.SecurityGroupEgressRule),
    ):
        for key, rule in rules.items():
            rule_type(
                f"{name}-{direction}-{key}",
                security_group_id=group.id,
                tags={"Name": f"{name}-{direction}-{key}"},
                opts=opts,
                **rule,
            )
