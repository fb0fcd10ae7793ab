"""GPU machines on Google Cloud: a network of their own and managed groups that grow from zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
import yaml
from pulumi_gcp import compute, secretmanager, serviceaccount, storage

from infra import gpu, node_boot
from infra.gcp_cloud import described
from infra.listers import ENVIRONMENT_LABEL

ANYWHERE = "0.0.0.0/0"
# What a site's k3s and a GPU node say to each other (k3s: "Inbound Rules for K3s Nodes").
KUBELET, VXLAN, HTTPS = "10250", "8472", "443"
# Two roles instead of one: a machine adds objects and reads them, it replaces and deletes none.
BUCKET_ROLES = {"read": "roles/storage.objectViewer", "add": "roles/storage.objectCreator"}


@dataclass(frozen=True)
class GcpGpuPoolArgs:
    """Where the machines live, what they are, and what they may do.

    Parameters
    ----------
    project, region, zones, cidr
        The network: one private subnet, which spans the region's zones.
    site_cidrs
        Networks behind the link, whose nodes may talk to these.
    machine_type
        One that brings its GPUs, such as g2-standard-8.
    minimum, maximum, on_demand_base, spot_share
        Size; of the machines above the base, the share from 0 to 1 that are spot.
    volume_gib
        Boot disk.
    image
        Image or image family with cloud-init, NVIDIA's driver and container toolkit.
    time_slices
        Pods that share a GPU.
    joins
        The cluster that machines join when they boot; None where there is none to join.
    bucket
        The only bucket that the machines can read and add to.
    labels
        Put on machines and disks; the environment's is also told in descriptions.
    """

    project: str
    region: str
    zones: Sequence[str]
    cidr: IPv4Network
    site_cidrs: Sequence[str]
    machine_type: str
    minimum: int
    maximum: int
    on_demand_base: int
    spot_share: float
    volume_gib: int
    image: str
    time_slices: int
    joins: node_boot.Cluster | None
    bucket: pulumi.Input[str]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Group:
    """A managed group: of one zone, which is all that the cluster autoscaler knows, and one kind."""

    name: str
    zone: str
    spot: bool
    minimum: int
    maximum: int


def groups(
    name: str,
    zones: Sequence[str],
    minimum: int,
    maximum: int,
    on_demand_base: int,
    spot_share: float,
) -> list[Group]:
    """Split a pool into groups of one kind and one zone each.

    The groups' maxima add up to the pool's and so do their minima; the first zones get what cannot
    be divided, and a group without machines is left out.
    """
    spot = round(max(0, maximum - on_demand_base) * spot_share)
    kept = min(minimum, maximum - spot)
    kinds = [(False, kept, maximum - spot), (True, minimum - kept, spot)]
    split = [
        Group(f"{kind_name(name, spot)}-{zone.rpartition('-')[2]}", zone, spot, *bounds)
        for spot, least, most in kinds
        for zone, *bounds in zip(
            zones, _spread(least, len(zones)), _spread(most, len(zones)), strict=True
        )
    ]
    return [group for group in split if group.maximum]


def kind_name(name: str, spot: bool) -> str:
    """What the groups of one kind are called before their zones, and their template as a whole."""
    return f"{name}-{'spot' if spot else 'on-demand'}"


def _spread(number: int, parts: int) -> list[int]:
    whole, rest = divmod(number, parts)
    return [whole + (part < rest) for part in range(parts)]


def kube_env(time_slices: int, spot: bool) -> str:
    """Metadata of a template that tell the cluster autoscaler of nodes while a group has none.

    In the form of `AUTOSCALER_ENV_VARS` that its templates.go reads; a machine does not.
    """
    labels = {
        gpu.NODE_LABEL: gpu.NODE_LABEL_VALUE,
        gpu.GOOGLE_ACCELERATOR_LABEL: gpu.ACCELERATOR,
        gpu.CAPACITY_LABEL: "spot" if spot else "on-demand",
    }
    told = {
        "os": "linux",
        "os_distribution": "ubuntu",  # of those that it knows; it reckons the kernel's memory by it
        "arch": "amd64",
        "kube_reserved": "cpu=0,memory=0",  # k3s reserves nothing
        "node_labels": ",".join(f"{key}={value}" for key, value in labels.items()),
        "node_taints": f"{gpu.GPU}={gpu.TAINT_VALUE}:NoSchedule",
        "extended_resources": f"{gpu.GPU}={time_slices}",
    }
    text = ";".join(f"{key}={value}" for key, value in told.items())
    return yaml.safe_dump({"AUTOSCALER_ENV_VARS": text}, width=10_000)


class GcpGpuPool(pulumi.ComponentResource):
    """A network with Cloud NAT, and groups of GPU machines without public addresses.

    Attributes
    ----------
    network, subnet
        Ids, for the link.
    groups
        Names of the managed groups.
    service_account
        Address of the account that machines run as.
    token_secret
        Full name of the secret that must hold the join token; None where there is no cluster.
    """

    network: pulumi.Output[str]
    subnet: pulumi.Output[str]
    groups: list[pulumi.Output[str]]
    service_account: pulumi.Output[str]
    token_secret: pulumi.Output[str] | None

    def __init__(
        self, name: str, args: GcpGpuPoolArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:GcpGpuPool", name, None, opts)
        self._name, self._args = name, args
        self._own = pulumi.ResourceOptions(parent=self)
        # Whose it is, on what can have no label.
        self._told = described(args.labels[ENVIRONMENT_LABEL])
        account = serviceaccount.Account(
            name,
            account_id=f"{name[:25].rstrip('-')}-gpu",
            display_name="GPU nodes: read and add to the model bucket, nothing else",
            description=self._told,
            opts=self._own,
        )
        self.service_account = account.email
        for key, role in BUCKET_ROLES.items():
            storage.BucketIAMMember(
                f"{name}-{key}",
                bucket=args.bucket,
                role=role,
                member=account.email.apply(lambda email: f"serviceAccount:{email}"),
                opts=self._own,
            )
        self.token_secret = self._make_token_secret(account.email) if args.joins else None
        subnet = self._make_network()
        self._make_firewall(account.email)
        split = groups(
            name, args.zones, args.minimum, args.maximum, args.on_demand_base, args.spot_share
        )
        templates = {
            spot: self._make_template(spot, subnet, account.email)
            for spot in sorted({group.spot for group in split})
        }
        self.groups = [self._make_group(group, templates[group.spot]) for group in split]
        self.register_outputs({"network": self.network, "groups": self.groups})

    def _make_token_secret(self, account: pulumi.Output[str]) -> pulumi.Output[str]:
        """Where machines find the token; it is put in by the layer that knows it."""
        name = f"{self._name}-join"
        secret = secretmanager.Secret(
            name,
            secret_id=name,
            replication={"user_managed": {"replicas": [{"location": self._args.region}]}},
            labels=dict(self._args.labels),
            opts=self._own,
        )
        secretmanager.SecretIamMember(
            name,
            secret_id=secret.secret_id,
            role="roles/secretmanager.secretAccessor",
            member=account.apply(lambda email: f"serviceAccount:{email}"),
            opts=self._own,
        )
        return secret.id

    def _metadata(self, spot: bool) -> dict[str, pulumi.Input[str]]:
        """What machines are told of themselves: how to boot, without any secret."""
        args, closed = self._args, {
            "kube-env": kube_env(self._args.time_slices, spot),
            "block-project-ssh-keys": "TRUE",
            "enable-oslogin": "TRUE",
            "serial-port-enable": "FALSE",
        }
        if args.joins is None or self.token_secret is None:
            return closed
        boot = self.token_secret.apply(
            lambda secret: node_boot.user_data(args.joins, node_boot.on_gcp(args.project, secret))
        )
        return closed | {"user-data": boot}

    def _make_network(self) -> compute.Subnetwork:
        name, args = self._name, self._args
        network = compute.Network(
            name,
            auto_create_subnetworks=False,
            routing_mode="REGIONAL",
            description=self._told,
            opts=self._own,
        )
        subnet = compute.Subnetwork(
            name,
            network=network.id,
            region=args.region,
            ip_cidr_range=str(args.cidr),
            # Storage is reached without the NAT and its charge.
            private_ip_google_access=True,
            description=self._told,
            opts=self._own,
        )
        router = compute.Router(
            f"{name}-nat",
            network=network.id,
            region=args.region,
            description=self._told,
            opts=self._own,
        )
        compute.RouterNat(
            name,
            router=router.name,
            region=args.region,
            nat_ip_allocate_option="AUTO_ONLY",
            source_subnetwork_ip_ranges_to_nat="ALL_SUBNETWORKS_ALL_IP_RANGES",
            log_config={"enable": True, "filter": "ERRORS_ONLY"},
            opts=self._own,
        )
        self.network, self.subnet = network.id, subnet.id
        return subnet

    def _make_firewall(self, account: pulumi.Output[str]) -> None:
        """Nodes talk among themselves and with the sites' nodes; out they go by HTTPS only."""
        sites, nodes = list(self._args.site_cidrs), str(self._args.cidr)
        everything = [{"protocol": "all"}]
        kubelet = {"protocol": "tcp", "ports": [KUBELET]}
        vxlan = {"protocol": "udp", "ports": [VXLAN]}
        inbound = {
            "nodes": {"source_service_accounts": [account], "allows": everything},
            "sites": {"source_ranges": sites, "allows": [kubelet, vxlan]},
        }
        outbound = {
            "nodes": {"destination_ranges": [nodes, *sites], "allows": everything},
            "https": {
                "destination_ranges": [ANYWHERE],
                "allows": [{"protocol": "tcp", "ports": [HTTPS]}],
            },
            # Google's own last rule lets everything out.
            "none": {"destination_ranges": [ANYWHERE], "denies": everything, "priority": 65000},
        }
        for direction, rules in (("INGRESS", inbound), ("EGRESS", outbound)):
            for key, rule in rules.items():
                compute.Firewall(
                    f"{self._name}-{direction.lower()}-{key}",
                    network=self.network,
                    direction=direction,
                    target_service_accounts=[account],
                    description=self._told,
                    opts=self._own,
                    **rule,
                )

    def _make_template(
        self, spot: bool, subnet: compute.Subnetwork, account: pulumi.Output[str]
    ) -> compute.RegionInstanceTemplate:
        args = self._args
        return compute.RegionInstanceTemplate(
            kind_name(self._name, spot),
            region=args.region,
            machine_type=args.machine_type,
            disks=[
                {
                    "boot": True,
                    "auto_delete": True,
                    "source_image": args.image,
                    "disk_size_gb": args.volume_gib,
                    "disk_type": "pd-balanced",
                    "labels": dict(args.labels),
                }
            ],
            # No access configuration: no public address.
            network_interfaces=[{"subnetwork": subnet.id}],
            service_account={"email": account, "scopes": ["cloud-platform"]},
            scheduling=scheduling(spot),
            shielded_instance_config={"enable_vtpm": True, "enable_integrity_monitoring": True},
            metadata=self._metadata(spot),
            labels=dict(args.labels),
            opts=self._own,
        )

    def _make_group(
        self, group: Group, template: compute.RegionInstanceTemplate
    ) -> pulumi.Output[str]:
        made = compute.InstanceGroupManager(
            group.name,
            # The cluster autoscaler is told of it by this name.
            name=group.name,
            zone=group.zone,
            base_instance_name=group.name,
            description=self._told,
            target_size=group.minimum,
            versions=[{"instance_template": template.self_link}],
            update_policy={
                "type": "OPPORTUNISTIC",
                "minimal_action": "REPLACE",
                "max_surge_fixed": 0,
                "max_unavailable_fixed": 1,
            },
            opts=pulumi.ResourceOptions(
                parent=self,
                # The cluster autoscaler decides how many there are now.
                ignore_changes=["targetSize"],
                delete_before_replace=True,
            ),
        )
        compute.Autoscaler(
            group.name,
            zone=group.zone,
            target=made.id,
            description=self._told,
            # It holds the bounds. Who knows of waiting pods, the cluster autoscaler, does the rest:
            # no signal of a group without machines could make this one begin.
            autoscaling_policy={
                "mode": "OFF",
                "min_replicas": group.minimum,
                "max_replicas": group.maximum,
            },
            opts=self._own,
        )
        return made.name


def scheduling(spot: bool) -> dict[str, object]:
    """What becomes of a machine when Google wants its host: one with GPUs cannot move."""
    if not spot:
        return {"on_host_maintenance": "TERMINATE", "automatic_restart": True}
    return {
        "provisioning_model": "SPOT",
        "preemptible": True,
        "on_host_maintenance": "TERMINATE",
        "automatic_restart": False,
        "instance_termination_action": "DELETE",
    }
