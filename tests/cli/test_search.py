from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.ended import ends



@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return tmp_path


def catalogue(folder: Path) -> Path:
    file = folder / "items.csv"
    lines = [f"i{n},{word} number {n}" for n, word in enumerate(["lamp", "kettle", "chair"] * 4)]
    file.write_text("\n".join(["item,title", *lines]) + "\n")
    return file


def test_a_catalogue_is_searched_and_its_model_kept(home: Path, capsys) -> None:
    data = str(catalogue(home))
    code, out, error = ends(capsys, "search", "kettles", "-k", "3", "--data", data, "--json")
    assert code == 0 and "semantic towers" in error
    found = json.loads(out)
    assert [item["text"].split()[0] for item in found["items"]] == ["kettle"] * 3
    code, table, error = ends(capsys, "search", "kettles", "-k", "3", "--data", data)
    assert code == 0 and "semantic towers" not in error
    assert [found["items"][0]["item"] in line for line in table.splitlines()].count(True) == 1


def test_a_query_without_words_and_a_missing_catalogue_are_named(home: Path, capsys) -> None:
    code, _, error = ends(capsys, "search", "??", "--data", str(catalogue(home)))
    assert code == 1 and "'??' has no word" in error
    code, _, error = ends(capsys, "search", "lamp", "--data", str(home / "nowhere"))
    assert code == 1 and "nowhere" in error
