"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# A busy machine must not fail a test: speed is for benchmarks/.
settings.register_profile("hybrid", deadline=None)
settings.load_profile("hybrid")
