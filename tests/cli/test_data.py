"""hybrid data: what a user sees of the data before a model does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.application import Application
from cli.commands.data import data
from handlers.tower import read_histories
from model_store.residency import is_private
from recsys.data.interactions import load_interactions

LOG = "user,item,time\n" + "".join(
    f"u{user},i{item},2025-0{1 + item}-01\n" for user in range(3) for item in range(4 - user)
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log.csv").write_text(LOG)
    return tmp_path / "log.csv"


def run(home: Path, *arguments: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(data, [str(part) for part in arguments], obj=Application(home))
    assert fails == (result.exit_code != 0), result.output
    return result


def test_show_prints_figures_and_what_is_odd(log: Path) -> None:
    log.write_text(LOG + "u0,,2025-01-01\n")
    text = " ".join(run(log.parent, "show", log).output.split())
    assert text.startswith(f"{log}: events figure value")
    assert "last 2025-04-01 00:00:00" in text and "events per user mean 3" in text
    assert f"item is not an item id 1 dropped {log}, line 11" in text
    (shown,) = json.loads(run(log.parent, "show", log, "--json").output)
    assert shown["figures"]["users"] == 3 and shown["report"]["findings"][0]["rows"] == 1


def test_convert_writes_what_training_reads(log: Path, tmp_path: Path) -> None:
    target = tmp_path / "prepared"
    limits = ("--min-user-events", 3, "--min-item-events", 2)
    text = " ".join(run(tmp_path, "convert", log, target, *limits).output.split())
    assert f"Kept 6 of 9 events in {target}." in text
    assert "the user has fewer than 3 events 2 dropped" in text
    told = json.loads(run(tmp_path, "convert", log, target, *limits, "--json").output)
    assert told["fingerprint"] == load_interactions(target).fingerprint()
    assert told["statistics"]["users"] == 2


def test_convert_refuses_bad_rows_unless_told(log: Path, tmp_path: Path) -> None:
    log.write_text(LOG + "u0,,2025-01-01\n")
    refused = run(tmp_path, "convert", log, tmp_path / "prepared", fails=True)
    assert "log.csv, line 11: item is None" in str(refused.exception)
    assert not (tmp_path / "prepared").exists()
    told = run(tmp_path, "convert", log, tmp_path / "prepared", "--drop-bad-rows", "--json").output
    assert json.loads(told)["read"] == 9


def test_other_files_are_not_written_over(log: Path, tmp_path: Path) -> None:
    refused = run(tmp_path, "convert", log, tmp_path, fails=True)
    assert refused.exit_code == 2 and "holds other files already" in refused.output
    target = tmp_path / "prepared"
    for _ in range(2):
        run(tmp_path, "convert", log, target)


def test_split_cuts_at_the_same_moments_for_all(log: Path, tmp_path: Path) -> None:
    moments = ("--validation-from", "2025-03-01", "--test-from", "2025-04-01")
    text = run(tmp_path, "split", log, tmp_path / "parts", *moments).output
    assert [line.split()[:2] for line in text.splitlines()[3:6]] == [
        ["train", "6"], ["validation", "2"], ["test", "1"],
    ]  # fmt: skip
    assert load_interactions(tmp_path / "parts" / "test").history("u0") == ["i3"]
    told = json.loads(run(tmp_path, "split", log, tmp_path / "parts", *moments, "--json").output)
    assert told["test"]["not_in_train"] == 1


def test_split_wants_dates(log: Path, tmp_path: Path) -> None:
    refused = run(tmp_path, "split", log, tmp_path, "--test-from", "soon", fails=True)
    assert refused.exit_code == 2 and "'soon' is no date: write it like 2011-11-01" in refused.output


def test_histories_are_what_a_sites_server_reads_and_as_private_as_the_log(log: Path) -> None:
    file = log.with_name("histories.jsonl")
    log.with_name(log.name + ".residency").touch()
    assert "Wrote the histories of 3 users" in run(log.parent, "histories", log, file).output
    interactions = load_interactions(log)
    assert read_histories(file) == {u: tuple(interactions.history(u)) for u in interactions.users}
    assert file.stat().st_mode & 0o777 == 0o600 and is_private(file)
