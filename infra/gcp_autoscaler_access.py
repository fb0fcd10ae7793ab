"""What the cluster autoscaler may do in Google Cloud: see groups and machine types, resize groups."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass

import pulumi
import pulumi_random as random
from pulumi_gcp import projects, serviceaccount

# What its client calls (autoscaling_gce_client.go); resizing, adding and ending machines of a group
# is one permission, and no condition of a policy can name a group.
PERMISSIONS = (
    "compute.instanceGroupManagers.get",
    "compute.instanceGroupManagers.list",
    "compute.instanceGroupManagers.update",
    "compute.instanceTemplates.get",
    "compute.machineTypes.get",
    "compute.zoneOperations.get",
)


@dataclass(frozen=True)
class GcpAutoscalerAccessArgs:
    """The project of the groups, and a description that says whose account and role these are."""

    project: str
    description: str


class GcpAutoscalerAccess(pulumi.ComponentResource):
    """A service account with a key.

    The autoscaler runs on the sites' machines, which have no account of Google Cloud; one that can
    do next to nothing is what is left.

    Attributes
    ----------
    key
        The key's file, as JSON. Secret.
    """

    key: pulumi.Output[str]

    def __init__(
        self, name: str, args: GcpAutoscalerAccessArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:GcpAutoscalerAccess", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        account = serviceaccount.Account(
            f"{name}-autoscaler",
            account_id=f"{name[:23].rstrip('-')}-scaler",
            display_name="cluster autoscaler: resize managed instance groups",
            description=args.description,
            opts=own,
        )
        # A role's id stays taken for weeks after it was deleted.
        suffix = random.RandomId(f"{name}-autoscaler", byte_length=4, opts=own)
        role = projects.IAMCustomRole(
            f"{name}-autoscaler",
            project=args.project,
            role_id=suffix.hex.apply(lambda end: f"{name.replace('-', '_')}_autoscaler_{end}"),
            title=f"{name} cluster autoscaler",
            description=args.description,
            permissions=list(PERMISSIONS),
            opts=own,
        )
        projects.IAMMember(
            f"{name}-autoscaler",
            project=args.project,
            role=role.name,
            member=account.email.apply(lambda email: f"serviceAccount:{email}"),
            opts=own,
        )
        key = serviceaccount.Key(
            f"{name}-autoscaler", service_account_id=account.name, opts=own
        )
        self.key = pulumi.Output.secret(key.private_key).apply(lambda text: b64decode(text).decode())
        self.register_outputs({})
