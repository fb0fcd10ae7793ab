"""The checks of an environment's network: what is captured, and how they are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cli.environment import Environment
from cli.errors import CommandError
from infra.network_checks import Check


def check_network(environment: Environment) -> list[Check]:
    """Check what an environment's programs declare.

    Raises
    ------
    CommandError
        Its machines are not on AWS.
    """
    from cli.planning import capture
    from infra.network_checks import network_checks

    cloud = environment.settings.gpu_pool.cloud
    if cloud != "aws":
        raise CommandError(
            f"{environment.name} has gpu_pool.cloud {cloud!r}, but only networks on 'aws' are "
            "checked: leave --check out.",
            2,
        )
    return network_checks(capture(environment).declared, environment.settings)


def counted(checks: Sequence[Check]) -> str:
    """How many checks there are of each kind."""
    count = Counter(check.kind for check in checks)
    return ", ".join(f"{count[kind]} of {kind}" for kind in ("nat", "peering", "route"))
