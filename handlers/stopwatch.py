"""Where the time of a batch goes, for the header Server-Timing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up milliseconds under names, in the order in which they were first measured."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = 1000 * (time.perf_counter() - start)
            self.milliseconds[name] = self.milliseconds.get(name, 0.0) + spent

    @property
    def seconds(self) -> float:
        """Since the watch was made."""
        return time.perf_counter() - self._start

    @property
    def header(self) -> str:
        """As the W3C's Server Timing has it: ``parse;dur=0.04, model;dur=0.31``."""
        return ", ".join(f"{name};dur={spent:.3f}" for name, spent in self.milliseconds.items())
