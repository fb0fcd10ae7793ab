"""The cloud's end of WireGuard links: one small machine that the VPC's routes to the sites lead to."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import yaml
from pulumi_aws import ec2, iam

from infra.firewall import make_rules, ports
from infra.gpu_pool import ANYWHERE, ASSUMED_BY_EC2, HTTPS
from infra.site_link import LinkedSite
from infra.wireguard import SCRIPT, plan_tunnels

# What the machine's SSM agent asks for: commands come to it that way, so no port is open for them.
AGENT_ACTIONS = [
    "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
]


@dataclass(frozen=True)
class WireGuardGatewayArgs:
    """Where the machine stands and whom it links.

    Parameters
    ----------
    vpc_id, vpc_cidr
        The cloud side.
    subnet_id
        A public subnet.
    route_tables
        Route tables that learn the way to the sites, by a name that stays when the id changes.
    sites
        The other sides, in the order of the settings.
    instance_type, image_parameter
        The machine, and the SSM parameter with its image's id.
    tags
        Put on the machine's volume, which the provider's default tags do not reach.
    """

    vpc_id: pulumi.Input[str]
    vpc_cidr: str
    subnet_id: pulumi.Input[str]
    route_tables: Mapping[str, pulumi.Input[str]]
    sites: Sequence[LinkedSite]
    instance_type: str
    image_parameter: str
    tags: Mapping[str, str]


class WireGuardGateway(pulumi.ComponentResource):
    """A machine with two WireGuard tunnels for each site; `hybrid link rotate` gives it its keys.

    Attributes
    ----------
    instance_id, public_ip
        The machine, and the address that the sites' gateways know it by.
    """

    instance_id: pulumi.Output[str]
    public_ip: pulumi.Output[str]

    def __init__(
        self, name: str, args: WireGuardGatewayArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:WireGuardGateway", name, None, opts)
        self._name, self._args = f"{name}-gateway", args
        self._own = pulumi.ResourceOptions(parent=self)
        group = self._make_security_group()
        instance = self._make_instance(group, self._make_instance_profile())
        address = ec2.Eip(
            self._name, domain="vpc", tags={"Name": self._name}, opts=self._own
        )
        ec2.EipAssociation(
            self._name, allocation_id=address.id, instance_id=instance.id, opts=self._own
        )
        for table, table_id in args.route_tables.items():
            for site in args.sites:
                ec2.Route(
                    f"{name}-{table}-{site.name}",
                    route_table_id=table_id,
                    destination_cidr_block=site.cidr,
                    network_interface_id=instance.primary_network_interface_id,
                    opts=self._own,
                )
        self.instance_id, self.public_ip = instance.id, address.public_ip
        self.register_outputs({"instance_id": instance.id, "public_ip": address.public_ip})

    def _make_security_group(self) -> ec2.SecurityGroup:
        """A site's gateway reaches its own two UDP ports; the VPC's packets pass through."""
        name, args = self._name, self._args
        group = ec2.SecurityGroup(
            name,
            vpc_id=args.vpc_id,
            description="WireGuard gateway of the sites",
            tags={"Name": name},
            opts=self._own,
        )
        from_vpc = {"cidr_ipv4": args.vpc_cidr, "ip_protocol": "-1"}
        inbound, outbound = {"vpc": from_vpc}, {"vpc": from_vpc}
        outbound["https"] = ports(ANYWHERE, "tcp", HTTPS, HTTPS)
        for number, site in enumerate(args.sites):
            numbers = [tunnel.port for tunnel in plan_tunnels(number)]
            rule = ports(f"{site.public_ip}/32", "udp", min(numbers), max(numbers))
            inbound[site.name] = outbound[site.name] = rule
        make_rules(group, name, inbound, outbound, self._own)
        return group

    def _make_instance_profile(self) -> iam.InstanceProfile:
        name = self._name
        role = iam.Role(
            name,
            assume_role_policy=json.dumps(ASSUMED_BY_EC2),
            description="WireGuard gateway: take commands by SSM, nothing else",
            tags={"Name": name},
            opts=self._own,
        )
        statement = {"Effect": "Allow", "Action": AGENT_ACTIONS, "Resource": "*"}
        iam.RolePolicy(
            f"{name}-commands",
            role=role.name,
            # These actions know no resources.
            policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
            opts=self._own,
        )
        return iam.InstanceProfile(name, role=role.name, tags={"Name": name}, opts=self._own)

    def _make_instance(
        self, group: ec2.SecurityGroup, profile: iam.InstanceProfile
    ) -> ec2.Instance:
        name, args = self._name, self._args
        template = ec2.LaunchTemplate(
            name,
            image_id=f"resolve:ssm:{args.image_parameter}",
            instance_type=args.instance_type,
            update_default_version=True,
            iam_instance_profile={"arn": profile.arn},
            vpc_security_group_ids=[group.id],
            user_data=base64.b64encode(render_boot().encode()).decode(),
            metadata_options={
                "http_endpoint": "enabled",
                "http_tokens": "required",
                "http_put_response_hop_limit": 1,
            },
            block_device_mappings=[
                {
                    "device_name": "/dev/xvda",
                    "ebs": {
                        "volume_size": 8,
                        "volume_type": "gp3",
                        "encrypted": "true",
                        "delete_on_termination": "true",
                    },
                }
            ],
            tag_specifications=[
                {"resource_type": "volume", "tags": {**args.tags, "Name": name}}
            ],
            tags={"Name": name},
            opts=self._own,
        )
        return ec2.Instance(
            name,
            launch_template={"id": template.id, "version": "$Default"},
            subnet_id=args.subnet_id,
            # It passes on what is addressed to others.
            source_dest_check=False,
            tags={"Name": name},
            opts=self._own,
        )


def render_boot() -> str:
    """cloud-config of the machine: WireGuard's tools, forwarding, and the tunnels it had.

    It holds no key and no site, so that a new site changes no machine.
    """
    program = "/usr/local/sbin/wireguard-end"
    unit = (
        "[Unit]\nDescription=Tunnels to the sites\nAfter=network-online.target\n"
        "Wants=network-online.target\n\n"
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={program} resume all\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    files = [
        (program, "0755", SCRIPT.read_text()),
        ("/etc/sysctl.d/90-hybrid-link.conf", "0644", "net.ipv4.ip_forward = 1\n"),
        ("/etc/systemd/system/hybrid-link.service", "0644", unit),
    ]
    document = {
        "packages": ["wireguard-tools"],
        "write_files": [
            {"path": path, "permissions": mode, "content": text} for path, mode, text in files
        ],
        "runcmd": [
            ["sysctl", "--system"],
            ["systemctl", "enable", "--now", "hybrid-link.service"],
        ],
    }
    return "#cloud-config\n" + yaml.safe_dump(document, sort_keys=False)
