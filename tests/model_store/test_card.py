from __future__ import annotations

from pathlib import Path

import pytest

from model_store.card import write_card
from model_store.errors import StoreError

LINEAGE = {
    "made_by": "federate",
    "parent": "sha256:abc",
    "sites": ["berlin", "lyon"],
    "rounds": [{}, {}],
    "data": {"fingerprint": "f00d", "users": 7},
    "code": "0.1.0",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "items.json").write_text('["a", "b"]')
    (tmp_path / "recipe.json").write_text('{"dimension": 16, "note": "a|b"}')
    (tmp_path / "metrics.json").write_text('{"NDCG@10": 0.123456}')
    return tmp_path


def test_the_card_tells_what_the_model_is_made_of(folder: Path) -> None:
    text = write_card(folder, LINEAGE).read_text()
    assert "Made by `hybrid federate`, code 0.1.0." in text
    assert "Made from the model `sha256:abc`." in text
    assert "2 rounds at berlin, lyon" in text and "knows 2 items" in text
    for row in ("| fingerprint | f00d |", "| dimension | 16 |", "| NDCG@10 | 0.1235 |"):
        assert row in text
    assert "| note | a/b |" in text and "| items.json | 10 bytes |" in text


def test_the_same_model_has_the_same_card(folder: Path) -> None:
    first = write_card(folder, LINEAGE).read_bytes()
    assert write_card(folder, LINEAGE).read_bytes() == first


def test_a_damaged_file_is_a_sentence(folder: Path) -> None:
    (folder / "recipe.json").write_text("{")
    with pytest.raises(StoreError, match="card of .* cannot be written"):
        write_card(folder, {})
