"""Installation of the offline plugins into a private ``PULUMI_HOME``."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

from infra.offline.errors import OfflineError
from infra.offline.schema import sdk_version

PACKAGES = ("aws", "gcp", "kubernetes", "command", "tls", "random")
_PROJECT_ROOT = Path(__file__).resolve().parents[2]


def install(pulumi_command: Path | str, home: Path) -> list[str]:
    """Make the plugins of all packages known to engines with ``PULUMI_HOME=home``.

    What is in place and unchanged is left alone, so this may run before every ``up``.

    Parameters
    ----------
    pulumi_command
        The ``pulumi`` binary that will use the plugins.
    home
        The private ``PULUMI_HOME``.

    Returns
    -------
    list of str
        Names of the plugin folders that were written, such as ``resource-aws-v7.29.0``.

    Raises
    ------
    OfflineError
        There is no such binary.
    """
    if not os.access(pulumi_command, os.X_OK):
        raise OfflineError(f"there is no Pulumi CLI at {pulumi_command}: run `make setup`")
    plugins = home / "plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    written = []
    for package in PACKAGES:
        folder = plugins / f"resource-{package}-v{sdk_version(package)}"
        launcher, text = folder / f"pulumi-resource-{package}", _launcher(package)
        if launcher.is_file() and launcher.read_text() == text:
            continue
        # The layout of `pulumi plugin install --file`, without starting the CLI six times.
        with tempfile.TemporaryDirectory(dir=plugins, prefix=".new-") as temporary:
            new = Path(temporary, launcher.name)
            with new.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.chmod(0o755)
            folder.mkdir(exist_ok=True)
            os.replace(new, launcher)
        written.append(folder.name)
    return written


def _launcher(package: str) -> str:
    # -P: modules of the program's folder must not shadow ours; -s: nor those of the user's site.
    return (
        "#!/bin/sh\n"
        f"PYTHONPATH={shlex.quote(str(_PROJECT_ROOT))} PYTHONDONTWRITEBYTECODE= "
        f'exec {shlex.quote(sys.executable)} -P -s -m infra.offline {package} "$@"\n'
    )
