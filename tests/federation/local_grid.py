"""The server's rounds and the sites' ClientApps in one process, without Flower's servers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Message
from safetensors.numpy import load_file

from federation import server_app
from federation.in_process import InProcessGrid
from federation.parcel import unpacked
from federation.run import prepare
from federation.settings import RunSettings

if TYPE_CHECKING:
    from tests.federation.conftest import Shop


class LocalGrid(InProcessGrid):
    """Sites in this process, whose replies may be tampered with.

    Parameters
    ----------
    data : dict of str to Path
        Data folder by site that is connected.
    tamper : callable
        Given (site, reply), may change the reply or give another one.
    homes : Path, optional
        Where the sites keep their states; by default, in a folder of this grid's own.
    """

    def __init__(
        self,
        data: dict[str, Path],
        tamper: Callable[[str, Message], Message | None] = lambda site, reply: reply,
        homes: Path | None = None,
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        super().__init__(data, homes or Path(self._scratch.name))
        self._tamper = tamper

    def ask(self, site: str, message: Message) -> Message | None:
        reply = super().ask(site, message)
        if reply.has_content():
            reply.content = unpacked(reply.content)
        return self._tamper(site, reply)


def settings_of(run: Path, shop: Shop, **changes: object) -> RunSettings:
    settings = RunSettings(folder=run, sites=tuple(shop.data), **{"rounds": 2} | changes)
    prepare(settings, shop.initial)
    return settings


def start(settings: RunSettings, grid: LocalGrid) -> None:
    context = SimpleNamespace(run_config=settings.to_config())
    server_app.main(grid, context)


def weights(artifact: Path) -> dict[str, np.ndarray]:
    return load_file(artifact / "weights.safetensors")


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)
