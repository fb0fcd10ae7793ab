"""The object stores that an environment's addresses mean, and copying between them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cli.application import Progress
from cli.environment import Environment
from model_store import residency
from model_store.factory import OnPrem, open_objects
from model_store.objects import Entry, Objects

if TYPE_CHECKING:
    from model_store.sync import Synced

# An emulator takes any keys; real ones must not reach it.
EMULATOR_KEYS = ("test", "test")


def objects_at(environment: Environment, address: str) -> Objects:
    """The objects at an address, as the environment's settings tell where its server is.

    Raises
    ------
    StoreError
        The address is of no known kind, or names a server that the settings lack.
    """
    settings = environment.settings
    onprem = settings.object_stores.onprem
    cloud = settings.gcp_endpoint if address.startswith("gs://") else settings.aws_endpoint
    return open_objects(
        address,
        endpoint=cloud,
        keys=EMULATOR_KEYS if cloud else None,
        onprem=onprem and OnPrem(**onprem.model_dump()),
    )


def sync_stores(
    environment: Environment,
    source: str,
    target: str,
    progress: Progress,
    *,
    parallel: int,
    overwrite: bool,
    skip_private: bool,
) -> Synced:
    """Bring every object of one address to another; see `model_store.sync`."""
    from model_store.sync import sync

    return sync(
        objects_at(environment, source),
        objects_at(environment, target),
        environment.folder / "sync",
        parallel=parallel,
        overwrite=overwrite,
        skip_private=skip_private,
        progress=progress,
    )


def listed(environment: Environment, address: str) -> list[tuple[Entry, bool]]:
    """The objects at an address, and whether each is labelled private; labels are left out."""
    objects = objects_at(environment, address)
    entries = list(objects.entries())
    keys = {entry.key for entry in entries}
    private = keys if residency.is_marked(objects) else residency.private_keys(keys)
    return [
        (entry, entry.key in private) for entry in entries if not entry.key.endswith(residency.MARK)
    ]


def require_not_private(address: str, where: str) -> None:
    """Refuse to hand data of this machine on to where it would leave the site.

    Raises
    ------
    ResidencyError
        The path is labelled private.
    """
    if "://" not in address and residency.is_private(Path(address)):
        residency.refuse(address, where)
