"""GPU machines on Azure: a network of their own and a scale set that grows from zero."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
import pulumi_tls as tls
from pulumi_azure import authorization, compute, network

from infra import gpu, node_boot
from infra.azure_token_vault import TOKEN_NAME, AzureTokenVault, AzureTokenVaultArgs

# What a site's k3s and a GPU node say to each other (k3s: "Inbound Rules for K3s Nodes").
KUBELET, VXLAN, HTTPS = "10250", "8472", "443"
BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers"
GATEWAY_PREFIX = 27  # of the subnet for a VPN gateway, which Azure calls by a name of its own
GATEWAY_SUBNET = "GatewaySubnet"
SCALE_SETS = "Microsoft.Compute/virtualMachineScaleSets"
# How the cluster autoscaler finds a scale set by `autoscaler_tags`; the cluster's name comes last.
DISCOVERY = "label:cluster-autoscaler-enabled=true,cluster-autoscaler-name="


@dataclass(frozen=True)
class AzureGpuPoolArgs:
    """Where the machines live, what they are, and what they may do.

    Parameters
    ----------
    location, zones, cidr
        The network: a private subnet for the machines, and at its end one for the VPN gateway.
    resource_group
        Made before.
    site_cidrs, site_addresses
        Networks behind the link, whose nodes may talk to these, and their public addresses.
    sku
        Size with GPUs, such as Standard_NC4as_T4_v3.
    minimum, maximum, on_demand_base, spot_share
        Size; of the machines above the base, the share from 0 to 1 that are spot.
    volume_gib
        System disk.
    image
        Publisher, offer, SKU and version of an image with cloud-init, NVIDIA's driver and container
        toolkit, with colons between.
    time_slices
        Pods that share a GPU.
    cluster
        Name under which the cluster autoscaler finds the scale set.
    joins
        The cluster that machines join when they boot; None where there is none to join.
    tags
        Put on everything.
    """

    location: str
    zones: Sequence[str]
    cidr: IPv4Network
    resource_group: pulumi.Input[str]
    site_cidrs: Sequence[str]
    site_addresses: Sequence[str]
    sku: str
    minimum: int
    maximum: int
    on_demand_base: int
    spot_share: float
    volume_gib: int
    image: str
    time_slices: int
    cluster: str
    joins: node_boot.Cluster | None
    tags: Mapping[str, str]


def subnets(cidr: IPv4Network) -> tuple[IPv4Network, IPv4Network]:
    """The machines' half of a network, and the last slice of the other half for the gateway.

    Raises
    ------
    ValueError
        The network is too small for both.
    """
    if cidr.prefixlen >= GATEWAY_PREFIX:
        raise ValueError(f"{cidr} is too small: it must be a /{GATEWAY_PREFIX - 1} or larger")
    machines, rest = cidr.subnets(prefixlen_diff=1)
    return machines, list(rest.subnets(new_prefix=GATEWAY_PREFIX))[-1]


class AzureGpuPool(pulumi.ComponentResource):
    """A virtual network with a NAT gateway, and a scale set without public addresses.

    Attributes
    ----------
    network_id, subnet_id, gateway_subnet_id
        For the link and the store.
    scale_set, scale_set_id
        Name and resource id of the scale set.
    identity_id, principal_id
        The identity that machines have, and whom roles are given to.
    token_vault
        Id of the key vault that must hold the join token; None where there is no cluster to join.
    """

    network_id: pulumi.Output[str]
    subnet_id: pulumi.Output[str]
    gateway_subnet_id: pulumi.Output[str]
    scale_set: pulumi.Output[str]
    scale_set_id: pulumi.Output[str]
    identity_id: pulumi.Output[str]
    principal_id: pulumi.Output[str]
    token_vault: pulumi.Output[str] | None

    def __init__(
        self, name: str, args: AzureGpuPoolArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:AzureGpuPool", name, None, opts)
        self._name, self._args = name, args
        self._own = pulumi.ResourceOptions(parent=self)
        self._place = {
            "resource_group_name": args.resource_group,
            "location": args.location,
            "tags": dict(args.tags),
        }
        identity = authorization.UserAssignedIdentity(name, opts=self._own, **self._place)
        self.identity_id, self.principal_id = identity.id, identity.principal_id
        self._make_network()
        vault = self._make_token_vault(identity) if args.joins else None
        self.token_vault = vault and vault.id
        boot = vault and pulumi.Output.all(identity.client_id, vault.address).apply(self._boot)
        machines = self._make_scale_set(boot)
        self.scale_set, self.scale_set_id = machines.name, machines.id
        self.register_outputs({"network_id": self.network_id, "scale_set": self.scale_set})

    def _make_token_vault(self, identity: authorization.UserAssignedIdentity) -> AzureTokenVault:
        return AzureTokenVault(
            self._name,
            AzureTokenVaultArgs(
                tenant=identity.tenant_id,
                reader=identity.principal_id,
                subnets=[self.subnet_id],
                addresses=self._args.site_addresses,
                place=self._place,
            ),
            self._own,
        )

    def _boot(self, told: Sequence[str]) -> str:
        """Cloud-init of a machine in Base64, without any secret."""
        membership = node_boot.on_azure(*told, TOKEN_NAME)
        return base64.b64encode(node_boot.user_data(self._args.joins, membership).encode()).decode()

    def _make_network(self) -> None:
        name, args = self._name, self._args
        machines, gateway = subnets(args.cidr)
        net = network.VirtualNetwork(
            name, address_spaces=[str(args.cidr)], opts=self._own, **self._place
        )
        within = {
            "resource_group_name": args.resource_group,
            "virtual_network_name": net.name,
        }
        private = network.Subnet(
            name,
            address_prefixes=[str(machines)],
            # Out only by the NAT gateway; to the store and the key vault without it.
            default_outbound_access_enabled=False,
            service_endpoints=["Microsoft.Storage", "Microsoft.KeyVault"],
            opts=self._own,
            **within,
        )
        gateway_subnet = network.Subnet(
            f"{name}-gateway",
            name=GATEWAY_SUBNET,
            address_prefixes=[str(gateway)],
            opts=self._own,
            **within,
        )
        address = network.PublicIp(
            f"{name}-nat", allocation_method="Static", sku="Standard", opts=self._own, **self._place
        )
        nat = network.NatGateway(name, sku_name="Standard", opts=self._own, **self._place)
        network.NatGatewayPublicIpAssociation(
            name, nat_gateway_id=nat.id, public_ip_address_id=address.id, opts=self._own
        )
        network.SubnetNatGatewayAssociation(
            name, subnet_id=private.id, nat_gateway_id=nat.id, opts=self._own
        )
        group = network.NetworkSecurityGroup(
            name,
            security_rules=security_rules(str(machines), args.site_cidrs),
            opts=self._own,
            **self._place,
        )
        network.SubnetNetworkSecurityGroupAssociation(
            name, subnet_id=private.id, network_security_group_id=group.id, opts=self._own
        )
        self.network_id, self.subnet_id = net.id, private.id
        self.gateway_subnet_id = gateway_subnet.id

    def _make_scale_set(
        self, boot: pulumi.Output[str] | None
    ) -> compute.OrchestratedVirtualMachineScaleSet:
        name, args = self._name, self._args
        publisher, offer, sku, version = args.image.split(":")
        # Azure wants a key, and nobody has its other half in hand: no rule lets SSH in.
        key = tls.PrivateKey(name, algorithm="RSA", rsa_bits=4096, opts=self._own)
        place = self._place | {"tags": {**args.tags, **autoscaler_tags(args)}}
        return compute.OrchestratedVirtualMachineScaleSet(
            name,
            platform_fault_domain_count=1,
            zones=list(args.zones),
            sku_name=args.sku,
            instances=args.minimum,
            os_profile={
                "custom_data": boot,
                "linux_configuration": {
                    "admin_username": "hybrid",
                    "disable_password_authentication": True,
                    "admin_ssh_keys": [
                        {"username": "hybrid", "public_key": key.public_key_openssh}
                    ],
                }
            },
            network_interfaces=[
                {
                    "name": "private",
                    "primary": True,
                    "ip_configurations": [
                        {"name": "private", "primary": True, "subnet_id": self.subnet_id}
                    ],
                }
            ],
            os_disk={
                "caching": "ReadWrite",
                "storage_account_type": "Premium_LRS",
                "disk_size_gb": args.volume_gib,
            },
            encryption_at_host_enabled=True,
            source_image_reference={
                "publisher": publisher,
                "offer": offer,
                "sku": sku,
                "version": version,
            },
            # A machine that the scale set ends is told so, and says when it has left.
            termination_notification={"enabled": True, "timeout": "PT5M"},
            identity={"type": "UserAssigned", "identity_ids": [self.identity_id]},
            **priorities(args.on_demand_base, args.spot_share),
            # The cluster autoscaler decides how many there are now.
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["instances"]),
            **place,
        )


def grant_store(
    name: str,
    container: pulumi.Input[str],
    principal: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> None:
    """Let machines list one container, read and write its blobs; deleting is not in it."""
    role = authorization.RoleDefinition(
        name,
        scope=container,
        description="GPU nodes: read and write models, delete none",
        permissions=[
            {
                "actions": [f"{BLOBS}/read"],
                "data_actions": [f"{BLOBS}/blobs/read", f"{BLOBS}/blobs/write"],
            }
        ],
        assignable_scopes=[container],
        opts=opts,
    )
    authorization.Assignment(
        name,
        scope=container,
        role_definition_id=role.role_definition_resource_id,
        principal_id=principal,
        principal_type="ServicePrincipal",
        opts=opts,
    )


def grant_resizing(
    name: str,
    resource_group: pulumi.Input[str],
    scale_set: pulumi.Input[str],
    principal: str,
    opts: pulumi.ResourceOptions,
) -> None:
    """Let the cluster autoscaler look at the machines of a resource group and resize one set.

    Parameters
    ----------
    resource_group, scale_set
        Their resource ids.
    principal
        Whose rights these are.
    """
    rights = {
        "look": (resource_group, [f"{SCALE_SETS}/read", "Microsoft.Compute/virtualMachines/read"]),
        "resize": (scale_set, [f"{SCALE_SETS}/write", f"{SCALE_SETS}/delete/action"]),
    }
    for key, (scope, actions) in rights.items():
        role = authorization.RoleDefinition(
            f"{name}-{key}",
            scope=scope,
            description=f"cluster autoscaler: {key}",
            permissions=[{"actions": actions}],
            assignable_scopes=[scope],
            opts=opts,
        )
        authorization.Assignment(
            f"{name}-{key}",
            scope=scope,
            role_definition_id=role.role_definition_resource_id,
            principal_id=principal,
            principal_type="ServicePrincipal",
            opts=opts,
        )


def priorities(on_demand_base: int, spot_share: float) -> dict[str, object]:
    """Arguments of a scale set for its share of spot machines."""
    if spot_share == 0:
        return {"priority": "Regular"}
    return {
        "priority": "Spot",
        "eviction_policy": "Delete",
        "max_bid_price": -1,  # up to the price of a machine on demand
        "priority_mix": {
            "base_regular_count": on_demand_base,
            "regular_percentage_above_base": round(100 * (1 - spot_share)),
        },
    }


def autoscaler_tags(args: AzureGpuPoolArgs) -> dict[str, str]:
    """Tags by which the cluster autoscaler finds the scale set, its bounds, and what nodes have."""
    template = "k8s.io_cluster-autoscaler_node-template"
    return {
        "cluster-autoscaler-enabled": "true",
        "cluster-autoscaler-name": args.cluster,
        "min": str(args.minimum),
        "max": str(args.maximum),
        f"{template}_label_hybrid_pool": gpu.NODE_LABEL_VALUE,
        f"{template}_label_{gpu.AZURE_ACCELERATOR_LABEL}": gpu.ACCELERATOR,
        f"{template}_taint_nvidia.com_gpu": f"{gpu.TAINT_VALUE}:NoSchedule",
        f"{template}_resources_nvidia.com_gpu": str(args.time_slices),
    }


def security_rules(machines: str, sites: Sequence[str]) -> list[dict[str, object]]:
    """Nodes talk among themselves and with the sites' nodes; out they go by HTTPS only.

    Azure's own last rules would let the whole network in and everything out: ours come before.
    """
    sites = list(sites)
    rules: list[tuple[str, str, str, str, dict[str, object], dict[str, object]]] = [
        ("nodes-in", "Inbound", "Allow", "*", _from(machines), _to(machines, "*")),
        ("kubelet-in", "Inbound", "Allow", "Tcp", _from(*sites), _to(machines, KUBELET)),
        ("vxlan-in", "Inbound", "Allow", "Udp", _from(*sites), _to(machines, VXLAN)),
        ("none-in", "Inbound", "Deny", "*", _from("*"), _to("*", "*")),
        ("nodes-out", "Outbound", "Allow", "*", _from(machines), _to(machines, "*")),
        ("sites-out", "Outbound", "Allow", "*", _from(machines), _to(*sites, "*")),
        ("https-out", "Outbound", "Allow", "Tcp", _from(machines), _to("Internet", HTTPS)),
        ("none-out", "Outbound", "Deny", "*", _from("*"), _to("*", "*")),
    ]
    return [
        {
            "name": name,
            "direction": direction,
            "access": access,
            "protocol": protocol,
            "priority": 100 + 10 * number,
            "source_port_range": "*",
            **source,
            **target,
        }
        for number, (name, direction, access, protocol, source, target) in enumerate(rules)
    ]


def _from(*prefixes: str) -> dict[str, object]:
    if len(prefixes) == 1:
        return {"source_address_prefix": prefixes[0]}
    return {"source_address_prefixes": list(prefixes)}


def _to(*prefixes_and_port: str) -> dict[str, object]:
    *prefixes, port = prefixes_and_port
    if len(prefixes) == 1:
        return {"destination_address_prefix": prefixes[0], "destination_port_range": port}
    return {"destination_address_prefixes": prefixes, "destination_port_range": port}
