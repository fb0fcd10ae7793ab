from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from federation.errors import FederationError
from federation.ledger import load_updates, rounds_kept, save_updates
from federation.updates import Rows, Update


def sent(site: str, seed: int, staleness: int = 0) -> Update:
    generator = np.random.default_rng(seed)
    rows = Rows(np.array([1, 4]), generator.normal(size=(2, 3)).astype(np.float32))
    delta = {"table.weight": rows, "scale": np.array(generator.normal(), np.float32)}
    extra = {"layer": generator.normal(size=2).astype(np.float32)}
    return Update(site, delta, 10 + seed, 0.5 * seed, 1.25, extra, staleness)


def plain(update: Update) -> dict:
    """An update in which arrays compare by their bytes."""
    values = vars(update).copy()
    for part in ("delta", "extra"):
        values[part] = {
            name: (
                (change.index.tobytes(), change.values.tobytes())
                if isinstance(change, Rows)
                else (change.shape, change.tobytes())
            )
            for name, change in values[part].items()
        }
    return values


def test_updates_come_back_as_they_were(tmp_path: Path) -> None:
    rounds = {1: [sent("south", 1), sent("north", 2)], 2: [sent("north", 3), sent("north", 4, 1)]}
    for number, updates in rounds.items():
        save_updates(tmp_path, number, updates)
    kept = dict(rounds_kept(tmp_path))
    assert list(kept) == [1, 2]
    assert [plain(update) for update in kept[1]] == [plain(u) for u in reversed(rounds[1])]
    assert [plain(update) for update in kept[2]] == [plain(update) for update in rounds[2]]


def test_the_order_of_arrival_changes_no_byte_of_it(tmp_path: Path) -> None:
    updates = [sent("south", 1), sent("north", 2)]
    contents = []
    for order in (updates, updates[::-1]):
        save_updates(tmp_path, 1, order)
        (file,) = (tmp_path / "updates").iterdir()
        contents.append(file.read_bytes())
    assert contents[0] == contents[1]


def test_a_round_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="no updates of round 3: run it with --keep-updates"):
        load_updates(tmp_path, 3)
    save_updates(tmp_path, 3, [sent("north", 1)])
    (file,) = (tmp_path / "updates").iterdir()
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(FederationError, match="000003.safetensors is damaged"):
        load_updates(tmp_path, 3)
