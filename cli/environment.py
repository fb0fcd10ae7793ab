"""An environment: its settings, its folder, and the variables the engine needs to work on it."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import CommandError
from federation.audit import AuditLog
from infra.clients import Aws
from stacks.settings import load_settings

if TYPE_CHECKING:
    from model_store.signing import Keyring
    from stacks.settings import Settings


@dataclass(frozen=True)
class Environment:
    """One environment, for example `local`.

    Parameters
    ----------
    name
        First half of its stacks' names, `<name>.<layer>`.
    settings
        The validated settings file.
    folder
        Where its state, data, models and logs live on this machine.
    """

    name: str
    settings: Settings
    folder: Path

    @classmethod
    def load(cls, name: str, home: Path) -> Environment:
        """Read the settings; SettingsError names what is wrong in which file."""
        settings = load_settings(name)
        return cls(name, settings, home / name)

    @property
    def is_local(self) -> bool:
        """Whether emulators on this machine stand for the clouds."""
        return self.settings.kind == "local"

    @property
    def project(self) -> Path:
        """The copy of the project file that the engine works on, with the stacks' salts beside."""
        return self.folder / "project"

    @property
    def passphrase_file(self) -> Path:
        """Encrypts secrets in a local environment's state; made by `hybrid init`."""
        return self.folder / "passphrase"

    @property
    def model_store_address(self) -> str:
        """Where models are kept: the setting, else a folder of the environment."""
        return self.settings.model_store or str(self.folder / "model_store")

    @property
    def federation(self) -> Path:
        """Folder of the SuperLink, the sites' nodes and their credentials."""
        return self.folder / "flower"

    def audit_log(self) -> AuditLog:
        """What has happened to its federation and to the model that serves."""
        return AuditLog(self.federation / "audit.jsonl")

    def signing_keys(self) -> Keyring:
        """Keys that sign its models; beside its settings, so that no teardown takes them away."""
        from model_store.signing import Keyring

        return Keyring(self.folder.parent / "environments" / f"{self.name}.keys")

    def posting_keys(self) -> Keyring:
        """Keys that sign the tokens of who posts events, beside those of models."""
        from model_store.signing import Keyring

        folder = self.folder.parent / "environments" / f"{self.name}.events"
        return Keyring(folder, "hybrid events key --rotate")

    def aws(self) -> Aws:
        """Clients of AWS, or of the emulator that stands for it."""
        return Aws(self.settings.region, self.settings.aws_endpoint)

    def require_local(self, what: str) -> None:
        """Refuse what this version does only on `local` environments."""
        if not self.is_local:
            raise CommandError(
                f"{what} works only on environments of kind 'local' so far, and {self.name} is of "
                f"kind {self.settings.kind!r}: choose another with --environment."
            )

    def require_cloud(self, what: str) -> None:
        """Refuse what needs real machines, which `local` environments do not have."""
        if self.is_local:
            raise CommandError(
                f"{what} needs gateways that carry packets, and the emulators of {self.name} have "
                "none: name an environment of kind 'cloud'.",
                2,
            )

    def engine_variables(self) -> dict[str, str]:
        """Variables under which the engine works on this environment's stacks."""
        own_bin = Path(sys.executable).parent
        path = os.pathsep.join([str(own_bin), str(engine_root() / "bin"), os.environ["PATH"]])
        # The Python host takes the first python of PATH: it must be the one with our packages.
        variables = {
            "PATH": path,
            # A relative entry would put the stacks' modules before the standard library's.
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "HYBRID_HOME": str(self.folder.parent),
        }
        if self.settings.backend:
            variables["PULUMI_BACKEND_URL"] = self.settings.backend
        elif not os.environ.get("PULUMI_BACKEND_URL") or self.is_local:
            # Beside each object the engine would write one of attributes, and not atomically: a
            # kill in between leaves an empty one, after which the whole backend answers "EOF".
            variables["PULUMI_BACKEND_URL"] = f"file://{self.folder / 'state'}?metadata=skip"
        if self.is_local:
            variables |= {
                "PULUMI_HOME": str(self.folder / "pulumi"),
                "PULUMI_CONFIG_PASSPHRASE_FILE": str(self.passphrase_file),
                "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            }
        return variables


def engine_root() -> Path:
    """Folder whose ``bin`` holds the engine that `make setup` found, downloaded or built."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "hybrid" / "pulumi"


def environment_of_stack(stack: str) -> str:
    """`local` for `local.cloud` and `organization/hybrid/local.cloud`."""
    return re.sub(r"^.*/", "", stack).split(".")[0]
