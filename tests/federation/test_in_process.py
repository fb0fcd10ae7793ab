"""Every strategy through the server's and the sites' own code, in this process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from federation.checkpoint import Checkpoint
from federation.contribution import contributions
from federation.errors import FederationError
from federation.in_process import run_in_process
from federation.ledger import rounds_kept
from federation.strategies.averaging import FedAvg
from recsys.artifact import load_model
from recsys.data.interactions import load_interactions, write_interactions
from recsys.data.split import leave_one_out
from recsys.loop import adamw, train_epoch
from recsys.objectives import NextItem
from recsys.randomness import Stage
from tests.federation.conftest import walks

if TYPE_CHECKING:
    from tests.federation.conftest import Shop


def weights(artifact: Path) -> dict[str, np.ndarray]:
    return load_file(artifact / "weights.safetensors")


@pytest.fixture(scope="module")
def plain(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two rounds with all defaults, whose updates are kept."""
    run = tmp_path_factory.mktemp("plain")
    run_in_process(shop.initial, run, shop.data, rounds=2, keep_updates=True)
    return run


@pytest.mark.parametrize(
    "how",
    [
        {"strategy": "fedavgm", "server_momentum": 0.6},
        {"strategy": "fedadam", "server_rate": 0.01},
        {"strategy": "scaffold"},
        {"strategy": "trimmed-mean", "wrong_sites": 1},
        {"personal": "*norm*"},
        {"final_rate": 0.1},
        {"keep_moments": False},
    ],
    ids=lambda how: " ".join(map(str, how.values())),
)
def test_each_setting_trains_a_model_of_its_own(
    how: dict, shop: Shop, plain: Path, tmp_path: Path
) -> None:
    if how.get("strategy") == "trimmed-mean":
        with pytest.raises(FederationError, match="2 usable updates: .* needs 3"):
            run_in_process(shop.initial, tmp_path, shop.data, rounds=1, **how)
        return
    result = run_in_process(shop.initial, tmp_path, shop.data, rounds=2, **how)
    assert all(np.isfinite(record["loss"]) for record in result.rounds)
    made, usual = weights(result.artifact), weights(plain / "artifact")
    assert (made["item_embedding.weight"] != usual["item_embedding.weight"]).any()


def test_a_site_that_keeps_its_moments_trains_as_if_it_never_stopped(
    shop: Shop, tmp_path: Path
) -> None:
    """With one site, the server's model is the site's."""
    alone = {"north": shop.data["north"]}
    result = run_in_process(shop.initial, tmp_path, alone, rounds=3)
    expected = load_model(shop.initial)
    events = leave_one_out(load_interactions(shop.data["north"])).train
    optimizer, objective = adamw(expected.model, expected.recipe), NextItem(events, expected.recipe)
    for number in (1, 2, 3):
        digest = hashlib.sha256(f"0/{number}/north".encode()).digest()
        seed = int.from_bytes(digest[:4], "big") >> 1
        train_epoch(expected.model, optimizer, objective, expected.recipe, seed, Stage.LOCAL, 0)
    made = weights(result.artifact)["blocks.0.feed_forward.0.weight"]
    wanted = expected.model.state_dict()["blocks.0.feed_forward.0.weight"].numpy()
    np.testing.assert_allclose(made, wanted, atol=2e-5)


def test_scaffold_sites_send_how_their_variates_changed(shop: Shop, tmp_path: Path) -> None:
    run_in_process(
        shop.initial, tmp_path, shop.data, rounds=2, strategy="scaffold", keep_updates=True
    )
    kept = dict(rounds_kept(tmp_path))
    state = Checkpoint.load(tmp_path).strategy
    name = "blocks.0.feed_forward.0.weight"
    assert (state[name] != 0).any()
    # Both of the two sites train in every round: c is the mean of their c_i, which are the sums
    # of the changes that each sent.
    sent = [update.extra[name] for number in (1, 2) for update in kept[number]]
    np.testing.assert_allclose(state[name], np.sum(sent, axis=0) / 2, atol=1e-6)


def test_by_row_a_site_changes_the_rows_of_its_own_items_alone(shop: Shop, tmp_path: Path) -> None:
    """Else what drawing an item as a negative does to its row counts as much as its users do."""
    few = walks(2, seed=5)
    own = np.unique(leave_one_out(few).train.sequence)
    assert 0 < len(own) < len(few.items)
    write_interactions(few, tmp_path / "few")
    data = {"north": shop.data["north"], "south": tmp_path / "few"}
    run_in_process(
        shop.initial, tmp_path / "run", data, rounds=1, by_row=True, keep_updates=True
    )
    ((_, updates),) = rounds_kept(tmp_path / "run")
    (south,) = [update for update in updates if update.site == "south"]
    changed = south.delta["item_embedding.weight"].any(axis=1)
    assert np.flatnonzero(changed).tolist() == own.tolist()


def test_personal_layers_stay_at_the_sites_and_differ_there(shop: Shop, tmp_path: Path) -> None:
    run_in_process(shop.initial, tmp_path, shop.data, rounds=2, personal="*norm*")
    before, after = weights(shop.initial), weights(tmp_path / "artifact")
    for name in before:
        assert ("norm" in name) == (before[name] == after[name]).all(), name
    own = []
    for site in shop.data:
        (last,) = (tmp_path / "sites" / site).glob("*/2.safetensors")
        own.append(load_file(last)["whole/personal/norm.weight"])
    assert (own[0] != own[1]).any() and (own[0] != before["norm.weight"]).any()


def test_the_ledger_gives_the_runs_model_again(shop: Shop, plain: Path) -> None:
    present, state = weights(shop.initial), {}
    for _, updates in rounds_kept(plain):
        present, state = FedAvg().aggregate(present, updates, state)
    made = weights(plain / "artifact")
    assert all(present[name].tobytes() == made[name].tobytes() for name in made)
    worth = contributions(
        weights(shop.initial), rounds_kept(plain), FedAvg(), lambda w: float(w["norm.bias"].sum())
    )
    assert [set(found) for found in worth] == [{"north", "south"}] * 2


def test_the_fastest_site_is_chosen_from_the_records(shop: Shop, tmp_path: Path) -> None:
    result = run_in_process(
        shop.initial, tmp_path, shop.data, rounds=3, selection="speed", fraction=0.5
    )
    trained = [list(record["trained"]) for record in result.rounds]
    assert sorted(trained[0] + trained[1]) == ["north", "south"], "each is tried once"
    answered = {
        site: told["answered"] for r in result.rounds[:2] for site, told in r["trained"].items()
    }
    assert trained[2] == [min(answered, key=lambda site: (answered[site], site))]
