"""hybrid offpolicy: what a user reads of a policy that was never served."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.application import Application
from cli.commands.offpolicy import offpolicy


def write_log(file: Path, probabilities: list[float], rounds: int = 400) -> Path:
    """Items a, b and c, of which only c is clicked, and that every second time."""
    generator = np.random.default_rng(0)
    shown = generator.choice(3, size=rounds, p=probabilities)
    rows = [
        f"{second},{'abc'[item]},1,{int(item == 2 and second % 2)},{probabilities[item]}"
        for second, item in enumerate(shown)
    ]
    file.write_text("\n".join(["time,item_id,position,click,propensity_score", *rows]) + "\n")
    return file


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_log(tmp_path / "log.csv", [0.5, 0.25, 0.25])


def run(*arguments: object) -> Result:
    parts = [*map(str, arguments), "--resamples", "50"]
    return CliRunner().invoke(offpolicy, parts, obj=Application(Path("unused")))


def test_a_table_of_probabilities_is_evaluated(log: Path) -> None:
    policy = log.with_name("policy.csv")
    policy.write_text("item,position,probability\nc,1,1\n")
    told = json.loads(run(log, "--policy", policy, "--json").output)
    rates = {row["estimator"]: row for row in told["estimates"]}
    assert list(rates) == ["IPS", "clipped IPS", "SNIPS", "direct method", "doubly robust"]
    assert rates["doubly robust"]["low"] < 0.5 < rates["doubly robust"]["high"]
    assert [row["estimator"] for row in told["observed"]] == ["old, observed"]
    assert told["unsupported"] == 0 and told["rounds"] == 400


def test_another_log_is_evaluated_and_checked_by_its_clicks(log: Path) -> None:
    other = write_log(log.with_name("other.csv"), [0.1, 0.1, 0.8])
    text = run(log, "--policy-log", other).output
    assert "doubly robust" in text and "95% interval" in text
    assert "old, observed" in text and "new, observed" in text
    assert "The 400 rounds of the log tell as much as" in text


def test_what_the_log_never_shows_is_said(log: Path) -> None:
    policy = log.with_name("policy.csv")
    policy.write_text("item,position,probability\nc,1,0.75\nz,1,0.25\n")
    assert "spends 25.0% of its choices on items" in run(log, "--policy", policy).output
    assert "never shows" not in run(log, "--uniform").output


@pytest.mark.parametrize("policies", [(), ("--uniform", "--policy", "some.csv")])
def test_exactly_one_policy_is_wanted(log: Path, policies: tuple[str, ...]) -> None:
    result = run(log, *policies)
    assert result.exit_code == 2 and "Give one new policy" in result.output
