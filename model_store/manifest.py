"""What a model consists of: the document whose hash is the model's digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from model_store.errors import StoreError

FORMAT = 1
SHA256 = re.compile(r"[0-9a-f]{64}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """One file of a model: its relative POSIX name, its size in bytes and its SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files of a model, sorted by name, and where it comes from.

    It holds no time and no place, so the same content with the same lineage has the same digest
    wherever and whenever it is stored.
    """

    files: tuple[FileEntry, ...]
    lineage: dict[str, Any]

    @classmethod
    def of_folder(cls, folder: Path, lineage: dict[str, Any]) -> Manifest:
        """Describe the files under `folder`.

        Raises
        ------
        StoreError
            There is no file, one is a symbolic link or special, or the lineage is not plain JSON.
        """
        if not folder.is_dir():
            raise StoreError(f"There is no model folder {folder}: give the folder of an artefact.")
        files = []
        for path in sorted(folder.rglob("*")):
            # A link could carry a file from elsewhere on the machine into a shared store.
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise StoreError(f"{path} is not a regular file: a model holds only such files.")
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                files.append(FileEntry(name, path.stat().st_size, sha256_of(path)))
        if not files:
            raise StoreError(f"The model folder {folder} is empty: train or export a model first.")
        manifest = cls(tuple(sorted(files, key=lambda file: file.name)), lineage)
        return cls.from_bytes(manifest.to_bytes(), manifest.digest)

    @classmethod
    def from_bytes(cls, data: bytes, digest: str) -> Manifest:
        """Read a manifest and distrust it.

        Raises
        ------
        StoreError
            The bytes do not hash to `digest`, are no manifest, or name a file outside the model.
        """
        got = digest_of(data)
        if got != digest:
            raise StoreError(
                f"The manifest of model {digest} is corrupt: expected {digest}, got {got}; "
                "store the model again."
            )
        try:
            document = json.loads(data)
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}, not {FORMAT}")
            files = tuple(FileEntry(**entry) for entry in document["files"])
            lineage = document["lineage"]
            if not isinstance(lineage, dict):
                raise ValueError("its lineage is no mapping")
            _require_safe(files)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"The manifest of model {digest} is refused: {error}.") from None
        return cls(files, lineage)

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no blanks, UTF-8, no NaN."""
        document = {
            "format": FORMAT,
            "files": [asdict(file) for file in self.files],
            "lineage": self.lineage,
        }
        try:
            text = json.dumps(
                document,
                sort_keys=True,
                separators=(",", ":"),
                ensure_ascii=False,
                allow_nan=False,
            )
            return text.encode()
        except (TypeError, ValueError) as error:
            raise StoreError(f"The lineage or a file name cannot be stored: {error}.") from None

    @property
    def digest(self) -> str:
        """`sha256:` and the hash of the canonical manifest."""
        return digest_of(self.to_bytes())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def parents_of(lineage: Mapping[str, Any]) -> tuple[str, ...]:
    """Digests of the models that a model was made from."""
    parent = lineage.get("parent")
    return (parent,) if isinstance(parent, str) and DIGEST.fullmatch(parent) else ()


def digest_of(data: bytes) -> str:
    """`sha256:` and the hash of `data` in hex."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_safe(files: tuple[FileEntry, ...]) -> None:
    """Refuse entries that would write outside the target or over one another."""
    taken: set[str] = set()
    for file in files:
        path = PurePosixPath(file.name)
        unsafe = (
            not path.parts
            or path.is_absolute()
            or path.as_posix() != file.name
            or ".." in path.parts
            or any(character in file.name for character in "\\:\0")
        )
        if unsafe:
            raise ValueError(f"the file name {file.name!r} is not safe")
        if not SHA256.fullmatch(file.sha256) or not isinstance(file.size, int) or file.size < 0:
            raise ValueError(f"the hash or size of file {file.name!r} is not valid")
        if file.name in taken:
            raise ValueError(f"the file {file.name!r} appears twice")
        taken.add(file.name)
    for file in files:
        for parent in PurePosixPath(file.name).parents:
            if parent.as_posix() in taken:
                raise ValueError(f"{parent.as_posix()!r} is both a file and a folder")
