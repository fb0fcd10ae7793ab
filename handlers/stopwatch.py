"""Where the time of a batch goes, for the header Server-Timing."""

from __future__ import annotations

import time
from typing import Self


class Stopwatch:
    """Adds up milliseconds under names, in the order in which they were first measured.

    ``with watch("parse"):`` measures a block; no other is measured within it.
    """

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._start = self._begun = time.perf_counter()
        self._name = ""

    def __call__(self, name: str) -> Self:
        """What measures a block under that name."""
        self._name = name
        return self

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        spent = 1000 * (time.perf_counter() - self._begun)
        self.milliseconds[self._name] = self.milliseconds.get(self._name, 0.0) + spent

    @property
    def seconds(self) -> float:
        """Since the watch was made."""
        return time.perf_counter() - self._start

    @property
    def header(self) -> str:
        """As the W3C's Server Timing has it: ``parse;dur=0.04, model;dur=0.31``."""
        return ", ".join(f"{name};dur={spent:.3f}" for name, spent in self.milliseconds.items())
