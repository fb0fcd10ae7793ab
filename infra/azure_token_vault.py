"""Where GPU machines on Azure find the token with which they join the cluster: a key vault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_azure import authorization, keyvault

TOKEN_NAME = "join-token"
READER = "Key Vault Secrets User"  # reads secrets of one vault, lists and changes none


@dataclass(frozen=True)
class AzureTokenVaultArgs:
    """Whose vault it is.

    Parameters
    ----------
    tenant
        The directory that knows its readers.
    reader
        Principal of the machines' identity.
    subnets, addresses
        Ids of the subnets and public addresses that may connect: nobody else.
    place
        Resource group, location and tags.
    """

    tenant: pulumi.Input[str]
    reader: pulumi.Input[str]
    subnets: Sequence[pulumi.Input[str]]
    addresses: Sequence[str]
    place: Mapping[str, Any]


class AzureTokenVault(pulumi.ComponentResource):
    """A vault for one secret, which the layer that knows the token puts in as `TOKEN_NAME`.

    Attributes
    ----------
    id, address
        Resource id and web address.
    """

    id: pulumi.Output[str]
    address: pulumi.Output[str]

    def __init__(
        self, name: str, args: AzureTokenVaultArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:AzureTokenVault", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        vault = keyvault.KeyVault(
            # A vault's name has 24 characters at most, with the engine's own end.
            name.replace("-", "")[:16],
            sku_name="standard",
            tenant_id=args.tenant,
            rbac_authorization_enabled=True,
            # The token is in the private layer's state; a deleted vault would keep its name.
            purge_protection_enabled=False,
            soft_delete_retention_days=7,
            network_acls={
                "bypass": "None",
                "default_action": "Deny",
                "virtual_network_subnet_ids": list(args.subnets),
                "ip_rules": list(args.addresses),
            },
            opts=own,
            **args.place,
        )
        authorization.Assignment(
            f"{name}-join",
            scope=vault.id,
            role_definition_name=READER,
            principal_id=args.reader,
            principal_type="ServicePrincipal",
            opts=own,
        )
        self.id, self.address = vault.id, vault.vault_uri
        self.register_outputs({"address": self.address})
