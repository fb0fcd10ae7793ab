"""The federation's audit log: records that can be added, and not changed or taken away unseen.

One line of JSON a record. Each holds the hash of the record before it and its own, over everything
else in it, so that a change, a removal or another order breaks the chain at the first record
concerned. A chain alone does not show that its last records are gone: a second file keeps the
number and the hash of the last one. Who can write to both files can still forge the whole log; a
hash noted elsewhere, which :meth:`AuditLog.verify` takes, shows that too.

A record is flushed to the disk before its head is: after a crash the log may be one record ahead
of its head, or end within a line. The next record repairs that, and says so in the log.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from federation.errors import FederationError
from federation.files import write_private

Record = dict[str, Any]

# What the first record has for the hash of the one before.
START = "0" * 64
TORN = "torn line removed"
BROKEN = "log found broken"


@dataclass(frozen=True)
class Verdict:
    """What a check of the log has found.

    Attributes
    ----------
    records : int
        Records that are whole, from the first up to the first broken one.
    head : str
        Hash of the last of them.
    broken : str or None
        Names the first broken record; None if all is well.
    torn : bool
        Whether a crash cut the last line short, which the next record repairs.
    """

    records: int
    head: str
    broken: str | None
    torn: bool


class AuditLog:
    """The log in the file `path`, with its head and its lock beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head = path.with_suffix(".head")

    def append(self, event: str, **fields: Any) -> Record:
        """Add a record of what has happened; it is on the disk when this returns.

        Parameters
        ----------
        event
            What happened, in a few words.
        fields
            What it happened to, as JSON.
        """
        with self._locked():
            whole, torn = self._lines()
            if torn and (rescued := _record_of(torn)) is not None:
                # Only the line's end was lost.
                _write(self.path, b"\n")
                whole, torn = [*whole, _line(rescued)], b""
            if torn:
                os.truncate(self.path, self.path.stat().st_size - len(torn))
            number, previous = self._read_head()
            last = _record_of(whole[-1]) if whole else {"number": 0, "hash": START}
            if last is None or not self._goes_on(last, number, previous):
                last = {"number": number, "hash": previous}
                missing = f"it did not end with record {number} and hash {previous}"
                last = self._add(last, BROKEN, {"why": missing})
            if torn:
                last = self._add(last, TORN, {"bytes": len(torn)})
            return self._add(last, event, fields)

    def records(self) -> list[Record]:
        """Every line that is a record, in order; `verify` tells whether they can be trusted."""
        found = [_record_of(line) for line in self._lines()[0]]
        return [record for record in found if record is not None]

    def verify(self, noted: str | None = None) -> Verdict:
        """Check the whole log.

        Parameters
        ----------
        noted
            Hash of a record, noted when it was the last one: it must still be there.
        """
        with self._locked():
            whole, torn = self._lines()
            number, head = self._read_head()
        known, previous = {START}, START
        for position, line in enumerate(whole, start=1):
            record = _record_of(line)
            why = _fault(record, position, previous)
            if why is not None:
                return Verdict(position - 1, previous, f"Record {position} {why}.", bool(torn))
            previous = record["hash"]
            known.add(previous)
        count = len(whole)
        broken = None
        if count < number or (count == number and previous != head) or head not in known:
            broken = f"Record {count + 1} is missing: the log once had {number}."
        elif noted is not None and noted not in known:
            broken = f"No record has the hash {noted}: the log was replaced, or cut before it."
        return Verdict(count, previous, broken, bool(torn))

    def _goes_on(self, last: Record, number: int, head: str) -> bool:
        """Whether the log ends at its head, or one record after it, as a crash leaves it."""
        if last["number"] == number:
            return last["hash"] == head
        return last["number"] == number + 1 and last["previous"] == head

    def _add(self, last: Record, event: str, fields: dict[str, Any]) -> Record:
        record = {
            "number": last["number"] + 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "by": getpass.getuser(),
            "event": event,
            **fields,
            "previous": last["hash"],
        }
        record["hash"] = _hash(record)
        _write(self.path, _line(record) + b"\n")
        head = {"number": record["number"], "hash": record["hash"]}
        write_private(self._head, json.dumps(head).encode())
        return record

    def _lines(self) -> tuple[list[bytes], bytes]:
        """The whole lines, and what follows the last line's end."""
        try:
            *whole, torn = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return [], b""
        return whole, torn

    def _read_head(self) -> tuple[int, str]:
        try:
            head = json.loads(self._head.read_text())
            return int(head["number"]), str(head["hash"])
        except FileNotFoundError:
            return 0, START
        except (ValueError, KeyError, TypeError) as error:
            raise FederationError(
                f"{self._head} is damaged ({error}): keep it and {self.path} for an inquiry, and "
                "move both away to begin a new log."
            ) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out; the kernel frees the lock when its holder dies."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _fault(record: Record | None, position: int, previous: str) -> str | None:
    """What is wrong with the record at this place; None if nothing is."""
    if record is None:
        return "was changed: it is no record with its own hash"
    if record["number"] != position:
        return f"is missing or out of its place: number {record['number']} stands there"
    if record["previous"] != previous:
        return "does not follow the one before it"
    if record["event"] == BROKEN:
        return f"tells that the log was cut before it: {record.get('why')}"
    return None


def _record_of(line: bytes) -> Record | None:
    """The record in a line; None unless it is byte for byte what was written."""
    try:
        record = json.loads(line)
        body = {name: value for name, value in record.items() if name != "hash"}
        if record["hash"] == _hash(body) and _line(record) == line:
            return record if {"number", "previous", "event"} <= record.keys() else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return None


def _hash(record: Record) -> str:
    return hashlib.sha256(_line(record)).hexdigest()


def _line(record: Record) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _write(path: Path, content: bytes) -> None:
    """Add to the end of a file that only its owner may read, and to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
