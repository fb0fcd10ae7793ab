"""Rounds of which only changes cross, in this process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from safetensors.numpy import load_file

from federation.checkpoint import Checkpoint, read_records
from tests.federation.local_grid import LocalGrid, same, settings_of, start, weights

if TYPE_CHECKING:
    from tests.federation.conftest import Shop


def held_by(homes: Path, site: str) -> dict[str, np.ndarray]:
    """The model that a site keeps after its last message."""
    (folder,) = [path for path in (homes / site).iterdir() if path.is_dir()]
    last = max(folder.glob("*.safetensors"), key=lambda path: int(path.stem))
    prefix = "whole/model/"
    return {
        name.removeprefix(prefix): array
        for name, array in load_file(last).items()
        if name.startswith(prefix)
    }


CODINGS = [
    {"compression": "rows"}, {"compression": "int8"}, {"compression": "signs"},
    {"compression": "topk", "share": 0.2},
]  # fmt: skip


@pytest.mark.parametrize("coding", CODINGS, ids=lambda coding: coding["compression"])
def test_all_sites_end_with_the_servers_bytes_though_changes_alone_go_down(
    shop: Shop, tmp_path: Path, coding: dict
) -> None:
    run, homes = tmp_path / "run", tmp_path / "homes"
    start(settings_of(run, shop, rounds=3, **coding), LocalGrid(shop.data, homes=homes))
    result = weights(run / "artifact")
    for site in shop.data:
        assert same(held_by(homes, site), result)
    _, first, *later = read_records(run)
    size = sum(array.nbytes for array in result.values())
    assert first["bytes_down"] > 2 * size
    most = {"rows": 1.0, "int8": 0.4, "signs": 0.2, "topk": 0.2}[coding["compression"]]
    for record in later:
        moved = sum(told["bytes"] for told in record["trained"].values())
        assert moved == record["bytes_down"] + record["bytes_up"]
        assert all(told["answered"] >= told["seconds"] > 0 for told in record["trained"].values())
        assert record["bytes_down"] - 2 * 2000 < most * 2 * size
        assert record["bytes_up"] - 2 * 2000 < most * 2 * size


def test_control_variates_are_compressed_too(shop: Shop, tmp_path: Path) -> None:
    sent = {}
    for compression in ("none", "signs"):
        how = {"strategy": "scaffold", "rounds": 2, "compression": compression}
        start(settings_of(tmp_path / compression, shop, **how), LocalGrid(shop.data))
        sent[compression] = [r["bytes_up"] for r in read_records(tmp_path / compression)[1:]]
    assert all(few < many / 4 for few, many in zip(sent["signs"], sent["none"], strict=True))


@pytest.mark.parametrize("coding", [{"compression": "signs"}, {"compression": "topk", "share": 0.3}])
def test_compressed_rounds_teach_the_model_too(
    shop: Shop, tmp_path: Path, coding: dict
) -> None:
    start(settings_of(tmp_path, shop, rounds=6, local_epochs=2, **coding), LocalGrid(shop.data))
    assert read_records(tmp_path)[-1]["metrics"]["NDCG@10"] > 0.55


@pytest.mark.parametrize("moment", ["asked", "kept", "saved"])
def test_a_compressed_run_goes_on_to_the_same_bytes(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    coding = {"rounds": 3, "compression": "topk", "share": 0.2}
    start(settings_of(tmp_path / "whole", shop, **coding), LocalGrid(shop.data))

    class PowerCut(BaseException):
        pass

    def cut(*arguments: object) -> None:
        raise PowerCut

    homes = tmp_path / "homes"
    grid = LocalGrid(shop.data, lambda site, r: cut() if armed(site) else r, homes)
    armed = {
        "asked": lambda site: grid.exchanges == 2 and site == "south",
        "kept": lambda site: False,
        "saved": lambda site: grid.exchanges == 3,
    }[moment]
    settings = settings_of(tmp_path / "broken", shop, **coding)
    with monkeypatch.context() as patch:
        if moment == "kept":  # the round's message is on disk, its checkpoint is not
            patch.setattr(Checkpoint, "save", cut)
        with pytest.raises(PowerCut):
            start(settings, grid)
    start(settings, LocalGrid(shop.data, homes=homes))
    assert same(weights(tmp_path / "whole/artifact"), weights(tmp_path / "broken/artifact"))


def test_a_site_that_lost_what_it_held_gets_the_whole_model(shop: Shop, tmp_path: Path) -> None:
    # What it kept else would be lost too.
    coding = {"rounds": 3, "compression": "rows", "keep_moments": False}
    start(settings_of(tmp_path / "whole", shop, **coding), LocalGrid(shop.data))

    def lose(site: str, reply: Message) -> Message:
        if grid.exchanges == 1 and site == "south":
            shutil.rmtree(homes / site)
        return reply

    homes = tmp_path / "homes"
    grid = LocalGrid(shop.data, lose, homes)
    start(settings_of(tmp_path / "lost", shop, **coding), grid)
    assert same(weights(tmp_path / "whole/artifact"), weights(tmp_path / "lost/artifact"))
    assert "site 'south' gets the whole model" in (tmp_path / "lost/server.log").read_text()
    assert all(record.get("refused", {}) == {} for record in read_records(tmp_path / "lost"))


def test_a_site_that_always_says_it_holds_nothing_is_left_out(shop: Shop, tmp_path: Path) -> None:
    def claim(site: str, reply: Message) -> Message:
        if site == "south" and "train" in reply.content:
            reply.content = RecordDict({"behind": ConfigRecord()})
        return reply

    settings = settings_of(tmp_path, shop, compression="int8")
    start(settings, LocalGrid(shop.data, claim))
    for record in read_records(tmp_path)[1:]:
        assert "sent the reply of nothing" in record["refused"]["south"]


def test_a_site_that_missed_a_round_gets_its_message_later(shop: Shop, tmp_path: Path) -> None:
    def late(site: str, reply: Message) -> Message | None:
        return None if site == "south" and grid.exchanges == 2 else reply

    run, homes = tmp_path / "run", tmp_path / "homes"
    grid = LocalGrid(shop.data, late, homes)
    coding = {"rounds": 3, "compression": "int8", "round_timeout": 0.3, "ask_again": 9}
    start(settings_of(run, shop, **coding), grid)
    assert same(held_by(homes, "south"), weights(run / "artifact"))
    _, first, second, third = read_records(run)
    assert list(second["trained"]) == ["north"]
    assert third["bytes_down"] < 0.7 * first["bytes_down"]
