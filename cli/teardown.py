"""What `down` does in the clouds beside the engine: protect data, drain groups, leave nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cli.application import Progress
from cli.environment import Environment
from cli.errors import CommandError
from infra.clients import Aws, Gcs
from infra.faults import told
from infra.holdings import Holding, empty_gcs, empty_s3, gcs_holding, s3_holding
from infra.listers import Found, list_aws, list_gcs
from infra.removal import drain, remove, strip

STEPS = 4


@dataclass(frozen=True)
class Teardown:
    """The clouds of one environment while it goes."""

    environment: str
    aws: Aws
    gcs: Gcs
    progress: Progress

    @classmethod
    def of(cls, environment: Environment, progress: Progress) -> Teardown:
        """Connect to what the settings name."""
        settings = environment.settings
        return cls(
            environment.name,
            environment.aws(),
            Gcs(settings.gcp.project, settings.gcp_endpoint),
            progress,
        )

    def found(self, *services: str) -> list[Found]:
        """Everything that is the environment's, in these services or in all."""
        with told():
            everything = list_aws(self.aws, frozenset(services) or None)
            if not services or "gcs" in services:
                everything += list_gcs(self.gcs)
        return [each for each in everything if each.belongs_to(self.environment)]

    def protect_data(self, delete: bool) -> None:
        """Empty the stores if `delete`; else refuse where one holds something.

        Raises
        ------
        CommandError
            Says what each store holds. Nothing has been changed by then.
        """
        stores = self.found("s3", "gcs")
        holdings = [holding for store in stores if (holding := self._holding(store))]
        if holdings and not delete:
            raise CommandError(
                f"{'; '.join(map(str, holdings))}. Nothing was torn down: copy what you need, then "
                f"run hybrid down {self.environment} --delete-data."
            )
        if delete:
            for holding in holdings:
                self.progress(0, STEPS, f"deleting what {holding.address} holds")
            for store in stores:
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

    def unrecorded(self, recorded: Collection[str]) -> list[Found]:
        """What is the environment's and in no state.

        Parameters
        ----------
        recorded
            Ids, names and ARNs that the state has.
        """
        return [each for each in self.found() if each.identity not in recorded]

    def remove_unrecorded(self, recorded: Collection[str]) -> None:
        """Remove what an interruption left without a record, by itself or on what has one."""
        orphans = self.unrecorded(recorded)
        for orphan in orphans:
            self.progress(0, STEPS, f"removing what is in no state: {orphan}")
        with told():
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

    def _holding(self, store: Found) -> Holding | None:
        if store.service == "s3":
            return s3_holding(self.aws, store.identity)
        return gcs_holding(self.gcs, store.identity)
