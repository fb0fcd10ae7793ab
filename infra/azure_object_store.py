"""Object store on Azure: one private, versioned container in a storage account of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_azure import storage


@dataclass(frozen=True)
class AzureObjectStoreArgs:
    """What the container is for whom.

    Parameters
    ----------
    location, resource_group
        Where it is.
    noncurrent_days
        Days that a replaced or deleted version can still be brought back.
    cold_days
        Days after which a blob goes to the cool tier; 0: never.
    subnets, addresses
        Ids of the subnets and public addresses that may connect: nobody else.
    tags
        Put on the account.
    """

    location: str
    resource_group: pulumi.Input[str]
    noncurrent_days: int
    cold_days: int
    subnets: Sequence[pulumi.Input[str]]
    addresses: Sequence[str]
    tags: Mapping[str, str]


class AzureObjectStore(pulumi.ComponentResource):
    """A container that holds models; access by identity only, since the account's keys are off.

    Attributes
    ----------
    account, container, container_id
        Names of both and the container's resource id.
    """

    account: pulumi.Output[str]
    container: pulumi.Output[str]
    container_id: pulumi.Output[str]

    def __init__(
        self, name: str, args: AzureObjectStoreArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:AzureObjectStore", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        account = storage.Account(
            # An account's name has letters and digits only, 24 at most with the engine's own end.
            name.replace("-", "")[:16],
            resource_group_name=args.resource_group,
            location=args.location,
            account_kind="StorageV2",
            account_tier="Standard",
            account_replication_type="ZRS",
            min_tls_version="TLS1_2",
            https_traffic_only_enabled=True,
            allow_nested_items_to_be_public=False,
            cross_tenant_replication_enabled=False,
            shared_access_key_enabled=False,
            infrastructure_encryption_enabled=True,
            network_rules={
                "default_action": "Deny",
                "bypasses": ["None"],
                "virtual_network_subnet_ids": list(args.subnets),
                "ip_rules": list(args.addresses),
            },
            blob_properties={
                "versioning_enabled": True,
                "delete_retention_policy": {"days": args.noncurrent_days},
                "container_delete_retention_policy": {"days": args.noncurrent_days},
            },
            tags=dict(args.tags),
            opts=own,
        )
        container = storage.Container(
            f"{name}-models",
            name="models",
            storage_account_id=account.id,
            container_access_type="private",
            opts=own,
        )
        actions: dict[str, Any] = {
            "version": {"delete_after_days_since_creation": args.noncurrent_days}
        }
        if args.cold_days:
            actions["base_blob"] = {
                "tier_to_cool_after_days_since_modification_greater_than": args.cold_days
            }
        storage.ManagementPolicy(
            f"{name}-models",
            storage_account_id=account.id,
            rules=[
                {
                    "name": "tiers-and-replaced-versions",
                    "enabled": True,
                    "filters": {"blob_types": ["blockBlob"]},
                    "actions": actions,
                }
            ],
            opts=own,
        )
        self.account, self.container = account.name, container.name
        self.container_id = container.id
        self.register_outputs({"account": self.account, "container": self.container})
