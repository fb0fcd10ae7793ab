"""What `down` does in the clouds beside the engine: protect data, drain groups, leave nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cli.application import Progress
from cli.checkpoint import recorded
from cli.environment import Environment
from cli.errors import CommandError
from infra.azure_blobs import UnseenError, blob_holding
from infra.azure_cloud import Azure
from infra.clients import Aws, Gcs
from infra.faults import told
from infra.gcp_cloud import GoogleCloud
from infra.holdings import empty_gcs, empty_s3, gcs_holding, s3_holding
from infra.listers import Found, list_aws, list_gcs
from infra.removal import drain, remove, strip

STEPS = 4
AZURE_ACCOUNT = "azure:storage/account:Account"


@dataclass(frozen=True)
class Teardown:
    """The clouds of one environment while it goes.

    Parameters
    ----------
    aws, gcs
        None where the environment has nothing there.
    accounts
        Names of the storage accounts in the state, which go with it whatever tags they have.
    machines
        The cloud that has the machines and networks, if that is not AWS.
    """

    environment: str
    aws: Aws | None
    gcs: Gcs | None
    progress: Progress
    accounts: tuple[str, ...] = ()
    machines: GoogleCloud | Azure | None = None

    @classmethod
    def of(cls, environment: Environment, progress: Progress) -> Teardown:
        """Connect to what the settings name."""
        settings = environment.settings
        cloud = settings.gpu_pool.cloud
        if cloud == "azure":
            held = [r for r in recorded(environment).values() if r.type == AZURE_ACCOUNT]
            names = tuple(str(each.outputs.get("name", each.id)) for each in held)
            machines = Azure(settings.azure.subscription)
            return cls(environment.name, None, None, progress, names, machines)
        gcs = Gcs(settings.gcp.project, settings.gcp_endpoint)
        if cloud == "gcp":
            machines = GoogleCloud(settings.gcp.project)
            return cls(environment.name, None, gcs, progress, machines=machines)
        return cls(environment.name, environment.aws(), gcs, progress)

    @property
    def places(self) -> str:
        """What is listed, for people."""
        if self.aws is not None:
            return "AWS and Google Cloud Storage"
        return "Azure" if isinstance(self.machines, Azure) else "Google Cloud"

    def found(self, *services: str) -> list[Found]:
        """Everything that is the environment's, in these services or in all."""
        everything: list[Found] = []
        with told():
            if self.aws is not None:
                everything += list_aws(self.aws, frozenset(services) or None)
            if self.gcs is not None and (not services or "gcs" in services):
                everything += list_gcs(self.gcs)
            if self.machines is not None and not services:
                everything += self.machines.list()
        return [each for each in everything if each.belongs_to(self.environment)]

    def protect_data(self, delete: bool) -> None:
        """Empty the stores if `delete`; else refuse where one holds something.

        Raises
        ------
        CommandError
            Says what each store holds. Nothing has been changed by then.
        """
        stores = self.found("s3", "gcs")
        if not delete:
            with told():
                held = [*map(self._contents, stores), *map(self._blobs, self.accounts)]
            if said := "; ".join(filter(None, held)):
                raise CommandError(
                    f"{said}. Nothing was torn down: copy what you need, then run hybrid down "
                    f"{self.environment} --delete-data."
                )
            return
        for store in stores:  # a storage account takes along what it holds
            self.progress(0, STEPS, f"deleting what {store.name} holds")
            if store.service == "s3":
                empty_s3(self.aws, store.identity)
            else:
                empty_gcs(self.gcs, store.identity)

    def drain_groups(self) -> None:
        """Bring every group to zero instances."""
        for group in self.found("autoscaling"):
            self.progress(0, STEPS, f"draining group {group.identity}")
            with told():
                drain(self.aws, group.identity)

    def unrecorded(self, known: Collection[str]) -> list[Found]:
        """What is the environment's and in no state.

        Parameters
        ----------
        known
            Ids, names and ARNs that the state has.
        """
        # Azure itself is not of one mind about small and capital letters in its ids.
        accounted = {*known, *(each.lower() for each in known if each.startswith("/"))}
        orphans = []
        for each in self.found():  # a group comes before its machines, and they before their disks
            if each.identity in accounted or each.within in accounted:
                accounted.add(each.identity)
            else:
                orphans.append(each)
        return orphans

    def remove_unrecorded(self, known: Collection[str]) -> None:
        """Remove what an interruption left without a record, by itself or on what has one."""
        orphans = self.unrecorded(known)
        for orphan in orphans:
            self.progress(0, STEPS, f"removing what is in no state: {orphan}")
        with told():
            if self.machines is not None:
                self.machines.remove(each for each in orphans if each.service != "gcs")
                orphans = [each for each in orphans if each.service == "gcs"]
            remove(orphans, self.aws, self.gcs)
            strip(self.found("iam", "ec2"), self.aws)

    def require_nothing_left(self) -> None:
        """List every service once more.

        Raises
        ------
        CommandError
            Names what is left, and what removes it.
        """
        left = self.found()
        if left:
            raise CommandError(
                f"{self.environment} is torn down, but this is left: {', '.join(map(str, left))}. "
                f"Remove it with hybrid orphans {self.environment} --remove."
            )

    def _contents(self, store: Found) -> str:
        """What a bucket holds; empty where that is nothing."""
        if store.service == "s3":
            return str(s3_holding(self.aws, store.identity) or "")
        return str(gcs_holding(self.gcs, store.identity) or "")

    def _blobs(self, account: str) -> str:
        """What a storage account holds, or why it does not tell; empty where that is nothing."""
        try:
            return str(blob_holding(self.machines.authorised, account) or "")
        except UnseenError as error:
            return str(error)
