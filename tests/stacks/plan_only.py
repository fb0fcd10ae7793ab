"""A provider plugin that plans every type of its package and makes nothing.

As the engine's plugins of `infra/offline`, it holds each resource against the installed SDK, leaves
unknown what only the cloud would tell, and needs no account. Run as ``python -m
tests.stacks.plan_only PACKAGE``.
"""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import sys
from pathlib import Path
from types import ModuleType

from infra.offline.__main__ import serve
from infra.offline.errors import OfflineError
from infra.offline.resource import ResourceType
from infra.offline.schema import sdk_version

PROJECT = Path(__file__).resolve().parents[2]


class EveryType(dict):
    """A table with an entry for whatever is looked for; the SDK says whether there is such a type."""

    def get(self, token: str, default: object = None) -> ResourceType:
        planned = ResourceType(create=_refuse, read=_refuse, delete=_refuse)
        return super().get(token, planned)


def _refuse(*_: object) -> None:
    raise OfflineError("this plugin plans only")


def install(home: Path, *packages: str) -> None:
    """Make an engine with ``PULUMI_HOME=home`` take this for the packages' plugin."""
    for package in packages:
        folder = home / "plugins" / f"resource-{package}-v{sdk_version(package)}"
        folder.mkdir(parents=True, exist_ok=True)
        launcher = folder / f"pulumi-resource-{package}"
        launcher.write_text(
            f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(PROJECT))} "
            f'exec {shlex.quote(sys.executable)} -P -s -m {__name__} {package} "$@"\n'
        )
        launcher.chmod(0o755)


def _table(name: str) -> ModuleType:
    """The module where the plugin finds its types: the package's own, as far as it has one."""
    own = importlib.util.find_spec(name)
    module = importlib.import_module(name) if own else ModuleType(name)
    module.TYPES = EveryType(getattr(module, "TYPES", {}))
    return module


if __name__ == "__main__":
    table = _table(f"infra.offline.{sys.argv[1]}")
    sys.modules[table.__name__] = table
    serve(sys.argv[1])
