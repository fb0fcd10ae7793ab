"""Batches without padding: events of many sequences end to end, grouped by sequence length.

Sequences of the same length lie side by side, so attention sees each group as a dense
[sequences, length] view of the packed events, and all else runs on the events alone. Sessions
in shops are short (the median in Amazon Beauty is 4 training events): at length 50 a padded batch
is mostly padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.data.interactions import Interactions

# An epoch has so many optimizer steps or more, unless they would hold fewer events than this.
FEWEST_STEPS = 64
FEWEST_EVENTS = 128


@dataclass(frozen=True)
class Packed:
    """Sequences end to end, the shortest first.

    Attributes
    ----------
    items
        int64[events] item indices.
    positions
        int64[events] place of each event in its sequence, from 0.
    groups
        (number of sequences, their length), in packed order; the products sum to the events.
    """

    items: Tensor
    positions: Tensor
    groups: list[tuple[int, int]]

    @property
    def last(self) -> Tensor:
        """int64[sequences]: where each sequence's last event lies."""
        lengths = np.repeat(*np.array(self.groups, dtype=np.int64).T[::-1])
        return torch.from_numpy(np.cumsum(lengths) - 1)


@dataclass(frozen=True)
class Windows:
    """Stretches of one flat array of events: the units of which batches are made.

    Attributes
    ----------
    sequence
        int32[events], as in `Interactions`.
    starts, lengths
        int64[windows].
    """

    sequence: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def training_windows(interactions: Interactions, length: int, *, targets: bool) -> Windows:
    """Cut histories into windows of at most `length` events, counted from the latest one back.

    With `targets` each window's events are followed by one more in the array (the target of its
    last event), so a history of n events gives n - 1 inputs. Nothing is thrown away: a history
    longer than `length` gives several windows.
    """
    inputs = np.maximum(interactions.offsets[1:] - interactions.offsets[:-1] - int(targets), 0)
    ends = interactions.offsets[:-1] + inputs
    starts, lengths = [], []
    while (left := inputs > 0).any():
        taken = np.minimum(inputs[left], length)
        starts.append(ends[left] - taken)
        lengths.append(taken)
        ends = ends[left] - taken
        inputs = inputs[left] - taken
    empty = [np.empty(0, dtype=np.int64)]
    return Windows(
        interactions.sequence, np.concatenate(starts or empty), np.concatenate(lengths or empty)
    )


def pack(windows: Windows, chosen: np.ndarray) -> tuple[Packed, np.ndarray]:
    """Pack the chosen windows.

    Returns
    -------
    tuple
        The packed events, and int64[events] of where each lies in ``windows.sequence``.
    """
    chosen = chosen[np.argsort(windows.lengths[chosen], kind="stable")]
    lengths = windows.lengths[chosen]
    ends = np.cumsum(lengths)
    positions = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    places = np.repeat(windows.starts[chosen], lengths) + positions
    sizes, counts = np.unique(lengths, return_counts=True)
    packed = Packed(
        items=torch.from_numpy(windows.sequence[places].astype(np.int64)),
        positions=torch.from_numpy(positions),
        groups=list(zip(counts.tolist(), sizes.tolist(), strict=True)),
    )
    return packed, places


def events_a_step(windows: Windows, most: int, fewest_steps: int = FEWEST_STEPS) -> int:
    """Events in one optimizer step: `most`, or fewer where an epoch would have too few steps.

    A small shop has a few thousand events. In batches made for millions it would be done before
    the learning rate has risen.
    """
    return min(most, max(FEWEST_EVENTS, int(windows.lengths.sum()) // fewest_steps))


def batches(
    windows: Windows,
    most: int,
    generator: np.random.Generator,
    fewest_steps: int = FEWEST_STEPS,
) -> list[np.ndarray]:
    """All windows once, in random order, about `events_a_step` at a time: what to `pack`."""
    order = generator.permutation(len(windows.lengths))
    batch = np.cumsum(windows.lengths[order]) // events_a_step(windows, most, fewest_steps)
    split = np.split(order, np.flatnonzero(np.diff(batch)) + 1)
    return [chosen for chosen in split if len(chosen)]


def part_of(
    windows: Windows, chosen: np.ndarray, part: int, parts: int
) -> tuple[np.ndarray, np.ndarray]:
    """One of several parts of a batch, with about as many events and like lengths in each.

    Returns
    -------
    tuple
        The part's windows (none where there are fewer windows than parts), and int64[events] of
        where their events lie among those of the whole batch, packed.
    """
    chosen = chosen[np.argsort(windows.lengths[chosen], kind="stable")]
    mine = np.arange(len(chosen)) % parts == part
    return chosen[mine], np.flatnonzero(np.repeat(mine, windows.lengths[chosen]))
