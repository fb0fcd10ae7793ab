from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import FederationError
from federation.privacy.accounting import epsilon
from federation.privacy.ledger import BudgetSpent, Entry, Ledger

DELTA = 1e-6
ENTRY = Entry("run", "north", 1, "digest", sampling=0.1, noise=1.0, steps=10)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "site" / "privacy.jsonl")


def test_a_round_is_charged_once_however_often_it_is_repeated(ledger):
    first = ledger.charge([ENTRY], 8, DELTA)
    assert ledger.charge([ENTRY], 8, DELTA) == first == epsilon([ENTRY.release], DELTA)
    assert ledger.entries() == [ENTRY]
    # Another question in the same round has another answer, which tells more.
    assert ledger.charge([replace(ENTRY, request="other")], 8, DELTA) > first


def test_it_halts_before_the_round_that_would_exceed_the_budget(ledger):
    budget = epsilon([replace(ENTRY, steps=35).release], DELTA)
    for number in (1, 2, 3):
        ledger.charge([replace(ENTRY, round=number)], budget, DELTA)
    with pytest.raises(BudgetSpent, match=r"site 'north' does not allow another round: epsilon"):
        ledger.charge([replace(ENTRY, round=4)], budget, DELTA)
    assert [entry.round for entry in ledger.entries()] == [1, 2, 3]
    assert ledger.epsilon(DELTA) <= budget
    # The answer to a round that is paid for may still be repeated.
    ledger.charge([replace(ENTRY, round=3)], budget, DELTA)


def test_runs_add_up_and_sites_stand_side_by_side(ledger):
    south = replace(ENTRY, site="south")
    one = ledger.charge([ENTRY, south], 8, DELTA)
    assert one == pytest.approx(epsilon([ENTRY.release], DELTA))
    assert ledger.epsilon_of_all(DELTA) == pytest.approx(epsilon([ENTRY.release] * 2, DELTA))
    assert ledger.charge([replace(ENTRY, run="later")], 8, DELTA) > one


def test_the_file_is_private_and_survives_the_process(ledger):
    ledger.charge([ENTRY], 8, DELTA)
    assert stat.S_IMODE(os.stat(ledger.path).st_mode) == 0o600
    assert Ledger(ledger.path).entries() == [ENTRY]


@pytest.mark.parametrize(
    "text", ["{", '{"run": "a"}\n', "[]\n", None], ids=["torn", "short", "list", "negative"]
)
def test_a_damaged_ledger_is_not_begun_anew(ledger, text):
    ledger.charge([ENTRY], 8, DELTA)
    if text is None:
        text = ledger.path.read_text().replace('"steps": 10', '"steps": -10')
    ledger.path.write_text(text)
    with pytest.raises(FederationError, match="is damaged .*restore it from a copy"):
        ledger.charge([replace(ENTRY, round=2)], 8, DELTA)
