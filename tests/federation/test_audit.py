"""Whatever is done to the audit log is found, and a crash in the middle of a record is mended."""

from __future__ import annotations

import json
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.audit import BROKEN, TORN, AuditLog
from federation.errors import FederationError

COUNT = 6
PROPERTY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of six records."""
    log = AuditLog(tmp_path_factory.mktemp("audit") / "audit.jsonl")
    for number in range(COUNT):
        log.append("round", run="federate-1", round=number, refused={"süd": "NaN"})
    return log.path.parent


@pytest.fixture
def log(written: Path, tmp_path: Path) -> AuditLog:
    """A copy of it."""
    return copy_of(written, tmp_path / "copy")


def copy_of(written: Path, folder: Path) -> AuditLog:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(written, folder)
    return AuditLog(folder / "audit.jsonl")


def lines(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines(keepends=True)


def test_an_untouched_log_holds_and_only_the_owner_may_read_it(log: AuditLog) -> None:
    verdict = log.verify()
    assert (verdict.records, verdict.broken, verdict.torn) == (COUNT, None, False)
    assert verdict.head == log.records()[-1]["hash"]
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert [record["round"] for record in log.records()] == list(range(COUNT))


def test_an_absent_log_is_an_empty_one(tmp_path: Path) -> None:
    assert AuditLog(tmp_path / "audit.jsonl").verify().broken is None
    assert AuditLog(tmp_path / "audit.jsonl").records() == []


@PROPERTY
@given(data=st.data())
def test_any_other_sequence_of_records_is_found_at_its_first_difference(
    written: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Removals, repetitions and other orders, at the end too."""
    log = copy_of(written, tmp_path / "copy")
    original = lines(log)
    order = data.draw(st.lists(st.integers(0, COUNT - 1), max_size=COUNT + 2))
    log.path.write_bytes(b"".join(original[number] for number in order))
    pairs = enumerate([*order, None])
    first = next((place for place, number in pairs if number != place), None)
    broken = log.verify().broken
    if order == list(range(COUNT)):
        assert broken is None
    else:
        assert broken is not None and broken.startswith(f"Record {first + 1} ")


@PROPERTY
@given(place=st.integers(0), bit=st.integers(0, 7))
def test_any_changed_bit_is_found_in_its_record(
    written: Path, tmp_path: Path, place: int, bit: int
) -> None:
    log = copy_of(written, tmp_path / "copy")
    content = bytearray(log.path.read_bytes())
    place %= len(content)
    number = content[:place].count(b"\n") + 1
    content[place] ^= 1 << bit
    log.path.write_bytes(content)
    broken = log.verify().broken
    assert broken is not None and broken.startswith(f"Record {number} ")


def test_a_record_with_a_new_hash_of_its_own_breaks_the_next(log: AuditLog) -> None:
    """Who can compute hashes would have to change all that follow, and the head."""
    forged = AuditLog(log.path.with_name("forged.jsonl"))
    for number in range(COUNT):
        forged.append("round", run="federate-1", round=number, refused={})
    changed = lines(log)
    changed[0] = lines(forged)[0]
    log.path.write_bytes(b"".join(changed))
    assert log.verify().broken == "Record 2 does not follow the one before it."
    shutil.copy(forged.path, log.path)
    assert "the log once had 6" in log.verify().broken


@PROPERTY
@given(cut=st.integers(1))
def test_a_crash_within_a_line_is_repaired_and_told(
    written: Path, tmp_path: Path, cut: int
) -> None:
    log = copy_of(written, tmp_path / "copy")
    head = log.path.with_suffix(".head").read_bytes()
    log.append("site added", site="north")
    whole = log.path.read_bytes()
    line = whole.splitlines(keepends=True)[-1]
    kept = cut % len(line)
    # The head is written after the record: a crash leaves it as it was.
    log.path.write_bytes(whole[: len(whole) - len(line) + kept])
    log.path.with_suffix(".head").write_bytes(head)
    verdict = log.verify()
    assert verdict.broken is None and verdict.torn is (kept > 0)
    log.append("site removed", site="north")
    assert log.verify().broken is None and not log.verify().torn
    events = [record["event"] for record in log.records()][COUNT:]
    if kept == len(line) - 1:
        assert events == ["site added", "site removed"]  # only the line's end was lost
    else:
        assert events == ([TORN] if kept else []) + ["site removed"]


def test_a_crash_before_the_head_is_no_fault(log: AuditLog) -> None:
    head = log.path.with_suffix(".head").read_bytes()
    log.append("site added", site="north")
    log.path.with_suffix(".head").write_bytes(head)
    assert log.verify().broken is None
    log.append("site removed", site="north")
    assert (log.verify().records, log.verify().broken) == (COUNT + 2, None)


@pytest.mark.parametrize("kept", [0, 3, COUNT - 1])
def test_a_log_that_was_cut_stays_broken_when_it_goes_on(log: AuditLog, kept: int) -> None:
    log.path.write_bytes(b"".join(lines(log)[:kept]))
    log.append("promoted", model="sha256:1")
    assert [record["event"] for record in log.records()][-2:] == [BROKEN, "promoted"]
    assert log.verify().broken.startswith(f"Record {kept + 1} ")


def test_a_noted_hash_shows_a_log_that_was_replaced_as_a_whole(log: AuditLog) -> None:
    noted = log.verify().head
    log.append("promoted", model="sha256:1")
    assert log.verify(noted).broken is None
    for path in (log.path, log.path.with_suffix(".head")):
        path.unlink()
    log.append("promoted", model="sha256:1")
    assert log.verify().broken is None
    assert f"No record has the hash {noted}" in log.verify(noted).broken


def test_a_damaged_head_is_named(log: AuditLog) -> None:
    log.path.with_suffix(".head").write_text("{")
    with pytest.raises(FederationError, match=r"audit.head is damaged"):
        log.append("promoted")


def test_writers_side_by_side_keep_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: AuditLog(path).append("round", round=number), range(12)))
    assert AuditLog(path).verify().records == 12
    assert sorted(json.loads(line)["round"] for line in path.open()) == list(range(12))
