"""Residency labels: what is marked private never goes where it would leave the site.

A label is an empty object beside what it labels, the same in a folder, on S3 and on GCS:
``FOLDER/.residency`` labels all that lies in FOLDER, ``NAME.residency`` labels the object NAME.
Whatever sends bytes elsewhere asks here first.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from model_store.errors import StoreError
from model_store.objects import Objects

MARK = ".residency"


class ResidencyError(StoreError):
    """Something private would have left its site; nothing of it was sent."""


def is_private(path: Path) -> bool:
    """Whether a file or folder of this machine is labelled, itself or by a folder around it."""
    path = path.expanduser().resolve()
    return path.with_name(path.name + MARK).exists() or any(
        (folder / MARK).exists() for folder in (path, *path.parents)
    )


def is_marked(objects: Objects, key: str = "") -> bool:
    """Whether the objects under an address, or one of them, are labelled."""
    inner = [MARK] if not key else [f"{key}{MARK}", *_marks_around(key)]
    return any(objects.entry(name) for name in inner) or any(
        outer.entry(MARK) for outer in objects.above()
    )


def private_keys(keys: Collection[str]) -> set[str]:
    """Those of an address's keys that are labelled by others of them; the labels too."""
    marks = {key for key in keys if key.endswith(MARK)}
    return marks | {
        key for key in keys if f"{key}{MARK}" in marks or not marks.isdisjoint(_marks_around(key))
    }


def require_may_go(private: bool, what: str, target: Objects) -> None:
    """Refuse to write something private where it is no longer at the site.

    Raises
    ------
    ResidencyError
        It is private and the target is elsewhere.
    """
    if private and not target.on_site:
        refuse(what, target.address)


def refuse(what: str, where: str) -> None:
    """Raise the error for something private."""
    raise ResidencyError(
        f"{what} is labelled private and must not leave the site for {where}: keep it at the "
        f"site, or, if it may go, remove the label ({MARK})."
    )


def carry(source: str, folder: Path) -> None:
    """Label a folder that is about to hold what comes from `source`, if that is labelled."""
    if "://" not in source and is_private(Path(source)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).touch()


def carry_to_file(source: str, file: Path) -> None:
    """The same of a single file."""
    if "://" not in source and is_private(Path(source)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_name(file.name + MARK).touch()


def mark(objects: Objects, key: str) -> None:
    """Label one object; the label comes before the object, so that a crash leaves none bare."""
    objects.swap(f"{key}{MARK}", b"", None)


def _marks_around(key: str) -> list[str]:
    folders = key.split("/")[:-1]
    return [MARK, *("/".join([*folders[: n + 1], MARK]) for n in range(len(folders)))]
