from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from federation import files
from federation.errors import FederationError
from federation.protocol import Reply
from federation.site_state import RUNS, SiteState
from federation.updates import Rows


def reply(number: int, delta: bytes = b"bytes") -> Reply:
    return Reply("north", "r1", number, {"train": {"loss": 0.1 + 0.2}}, {"delta": delta})


def test_the_same_request_has_the_same_answer_and_another_has_none(tmp_path: Path) -> None:
    with SiteState(tmp_path / "runs", "r1").alone():
        SiteState(tmp_path / "runs", "r1").save("asked", reply(3), {})
    state = SiteState(tmp_path / "runs", "r1")
    assert state.answer(3, "asked") == reply(3)
    assert state.answer(3, "otherwise") is None
    assert state.answer(4, "asked") is None
    assert SiteState(tmp_path / "runs", "r2").answer(3, "asked") is None
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "runs/r1").glob("3.*")}
    assert modes == {0o600} and stat.S_IMODE((tmp_path / "runs/r1").stat().st_mode) == 0o700


def test_a_round_starts_from_what_the_one_before_left_however_often_it_is_done(
    tmp_path: Path,
) -> None:
    state = SiteState(tmp_path, "r1")
    rows = Rows(np.array([1, 4]), np.float32([[1, 2], [3, 4]]))
    with state.alone():
        assert state.before(1) == {}
        state.save("1", reply(1), {"residual": {"w/x": np.float32([1]), "t": rows}})
        state.save("2", reply(2), {"residual": {"w/x": np.float32([2])}})
        for again in (state.before(2), state.before(2)):
            kept = again["residual"]
            assert kept["w/x"].tolist() == [1]
            assert kept["t"].index.tolist() == [1, 4]
            assert kept["t"].values.tolist() == [[1, 2], [3, 4]]
        # Rounds in which the site did not take part leave what it had.
        assert state.before(7)["residual"]["w/x"].tolist() == [2]
        state.save("7", reply(7), {})
        assert state.answer(2, "2") == reply(2) and state.answer(1, "1") is None
        # The server lost its checkpoint: the rounds come again from the first.
        state.save("1 again", reply(1), {})
        assert state.answer(1, "1 again") == reply(1) and state.answer(7, "7") is None


def test_a_full_disk_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = SiteState(tmp_path, "r1")
    with state.alone():
        state.save("1", reply(1), {})

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(FederationError, match="cannot keep round 2 in .*r1 .No space left"):
            state.save("2", reply(2), {})
    assert state.answer(1, "1") == reply(1) and state.answer(2, "2") is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    state = SiteState(tmp_path, "r1")
    with state.alone():
        (tmp_path / "r1/1.safetensors").write_bytes(b"half")
        with pytest.raises(FederationError, match="1.safetensors is damaged: delete"):
            state.answer(1, "1")


@pytest.mark.parametrize("run", ["", "../other", "a/b", "."])
def test_a_run_cannot_name_another_folder(tmp_path: Path, run: str) -> None:
    with pytest.raises(FederationError, match="is no identity of a run"):
        SiteState(tmp_path, run)


def test_only_the_last_runs_are_kept(tmp_path: Path) -> None:
    for number in range(RUNS + 3):
        folder = tmp_path / f"old{number}"
        folder.mkdir()
        os.utime(folder, (number, number))
    with SiteState(tmp_path, "new").alone():
        pass
    assert {path.name for path in tmp_path.iterdir()} == {
        "new", *(f"old{number}" for number in range(4, RUNS + 3)),
    }  # fmt: skip
