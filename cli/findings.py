"""What `hybrid doctor` says of one thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `mend` is the command to run where it is not well."""

    subject: str
    ok: bool
    detail: str
    mend: str = ""
