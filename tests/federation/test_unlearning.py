from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from federation.errors import FederationError
from federation.in_process import run_in_process
from federation.unlearning import without
from recsys.data.interactions import write_interactions
from tests.federation.conftest import walks

if TYPE_CHECKING:
    from tests.federation.conftest import Shop


def digest(artifact: Path) -> str:
    return hashlib.sha256((artifact / "weights.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def data(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    west = tmp_path_factory.mktemp("data") / "west"
    write_interactions(walks(20, seed=3), west)
    return shop.data | {"west": west}


def test_the_run_again_without_a_site_is_one_that_never_had_it(
    shop: Shop, data: dict[str, Path], tmp_path: Path
) -> None:
    how = {"rounds": 2, "strategy": "scaffold", "fraction": 0.7, "seed": 3, "final_rate": 0.5}
    whole = run_in_process(shop.initial, tmp_path / "whole", data, **how)
    sites, repeated = without(tmp_path / "whole", "south")
    assert sites == ["north", "west"]
    rest = {site: data[site] for site in sites}
    forgotten = run_in_process(shop.initial, tmp_path / "forgotten", rest, **repeated)
    never = run_in_process(shop.initial, tmp_path / "never", rest, **how)
    assert digest(forgotten.artifact) == digest(never.artifact) != digest(whole.artifact)
    assert forgotten.metrics == never.metrics


def test_what_cannot_be_forgotten_is_named(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="holds no federated run"):
        without(tmp_path / "nothing", "south")
    run_in_process(shop.initial, tmp_path / "one", {"north": shop.data["north"]}, rounds=1)
    with pytest.raises(FederationError, match="'south' took no part in one; its sites are north"):
        without(tmp_path / "one", "south")
    with pytest.raises(FederationError, match="one had no site but 'north'"):
        without(tmp_path / "one", "north")
