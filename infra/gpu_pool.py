"""GPU machines of the cloud side: a VPC of their own and a group that grows from zero."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
from pulumi_aws import autoscaling, ec2, iam, secretsmanager

from infra import gpu, node_boot
from infra.firewall import make_rules, ports
from infra.network_plan import plan_subnets

ANYWHERE = "0.0.0.0/0"

# What a site's k3s and a GPU node say to each other (k3s: "Inbound Rules for K3s Nodes").
KUBELET, VXLAN = 10250, 8472
HTTPS = 443

LEAVE_HOOK = "hybrid-leave"
# After this a machine that does not say that it has left goes all the same.
LEAVE_SECONDS = node_boot.DRAIN_SECONDS + 90


@dataclass(frozen=True)
class GpuPoolArgs:
    """Where the machines live, what they are, and what they may do.

    Parameters
    ----------
    region, zones, vpc_cidr
        The network; each zone gets a private and a public subnet.
    nat_per_zone
        Whether each zone has a NAT gateway of its own, so that one zone's loss cuts off no other.
    site_cidrs
        Networks behind the link, whose nodes may talk to these.
    instance_types
        In order of preference for on-demand machines.
    minimum, maximum, on_demand_base, spot_share
        Size of the group; of the machines above the base, the share from 0 to 1 that are spot.
    volume_gib
        Root volume.
    image_parameter
        SSM parameter with the image's id, read by EC2 at each launch.
    time_slices
        Pods that share a GPU.
    cluster
        Name under which the cluster autoscaler finds the group.
    joins
        The cluster that machines join when they boot; None where there is none to join.
    bucket_arn
        The only bucket that the machines can read and write.
    tags
        Put on machines and volumes at launch: the provider's default tags do not reach those.
    """

    region: str
    zones: Sequence[str]
    vpc_cidr: IPv4Network
    nat_per_zone: bool
    site_cidrs: Sequence[str]
    instance_types: Sequence[str]
    minimum: int
    maximum: int
    on_demand_base: int
    spot_share: float
    volume_gib: int
    image_parameter: str
    time_slices: int
    cluster: str
    joins: node_boot.Cluster | None
    bucket_arn: pulumi.Input[str]
    tags: Mapping[str, str]


class GpuPool(pulumi.ComponentResource):
    """A VPC with an autoscaling group of GPU machines in its private subnets.

    Attributes
    ----------
    vpc_id, security_group_id, group_name, group_arn, role_arn
        The parts that other layers refer to.
    token_secret
        ARN of the secret that must hold the join token; None where there is no cluster to join.
    private_subnets, public_subnets, private_route_tables
        Ids by zone.
    """

    vpc_id: pulumi.Output[str]
    security_group_id: pulumi.Output[str]
    group_name: pulumi.Output[str]
    group_arn: pulumi.Output[str]
    role_arn: pulumi.Output[str]
    token_secret: pulumi.Output[str] | None
    private_subnets: dict[str, pulumi.Output[str]]
    public_subnets: dict[str, pulumi.Output[str]]
    private_route_tables: dict[str, pulumi.Output[str]]

    def __init__(
        self, name: str, args: GpuPoolArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:GpuPool", name, None, opts)
        self._name, self._args = name, args
        self._own = pulumi.ResourceOptions(parent=self)
        subnets = self._make_network()
        security_group = self._make_security_group()
        role, profile = self._make_instance_profile()
        self.token_secret = self._make_token_secret(role) if args.joins else None
        template = self._make_launch_template(security_group, profile)
        group = self._make_group(template, subnets)
        if args.joins:
            self._make_leave_hook(role, group)
        self.security_group_id = security_group.id
        self.group_name, self.group_arn = group.name, group.arn
        self.register_outputs({"vpc_id": self.vpc_id, "group_name": self.group_name})

    def _make_network(self) -> list[ec2.Subnet]:
        """Make VPC, subnets and routes; returns the private subnets."""
        name, args = self._name, self._args
        network = ec2.Vpc(
            name,
            cidr_block=str(args.vpc_cidr),
            enable_dns_support=True,
            enable_dns_hostnames=True,
            tags={"Name": name},
            opts=self._own,
        )
        self.vpc_id = network.id
        internet = ec2.InternetGateway(
            name, vpc_id=network.id, tags={"Name": name}, opts=self._own
        )
        public_table = ec2.RouteTable(
            f"{name}-public", vpc_id=network.id, tags={"Name": f"{name}-public"}, opts=self._own
        )
        ec2.Route(
            f"{name}-public",
            route_table_id=public_table.id,
            destination_cidr_block=ANYWHERE,
            gateway_id=internet.id,
            opts=self._own,
        )
        plan = plan_subnets(args.vpc_cidr, args.zones)
        self.public_subnets, nats = {}, {}
        for planned in (subnet for subnet in plan if subnet.public):
            subnet = self._make_subnet("public", planned.zone, planned.network, public_table)
            self.public_subnets[planned.zone] = subnet.id
            if args.nat_per_zone or not nats:
                nats[planned.zone] = self._make_nat(planned.zone, subnet, internet)
        shared_nat = next(iter(nats.values()))
        self.private_subnets, self.private_route_tables, private = {}, {}, []
        for planned in (subnet for subnet in plan if not subnet.public):
            zone = planned.zone
            table = ec2.RouteTable(
                f"{name}-private-{zone}",
                vpc_id=network.id,
                tags={"Name": f"{name}-private-{zone}"},
                opts=self._own,
            )
            ec2.Route(
                f"{name}-private-{zone}",
                route_table_id=table.id,
                destination_cidr_block=ANYWHERE,
                nat_gateway_id=nats.get(zone, shared_nat).id,
                opts=self._own,
            )
            subnet = self._make_subnet("private", zone, planned.network, table)
            self.private_subnets[zone], self.private_route_tables[zone] = subnet.id, table.id
            private.append(subnet)
        # Models and data are large: through this endpoint they pay no NAT charge.
        ec2.VpcEndpoint(
            f"{name}-s3",
            vpc_id=network.id,
            vpc_endpoint_type="Gateway",
            service_name=f"com.amazonaws.{args.region}.s3",
            route_table_ids=list(self.private_route_tables.values()),
            tags={"Name": f"{name}-s3"},
            opts=self._own,
        )
        return private

    def _make_subnet(
        self, kind: str, zone: str, network: IPv4Network, table: ec2.RouteTable
    ) -> ec2.Subnet:
        name = f"{self._name}-{kind}-{zone}"
        subnet = ec2.Subnet(
            name,
            vpc_id=self.vpc_id,
            availability_zone=zone,
            cidr_block=str(network),
            map_public_ip_on_launch=False,
            tags={"Name": name},
            opts=self._own,
        )
        ec2.RouteTableAssociation(
            name, subnet_id=subnet.id, route_table_id=table.id, opts=self._own
        )
        return subnet

    def _make_nat(
        self, zone: str, subnet: ec2.Subnet, internet: ec2.InternetGateway
    ) -> ec2.NatGateway:
        name = f"{self._name}-nat-{zone}"
        address = ec2.Eip(name, domain="vpc", tags={"Name": name}, opts=self._own)
        return ec2.NatGateway(
            name,
            subnet_id=subnet.id,
            allocation_id=address.id,
            tags={"Name": name},
            opts=pulumi.ResourceOptions(parent=self, depends_on=[internet]),
        )

    def _make_security_group(self) -> ec2.SecurityGroup:
        """Nodes talk among themselves and with the sites' nodes; out they go by HTTPS only."""
        name, sites = self._name, self._args.site_cidrs
        group = ec2.SecurityGroup(
            name,
            vpc_id=self.vpc_id,
            description="GPU nodes of the private cluster",
            tags={"Name": name},
            opts=self._own,
        )
        everything = {"ip_protocol": "-1", "referenced_security_group_id": group.id}
        inbound = {"nodes": everything}
        outbound = {
            "nodes": everything,
            "https": ports(ANYWHERE, "tcp", HTTPS, HTTPS),
        }
        for cidr in sites:
            key = cidr.replace("/", "-")
            for service, protocol, port in (("kubelet", "tcp", KUBELET), ("vxlan", "udp", VXLAN)):
                inbound[f"{service}-{key}"] = ports(cidr, protocol, port, port)
            outbound[f"site-{key}"] = {"cidr_ipv4": cidr, "ip_protocol": "-1"}
        make_rules(group, name, inbound, outbound, self._own)
        return group

    def _make_instance_profile(self) -> tuple[iam.Role, iam.InstanceProfile]:
        name = self._name
        role = iam.Role(
            name,
            assume_role_policy=json.dumps(ASSUMED_BY_EC2),
            description="GPU nodes: the model bucket, the join token, leaving their group",
            tags={"Name": name},
            opts=self._own,
        )
        self.role_arn = role.arn
        iam.RolePolicy(
            f"{name}-models",
            role=role.name,
            policy=pulumi.Output.from_input(self._args.bucket_arn).apply(bucket_policy),
            opts=self._own,
        )
        profile = iam.InstanceProfile(name, role=role.name, tags={"Name": name}, opts=self._own)
        return role, profile

    def _make_token_secret(self, role: iam.Role) -> pulumi.Output[str]:
        """Where machines find the token; it is put in by the layer that knows it."""
        name = f"{self._name}-join"
        secret = secretsmanager.Secret(
            name,
            description="Token with which GPU machines join the private cluster as agents",
            # The token is in the private layer's state; a deleted secret would keep its name.
            recovery_window_in_days=0,
            tags={"Name": name},
            opts=self._own,
        )
        iam.RolePolicy(
            name,
            role=role.name,
            policy=secret.arn.apply(lambda arn: allow(["secretsmanager:GetSecretValue"], arn)),
            opts=self._own,
        )
        return secret.arn

    def _make_leave_hook(self, role: iam.Role, group: autoscaling.Group) -> None:
        """Make the group wait for a machine to leave the cluster before it ends it."""
        name = f"{self._name}-leave"
        autoscaling.LifecycleHook(
            name,
            name=LEAVE_HOOK,
            autoscaling_group_name=group.name,
            lifecycle_transition="autoscaling:EC2_INSTANCE_TERMINATING",
            heartbeat_timeout=LEAVE_SECONDS,
            default_result="CONTINUE",
            opts=self._own,
        )
        iam.RolePolicy(
            name,
            role=role.name,
            policy=group.arn.apply(lambda arn: allow(["autoscaling:CompleteLifecycleAction"], arn)),
            opts=self._own,
        )

    def _user_data(self) -> pulumi.Output[str] | None:
        """Cloud-init of a machine in Base64, without any secret."""
        cluster, args = self._args.joins, self._args
        if cluster is None or self.token_secret is None:
            return None

        def render(secret: str) -> str:
            membership = node_boot.on_aws(args.region, secret, self._group_name, LEAVE_HOOK)
            return base64.b64encode(node_boot.user_data(cluster, membership).encode()).decode()

        return self.token_secret.apply(render)

    def _make_launch_template(
        self, security_group: ec2.SecurityGroup, profile: iam.InstanceProfile
    ) -> ec2.LaunchTemplate:
        name, args = self._name, self._args
        tags = {**args.tags, "Name": f"{name}-node"}
        return ec2.LaunchTemplate(
            name,
            image_id=f"resolve:ssm:{args.image_parameter}",
            update_default_version=True,
            iam_instance_profile={"arn": profile.arn},
            vpc_security_group_ids=[security_group.id],
            user_data=self._user_data(),
            # One hop: a pod's packets cannot reach the service, so it cannot take the node's role.
            metadata_options={
                "http_endpoint": "enabled",
                "http_tokens": "required",
                "http_put_response_hop_limit": 1,
            },
            block_device_mappings=[
                {
                    "device_name": "/dev/sda1",
                    "ebs": {
                        "volume_size": args.volume_gib,
                        "volume_type": "gp3",
                        "encrypted": "true",
                        "delete_on_termination": "true",
                    },
                }
            ],
            tag_specifications=[
                {"resource_type": kind, "tags": tags} for kind in ("instance", "volume")
            ],
            tags={"Name": name},
            opts=self._own,
        )

    def _make_group(
        self, template: ec2.LaunchTemplate, subnets: Sequence[ec2.Subnet]
    ) -> autoscaling.Group:
        name, args = self._name, self._args
        tags = {
            **args.tags,
            "Name": f"{name}-node",
            **autoscaler_tags(args.cluster, args.time_slices),
        }
        return autoscaling.Group(
            name,
            # Machines are told it before it exists.
            name=self._group_name,
            min_size=args.minimum,
            max_size=args.maximum,
            vpc_zone_identifiers=[subnet.id for subnet in subnets],
            capacity_rebalance=True,
            # Nodes count once they joined the cluster, which the group cannot see.
            wait_for_capacity_timeout="0",
            mixed_instances_policy={
                "instances_distribution": {
                    "on_demand_base_capacity": args.on_demand_base,
                    "on_demand_percentage_above_base_capacity": round(100 * (1 - args.spot_share)),
                    "on_demand_allocation_strategy": "prioritized",
                    "spot_allocation_strategy": "price-capacity-optimized",
                },
                "launch_template": {
                    "launch_template_specification": {
                        "launch_template_id": template.id,
                        "version": template.latest_version.apply(str),
                    },
                    "overrides": [{"instance_type": kind} for kind in args.instance_types],
                },
            },
            tags=[
                {"key": key, "value": value, "propagate_at_launch": True}
                for key, value in sorted(tags.items())
            ],
            # The cluster autoscaler decides how many there are now.
            opts=pulumi.ResourceOptions(
                parent=self, ignore_changes=["desiredCapacity"], delete_before_replace=True
            ),
        )

    @property
    def _group_name(self) -> str:
        return f"{self._name}-gpu"


ASSUMED_BY_EC2 = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


def bucket_policy(bucket_arn: str) -> str:
    """What a node may do: list one bucket, read and write its objects; deleting is not in it."""
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": bucket_arn},
                {
                    "Effect": "Allow",
                    "Action": ["s3:GetObject", "s3:PutObject"],
                    "Resource": f"{bucket_arn}/*",
                },
            ],
        }
    )


def allow(actions: Sequence[str], resource: str) -> str:
    """Policy document that allows actions on one resource."""
    statement = {"Effect": "Allow", "Action": actions, "Resource": resource}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def autoscaler_tags(cluster: str, time_slices: int) -> dict[str, str]:
    """Tags by which the cluster autoscaler finds a group and knows its nodes while it has none."""
    template = "k8s.io/cluster-autoscaler/node-template"
    return {
        "k8s.io/cluster-autoscaler/enabled": "true",
        gpu.owned_tag(cluster): "owned",
        f"{template}/label/{gpu.NODE_LABEL}": gpu.NODE_LABEL_VALUE,
        f"{template}/label/{gpu.ACCELERATOR_LABEL}": gpu.ACCELERATOR,
        f"{template}/taint/{gpu.GPU}": f"{gpu.TAINT_VALUE}:NoSchedule",
        f"{template}/resources/{gpu.GPU}": str(time_slices),
    }
