"""The WireGuard gateway: open to the sites' gateways only, and the VPC's way to the sites."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import replace

import pytest
import yaml

from infra.site_link import LinkedSite
from infra.wireguard_gateway import WireGuardGateway, WireGuardGatewayArgs, render_boot

ARGS = WireGuardGatewayArgs(
    vpc_id="vpc-1",
    vpc_cidr="10.60.0.0/16",
    subnet_id="subnet-1",
    route_tables={"a": "rtb-a", "b": "rtb-b"},
    sites=[
        LinkedSite("berlin", "10.61.0.0/16", "198.51.100.10"),
        LinkedSite("lyon", "10.62.0.0/16", "198.51.100.20"),
    ],
    instance_type="t4g.small",
    image_parameter="/aws/service/image",
    tags={"hybrid:environment": "test"},
)
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"


def gateway() -> WireGuardGateway:
    return WireGuardGateway("link", ARGS)


def test_from_outside_only_the_sites_gateways_reach_their_own_two_ports(declare):
    _, seen = declare(gateway)
    rules = {
        rule["cidrIpv4"]: (rule["ipProtocol"], rule.get("fromPort"), rule.get("toPort"))
        for rule in seen.inputs[INGRESS].values()
    }
    assert rules == {
        "10.60.0.0/16": ("-1", None, None),
        "198.51.100.10/32": ("udp", 51820, 51821),
        "198.51.100.20/32": ("udp", 51822, 51823),
    }


def test_every_route_table_leads_to_every_site_through_the_machine(declare):
    _, seen = declare(gateway)
    routes = {
        (route["routeTableId"], route["destinationCidrBlock"]): route["networkInterfaceId"]
        for route in seen.inputs["aws:ec2/route:Route"].values()
    }
    assert routes == {
        (table, site.cidr): "link-gateway-interface"
        for table in ARGS.route_tables.values()
        for site in ARGS.sites
    }
    assert seen.only("aws:ec2/instance:Instance")["sourceDestCheck"] is False
    address = seen.only("aws:ec2/eipAssociation:EipAssociation")
    assert address["instanceId"] == "link-gateway-id"


def test_the_machine_takes_tokens_for_metadata_and_encrypts_its_disk(declare):
    _, seen = declare(gateway)
    template = seen.only("aws:ec2/launchTemplate:LaunchTemplate")
    assert template["metadataOptions"]["httpTokens"] == "required"
    (disk,) = template["blockDeviceMappings"]
    assert disk["ebs"]["encrypted"] == "true"
    assert "keyName" not in template, "nobody logs in by SSH"
    policy = json.loads(seen.only("aws:iam/rolePolicy:RolePolicy")["policy"])
    (statement,) = policy["Statement"]
    assert not any("*" in action for action in statement["Action"])


def test_a_new_site_changes_no_machine_and_no_key_is_in_its_boot(declare):
    _, one = declare(lambda: WireGuardGateway("link", replace(ARGS, sites=ARGS.sites[:1])))
    _, two = declare(gateway)
    kind = "aws:ec2/launchTemplate:LaunchTemplate"
    assert one.only(kind) == two.only(kind)
    boot = base64.b64decode(two.only(kind)["userData"]).decode()
    assert boot == render_boot() and len(boot) < 16384


def test_the_boot_is_cloud_config_with_a_sound_script(tmp_path):
    assert render_boot().startswith("#cloud-config\n")
    document = yaml.safe_load(render_boot())
    files = {file["path"]: file for file in document["write_files"]}
    script = tmp_path / "wireguard-end"
    script.write_text(files["/usr/local/sbin/wireguard-end"]["content"])
    assert files["/usr/local/sbin/wireguard-end"]["permissions"] == "0755"
    assert subprocess.run(["sh", "-n", script]).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: run tools/test-tools.sh")
    assert subprocess.run(["shellcheck", script]).returncode == 0


def test_a_preview_knows_the_shape_but_no_id(declare, settled):
    made, seen = declare(gateway, preview=True)
    assert settled(made.instance_id)[1] is False
    assert len(seen.inputs["aws:ec2/route:Route"]) == 4
