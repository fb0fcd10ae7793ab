"""The layers of an environment and the order in which they are made."""

from __future__ import annotations

# A wave starts when the wave before it is done; layers of one wave go side by side.
WAVES = (("private", "cloud"), ("link",), ("platform",))
LAYERS = tuple(layer for wave in WAVES for layer in wave)
