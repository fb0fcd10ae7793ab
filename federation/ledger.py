"""The ledger of a run: every update that went into the model, by round.

With it the server can reckon any round again, with all its sites or without some: that is what
:mod:`federation.contribution` and :mod:`federation.unlearning` do. One file a round, in the run's
folder under ``updates/``; as large as what the sites sent, once decoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from federation.errors import FederationError
from federation.files import room_for, write_private
from federation.updates import Delta, Rows, Update

FIGURES = ("examples", "loss", "seconds", "staleness")
PARTS = ("delta", "extra")


def save_updates(run: Path, number: int, updates: Sequence[Update]) -> None:
    """Write the updates of a round; again with the same ones, the same bytes.

    Raises
    ------
    FederationError
        If the disk is full.
    """
    write_updates(_file(run, number), updates)


def load_updates(run: Path, number: int) -> list[Update]:
    """Read the updates of a round.

    Raises
    ------
    FederationError
        If the round is not in the ledger, or its file is damaged.
    """
    path = _file(run, number)
    if not path.exists():
        raise FederationError(
            f"{run} keeps no updates of round {number}: run it with --keep-updates."
        )
    return read_updates(path)[0]


def write_updates(
    path: Path, updates: Sequence[Update], about: Mapping[str, str] | None = None
) -> None:
    """Write updates, and texts about them, into a file.

    Raises
    ------
    FederationError
        If the disk is full.
    """
    from safetensors.numpy import save

    ordered = sorted(updates, key=lambda update: (update.site, update.staleness))
    arrays = {}
    for place, update in enumerate(ordered):
        for part in PARTS:
            for name, change in getattr(update, part).items():
                key = f"{place}/{part}/{name}"
                if isinstance(change, Rows):
                    arrays |= {f"{key}/index": change.index, f"{key}/values": change.values}
                else:
                    arrays[f"{key}/dense"] = change
    sites = [
        {"site": update.site} | {figure: getattr(update, figure) for figure in FIGURES}
        for update in ordered
    ]
    texts = dict(about or {}) | {"updates": json.dumps(sites)}
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, save(arrays, metadata=texts))


def read_updates(path: Path) -> tuple[list[Update], dict[str, str]]:
    """The updates in a file, and the texts about them.

    Raises
    ------
    FederationError
        If it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            about = dict(stored.metadata())
            figures = json.loads(about["updates"])
            arrays = {key: stored.get_tensor(key) for key in stored.keys()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FederationError(f"{path} is damaged: {error}.") from error
    parts: list[dict[str, Delta]] = [{part: {} for part in PARTS} for _ in figures]
    for key, array in arrays.items():
        place, part, name, form = key.split("/")
        if form == "dense":
            parts[int(place)][part][name] = array
        elif form == "index":
            values = arrays[f"{place}/{part}/{name}/values"]
            parts[int(place)][part][name] = Rows(array, values)
    return [Update(**known, **of) for known, of in zip(figures, parts, strict=True)], about


def rounds_kept(run: Path) -> Iterator[tuple[int, list[Update]]]:
    """The rounds of a ledger from the first on, until one is missing."""
    number = 1
    while _file(run, number).exists():
        yield number, load_updates(run, number)
        number += 1


def _file(run: Path, number: int) -> Path:
    return run / "updates" / f"{number:06d}.safetensors"
