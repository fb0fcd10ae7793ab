"""Removing what a site brought to a model: the run again, as if the site had never been there.

A run is a function of the model that it starts from, its settings, its seed and the sites' data:
whoever repeats it without a site gets, to the last bit, the model of a run that never had it. That
is exact unlearning, and equal hashes prove it. A private run draws noise that nobody can repeat,
so there the repeated run is as free of the site, but there is nothing to compare it with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from federation.errors import FederationError


def without(run: Path, site: str) -> tuple[list[str], dict[str, Any]]:
    """What a run without a site is to be asked for.

    Parameters
    ----------
    run : Path
        Folder of the run that had it.
    site : str
        Whose contribution shall go.

    Returns
    -------
    sites, how
        For :func:`federation.run.federate`, with the run's own initial model.

    Raises
    ------
    FederationError
        If the folder holds no run, or the site took no part in it, or it alone did.
    """
    try:
        how = json.loads((run / "settings.json").read_text())
        sites = list(how.pop("sites"))
    except (OSError, ValueError, KeyError) as error:
        raise FederationError(f"{run} holds no federated run ({error}).") from error
    if site not in sites:
        raise FederationError(
            f"Site {site!r} took no part in {run.name}; its sites are {', '.join(sites)}."
        )
    if len(sites) == 1:
        raise FederationError(
            f"{run.name} had no site but {site!r}: go back to the model that it started from."
        )
    for derived in ("folder", "initial"):
        how.pop(derived, None)
    return [other for other in sites if other != site], how
