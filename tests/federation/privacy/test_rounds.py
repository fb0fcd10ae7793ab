from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
import torch

from federation.errors import FederationError
from federation.privacy.accounting import epsilon
from federation.privacy.ledger import LEDGER, BudgetSpent, Ledger
from federation.privacy.rounds import (
    Terms,
    agree_terms,
    charge,
    keep_with_model,
    site_key,
    train_round,
)
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from tests.federation.conftest import ITEMS, walks

RECIPE = Recipe(dimension=8, heads=1, length=8, dropout=0.0)
PLAN = {"epsilon": 8.0, "delta": 1e-6, "clip": 1.0, "rounds": 3, "local_epochs": 1}


def rounds_of(run: Path, terms: Terms, numbers: range, name: str = "run") -> float:
    ledger = Ledger(run / LEDGER)
    return max(
        charge(ledger, terms, name, number, [("north", f"n{number}"), ("south", "s")], 1)
        for number in numbers
    )


def test_a_run_ends_within_its_budget_and_goes_no_further(tmp_path):
    terms = agree_terms(tmp_path, **PLAN)
    assert 7.9 < rounds_of(tmp_path, terms, range(1, 4)) <= 8.0
    with pytest.raises(BudgetSpent, match="does not allow another round: epsilon would be"):
        rounds_of(tmp_path, terms, range(4, 5))
    assert agree_terms(tmp_path, **PLAN) == terms  # as after a crash


def test_the_ledger_goes_with_the_model_into_the_next_run(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "initial").mkdir(parents=True)
    (first / "artifact").mkdir()
    half = agree_terms(first, **PLAN | {"epsilon": 4.0})
    rounds_of(first, half, range(1, 4))
    keep_with_model(first, first / "artifact")
    shutil.copytree(first / "artifact", second / "initial")

    terms = agree_terms(second, **PLAN)
    assert terms.noise > half.noise * 0.5
    spent = rounds_of(second, terms, range(1, 4), "later")
    entries = [entry.release for entry in Ledger(second / LEDGER).entries()]
    assert len(entries) == 12
    assert 7.9 < spent == epsilon(entries[::2], 1e-6) <= 8.0
    with pytest.raises(FederationError, match="The privacy budget is spent: epsilon is 3.99 of 2"):
        agree_terms(second, **PLAN | {"epsilon": 2.0})


def test_a_model_without_private_training_gets_no_ledger(tmp_path):
    keep_with_model(tmp_path, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


class TestSite:
    TERMS = Terms(8.0, 1e-6, 1.0, 1.5, 0.5)

    def trained(self, folder: Path, request: str, seed: int = 2, number: int = 1) -> bytes:
        torch.manual_seed(0)
        model = SequentialRecommender(len(ITEMS), RECIPE)
        train_round(
            model, walks(20, seed), RECIPE, self.TERMS, folder,
            run="run", site="north", number=number, request=request, epochs=1,
        )  # fmt: skip
        return model.item_embedding.weight.detach().numpy().tobytes()

    def test_a_repeated_request_has_the_same_answer_and_costs_nothing(self, tmp_path):
        first = self.trained(tmp_path, "a")
        spent = Ledger(tmp_path / LEDGER).epsilon(1e-6)
        assert self.trained(tmp_path, "a") == first
        assert Ledger(tmp_path / LEDGER).epsilon(1e-6) == spent
        assert self.trained(tmp_path, "b") != first
        assert Ledger(tmp_path / LEDGER).epsilon(1e-6) > spent

    def test_other_data_and_other_sites_have_other_noise(self, tmp_path):
        first = self.trained(tmp_path / "a", "a")
        assert first != self.trained(tmp_path / "b", "a")

    def test_its_own_ledger_stops_it_before_it_trains(self, tmp_path):
        with pytest.raises(BudgetSpent, match="site 'north'"):
            for number in range(1, 50):
                self.trained(tmp_path, f"{number}", number=number)
        assert 1 < number < 49
        assert Ledger(tmp_path / LEDGER).epsilon(1e-6) <= 8.0

    def test_the_key_is_drawn_once_and_private(self, tmp_path):
        key = site_key(tmp_path / "state")
        assert len(key) == 32 and key == site_key(tmp_path / "state")
        assert key != site_key(tmp_path / "other")
        assert stat.S_IMODE(os.stat(tmp_path / "state" / "site.key").st_mode) == 0o600
        (tmp_path / "state" / "site.key").write_bytes(b"short")
        with pytest.raises(FederationError, match="site.key is damaged"):
            site_key(tmp_path / "state")


def test_terms_are_read_back_and_checked():
    terms = TestSite.TERMS
    assert Terms.from_text(terms.to_text()) == terms
    for wrong in ('{"noise": 0}', "[]", "{", terms.to_text().replace("0.5", "-1")):
        with pytest.raises(FederationError, match="terms of privacy"):
            Terms.from_text(wrong)
    # A server that asks for hardly any noise pays for it with ε, and soon has no more.
    with pytest.raises(FederationError, match="out of range"):
        Terms.from_text(terms.to_text().replace('"noise": 1.5', '"noise": 0.0'))
