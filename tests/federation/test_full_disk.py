"""What a SuperLink does whose disk has no room, on a small disk of its own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from federation import deployment
from federation.credentials import issue
from federation.errors import FederationError
from tests.federation.servers import PATIENCE, Servers, until

if TYPE_CHECKING:
    from tests.federation.conftest import Shop


@pytest.fixture
def running(shop: Shop, tmp_path: Path) -> Iterator[Servers]:
    """A SuperLink whose database alone is on a disk of 8 MiB."""
    disk = tmp_path / "superlink"
    disk.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("making a small disk (mount -t tmpfs) takes root")
    up = Servers(tmp_path, shop.data)
    try:
        issue(deployment.credentials_folder(tmp_path), shop.data)
        up.start("superlink", deployment.superlink_command(tmp_path, port=up.port))
        up.await_superlink()
        yield up
    finally:
        up.stop()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(file: Path) -> None:
    """Leave no room on the disk of a file."""
    with file.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(bytes(1 << 12)):
            pass


def test_a_superlink_without_room_ends_and_is_back_once_there_is_some(
    running: Servers, shop: Shop
) -> None:
    ballast = running.folder / "superlink" / "ballast"
    fill(ballast)
    with contextlib.suppress(FederationError, httpx.HTTPError):
        deployment.enrol(running.folder, shop.data, address=running.address)
    assert running.processes["superlink"].wait(PATIENCE) == 1
    assert "The disk of the SuperLink's database is full" in running.log("superlink")
    running.start("superlink")
    sentence = "The SuperLink starts as soon as there is room in"
    until(lambda: sentence in running.log("superlink"), "the SuperLink to tell what it lacks")
    assert running.processes["superlink"].poll() is None
    ballast.unlink()
    running.await_superlink()
    assert deployment.enrol(running.folder, shop.data, address=running.address).keys() == shop.data.keys()
