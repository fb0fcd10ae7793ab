"""What `hybrid status` tells, gathered side by side so that it takes no longer than the slowest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cli.environment import Environment
from cli.layers import LAYERS
from cli.serving_client import OTHER_KINDS, RECOMMEND, channel_of
from cli.state import resource_counts


def survey(environment: Environment) -> dict[str, Any]:
    """Layers with their resources, local servers, model channels, what serves, a trial.

    `serving` is of recommendations; `also_serving` has the kinds beside it that have a channel.
    `stale` tells why answers do not know what users did of late; None where they do.
    """
    with ThreadPoolExecutor(5) as pool:
        counts = pool.submit(resource_counts, environment)
        channels = pool.submit(_channels, environment)
        serving = pool.submit(_serving, environment, RECOMMEND)
        trial = pool.submit(_trial, environment)
        stale = pool.submit(_stale, environment)
        servers = _servers(environment)
        return {
            "layers": {layer: counts.result().get(layer, 0) for layer in LAYERS},
            "servers": servers,
            "channels": channels.result(),
            "serving": serving.result(),
            "also_serving": {
                kind: _serving(environment, kind)
                for kind in OTHER_KINDS
                if channel_of(kind) in channels.result()
            },
            "trial": trial.result(),
            "stale": stale.result() if servers else None,
        }


def _servers(environment: Environment) -> list[dict[str, Any]]:
    if not environment.is_local or not environment.folder.exists():
        return []
    from cli.processes import Supervisor

    ports = environment.settings.ports.model_dump()
    ports["serving"] = ports["torchserve"]["public"]
    ports["torchserve"] = ports["torchserve"]["inference"]
    return [
        {
            "name": state.name,
            "state": state.state.lower(),
            "pid": state.pid,
            "address": f"127.0.0.1:{ports[state.name]}" if state.name in ports else None,
        }
        for state in Supervisor(environment.folder).states()
    ]


def _channels(environment: Environment) -> dict[str, str]:
    from cli.stores import objects_at
    from model_store.store import Store

    return Store(objects_at(environment, environment.model_store_address)).channels()


def _trial(environment: Environment) -> dict[str, Any] | None:
    if not environment.is_local:
        return None
    from cli import trials

    if trials.current(environment) is None:
        return None
    from cli.canary import state

    return state(environment)


def _stale(environment: Environment) -> str | None:
    if not environment.is_local:
        return None
    from cli.sessions import problem

    return problem(environment)


def _serving(environment: Environment, kind: str) -> str | None:
    if not environment.is_local:
        return None
    from cli.production import served_digest

    return served_digest(environment, kind)
