"""A site that poisons the model: named whatever the strategy, and survived with a robust one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flwr.app import Message

from federation.checkpoint import read_records
from federation.compression import Compression, encode
from federation.protocol import write_model
from federation.screening import suspects
from federation.updates import Rows, Update
from recsys.data.interactions import write_interactions
from tests.federation.conftest import ITEMS, RECIPE, walks
from tests.federation.local_grid import LocalGrid, settings_of, start

if TYPE_CHECKING:
    from tests.federation.conftest import Shop


def update(site: str, size: float) -> Update:
    rows = Rows(np.array([0, 2]), np.full((2, 3), size, np.float32))
    return Update(site, {"table": rows, "bias": np.full(2, size, np.float32)}, 5, 1.0)


def test_a_change_far_longer_than_the_others_is_told_of() -> None:
    usual = [update("a", 1.0), update("b", 2.0), update("c", 5.0)]
    assert suspects(usual) == {}
    assert suspects([update("a", 1.0), update("b", 1000.0)]) == {}, "who of two is it?"
    # sqrt(8) times the size of each number; the median of the others is 2.
    assert suspects([*usual, update("d", 21.0)]) == {
        "d": "Site 'd' sent a change of length 59.4, where the others' are about 5.66: it may be "
        "poisoned."
    }


@pytest.fixture(scope="module")
def five(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("five")
    data = {f"site-{number}": folder / str(number) for number in range(5)}
    for number, path in enumerate(data.values()):
        write_interactions(walks(30, seed=number + 20), path)
    return replace(shop, data=data)


def poisoned(site: str, reply: Message) -> Message:
    if site == "site-3" and reply.has_content() and "train" in reply.content:
        shape = (len(ITEMS) + 1, RECIPE.dimension)
        noise = np.random.default_rng(0).normal(scale=30, size=shape).astype(np.float32)
        delta = {"item_embedding.weight": noise}
        change, _ = encode(delta, {}, Compression(), delta)
        reply.content["delta"] = write_model({"bytes": change})
    return reply


def test_a_poisoned_update_is_named_in_the_log_and_survived_by_a_robust_strategy(
    five: Shop, tmp_path: Path
) -> None:
    reached = {}
    for strategy, wrong in (("fedavg", 0), ("multi-krum", 1)):
        run = tmp_path / strategy
        how = {"strategy": strategy, "wrong_sites": wrong, "rounds": 3, "local_epochs": 2}
        start(settings_of(run, five, **how), LocalGrid(five.data, poisoned))
        records = read_records(run)
        assert [list(record["suspects"]) for record in records[1:]] == [["site-3"]] * 3
        assert "Site 'site-3' sent a change of length" in (run / "server.log").read_text()
        reached[strategy] = records[-1]["metrics"]["NDCG@10"]
    assert reached["multi-krum"] > 2 * reached["fedavg"], reached
