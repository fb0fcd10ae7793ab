"""A power cut at every moment that can matter: whenever something is written or sent."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from federation import files
from federation.checkpoint import read_records
from tests.federation.local_grid import LocalGrid, settings_of, start

if TYPE_CHECKING:
    from tests.federation.conftest import Shop


class PowerCut(BaseException):
    """The end of every process, in the middle of what it does."""


class Machine:
    """Counts the moments of a run, and cuts the power at one of them.

    A moment is just before a file takes its name, just before messages are pushed and just after
    replies were pulled. What was written under a temporary name stays there, as after kill -9.
    """

    def __init__(self, patch: pytest.MonkeyPatch, cut: int) -> None:
        self.moments, self._cut = 0, cut
        push, pull = LocalGrid.push_messages, LocalGrid.pull_messages

        def replaced(source: object, target: object) -> None:
            self._pass()
            os.replace(source, target)

        def pushed(grid: LocalGrid, messages: object) -> list[str]:
            self._pass()
            return push(grid, messages)

        def pulled(grid: LocalGrid, identities: object) -> list:
            replies = pull(grid, identities)
            self._pass()
            return replies

        kept = {"replace": replaced, "unlink": lambda path: None}
        patch.setattr(files, "os", SimpleNamespace(**(vars(os) | kept)))
        patch.setattr(files, "shutil", SimpleNamespace(rmtree=lambda path, ignore_errors: None))
        patch.setattr(LocalGrid, "push_messages", pushed)
        patch.setattr(LocalGrid, "pull_messages", pulled)

    def _pass(self) -> None:
        self.moments += 1
        if self.moments == self._cut:
            raise PowerCut


def digest(run: Path) -> str:
    return hashlib.sha256((run / "artifact/weights.safetensors").read_bytes()).hexdigest()


def test_a_power_cut_at_any_moment_changes_no_bit_of_the_result(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path / "whole", shop)
    with monkeypatch.context() as patch:
        machine = Machine(patch, cut=0)
        start(settings, LocalGrid(shop.data))
    expected, records = digest(settings.folder), read_records(settings.folder)
    assert machine.moments > 15
    for moment in range(1, machine.moments + 1):
        run, homes = tmp_path / f"cut-{moment}", tmp_path / f"homes-{moment}"
        settings = settings_of(run, shop)
        with monkeypatch.context() as patch:
            Machine(patch, cut=moment)
            with pytest.raises(PowerCut):
                start(settings, LocalGrid(shop.data, homes=homes))
        if not (run / "artifact").exists():
            start(settings, LocalGrid(shop.data, homes=homes))
        assert digest(run) == expected, f"cut at moment {moment} of {machine.moments}"
        assert [r["metrics"] for r in read_records(run)] == [r["metrics"] for r in records]
