"""What a private site may send of each user, counted in a file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from handlers.ledger import Ledger, MayNotGo


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def rows(file: Path) -> list[tuple[str, float, int]]:
    return sqlite3.connect(file).execute("SELECT * FROM sent ORDER BY user, noise").fetchall()


def test_of_each_user_so_many_vectors_go_and_the_same_one_counts_once(file: Path) -> None:
    ledger = Ledger(file, 2, 0.5)
    for vector in (b"1", b"2", b"1", b"2"):
        ledger.count("anna", vector)
    with pytest.raises(MayNotGo, match="^2 vectors of this user went, and no more may$"):
        ledger.count("anna", b"3")
    ledger.count("anna", b"1")  # tells nothing new
    ledger.count("ben", b"3")
    with pytest.raises(MayNotGo, match="names none"):
        ledger.count(None, b"1")
    assert rows(file) == [("anna", 0.5, 2), ("ben", 0.5, 1)]
    assert file.stat().st_mode & 0o777 == 0o600


def test_after_a_start_the_same_vector_counts_again_with_whatever_noise(file: Path) -> None:
    Ledger(file, 3, 0.5).count("anna", b"1")
    ledger = Ledger(file, 3, 2.0)
    ledger.count("anna", b"1")
    beside = Ledger(file, 3, 2.0)  # another process
    beside.count("anna", b"2")
    for each in (ledger, beside):
        with pytest.raises(MayNotGo):
            each.count("anna", b"9")
    assert rows(file) == [("anna", 0.5, 1), ("anna", 2.0, 2)]


def test_what_cannot_be_counted_does_not_go(file: Path, tmp_path: Path) -> None:
    ledger = Ledger(file, 3, 0.5)
    sqlite3.connect(file).execute("DROP TABLE sent").connection.commit()
    with pytest.raises(MayNotGo, match="does not count"):
        ledger.count("anna", b"1")
    file.write_text("no database" * 100)
    for wrong in (file, tmp_path / "none" / "ledger.sqlite"):
        with pytest.raises(ValueError, match=f"{wrong} cannot be used as a ledger"):
            Ledger(wrong, 3, 0.5)
