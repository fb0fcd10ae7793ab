"""Private runs by server and sites in one process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from federation.checkpoint import read_records
from federation.errors import FederationError
from federation.privacy.ledger import LEDGER, Entry, Ledger
from federation.settings import RunSettings
from tests.federation.local_grid import LocalGrid, settings_of, start

if TYPE_CHECKING:
    from tests.federation.conftest import Shop

PRIVATE = {"dp_epsilon": 8.0, "dp_clip": 0.5}


def weights(run: Path) -> bytes:
    return (run / "artifact" / "weights.safetensors").read_bytes()


def test_a_private_run_spends_its_budget_and_its_model_carries_the_ledger(tmp_path, shop: Shop):
    homes = tmp_path / "homes"
    grid = LocalGrid(shop.data, homes=homes)
    start(settings_of(tmp_path, shop, **PRIVATE), grid)
    _, *records = read_records(tmp_path)
    assert 0 < records[0]["epsilon"] < records[1]["epsilon"] <= 8.0
    ledger = Ledger(tmp_path / "artifact" / LEDGER)
    assert {(entry.site, entry.round) for entry in ledger.entries()} == {
        (site, number) for site in shop.data for number in (1, 2)
    }
    assert ledger.epsilon(1e-6) == records[-1]["epsilon"]
    # Weighed by the number of users, not by what they did.
    users = {site: trained["examples"] for site, trained in records[0]["trained"].items()}
    assert users == {"north": 60, "south": 25}
    own = Ledger(homes / "north" / LEDGER)
    assert own.epsilon(1e-6) == pytest.approx(records[-1]["epsilon"])


def test_a_run_halts_before_the_round_that_a_site_cannot_afford(tmp_path, shop: Shop):
    homes = tmp_path / "homes"
    grid = LocalGrid(shop.data, homes=homes)
    for site in shop.data:
        spent = Ledger(homes / site / LEDGER)
        spent.charge([Entry("before", site, 1, "a", 0.1, 1.5, 60)], 8.0, 1e-6)
    start(settings_of(tmp_path, shop, rounds=3, **PRIVATE), grid)
    *_, last = read_records(tmp_path)
    assert last["round"] < 3
    assert "does not allow another round: epsilon would be" in last["halted"]
    assert weights(tmp_path)  # with the model after the rounds that were paid for
    for site in shop.data:
        assert Ledger(homes / site / LEDGER).epsilon(1e-6) <= 8.0


def test_a_repeated_round_changes_no_byte_and_costs_nothing(tmp_path, shop: Shop):
    homes = tmp_path / "homes"
    grid = LocalGrid(shop.data, homes=homes)
    run = tmp_path / "run"
    settings = settings_of(run, shop, rounds=1, **PRIVATE)
    start(settings, grid)
    before, spent = weights(run), (run / LEDGER).read_text()
    own = (homes / "north" / LEDGER).read_text()
    # As if the server had been killed before it wrote the checkpoint, and the sites' replies lost.
    (run / "checkpoint.safetensors").unlink()
    for reply in homes.glob("*/*/*.safetensors"):
        reply.unlink()
    shutil.rmtree(run / "artifact")
    start(settings, grid)
    assert weights(run) == before
    assert (run / LEDGER).read_text() == spent
    assert (homes / "north" / LEDGER).read_text() == own


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dp_epsilon": -1.0}, "dp_epsilon is -1.0: use 0"),
        ({"dp_delta": 1.0}, "dp_delta is 1.0: use a number in"),
        ({"dp_clip": 0.0}, "dp_clip is 0.0: use a number above 0"),
        ({"dp_epsilon": 1.0, "strategy": "fedprox", "proximal_mu": 0.1}, r"use fedavg\.$"),
    ],
)
def test_settings_that_promise_nothing_are_refused(tmp_path, change, sentence):
    with pytest.raises(FederationError, match=sentence):
        RunSettings(folder=tmp_path, sites=("north",), **change)


def test_the_lineage_of_epsilon_is_read_from_the_initial_model(tmp_path, shop: Shop):
    settings = settings_of(tmp_path, shop, rounds=1, **PRIVATE)
    entry = Entry("before", "north", 1, "", 0.1, 0.7, 200)
    Ledger(tmp_path / "initial" / LEDGER).charge([entry], 1e9, 1e-6)
    with pytest.raises(FederationError, match="The privacy budget is spent: epsilon is .* of 8 at"):
        start(settings, LocalGrid(shop.data))
