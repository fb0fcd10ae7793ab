from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.errors import StoreError
from model_store.manifest import FileEntry, Manifest, digest_of

SHA = "0" * 64
plain_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc"), plain_json))
def test_reading_what_was_written_gives_the_same_digest(lineage: dict) -> None:
    manifest = Manifest((FileEntry("weights", 3, SHA),), lineage)
    assert Manifest.from_bytes(manifest.to_bytes(), manifest.digest) == manifest


@given(st.permutations(["data", "recipe", "rounds"]))
def test_the_digest_ignores_the_order_of_keys(keys: list[str]) -> None:
    lineage = {key: len(key) for key in keys}
    assert Manifest((), lineage).digest == Manifest((), dict(sorted(lineage.items()))).digest


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "./a", "a\\b", "C:x", "a\0b", "a/"],
)
def test_names_that_leave_the_model_are_refused(name: str) -> None:
    with pytest.raises(StoreError, match="is not safe"):
        read([{"name": name, "size": 1, "sha256": SHA}])


def test_names_that_collide_are_refused() -> None:
    with pytest.raises(StoreError, match="'a' appears twice"):
        read([{"name": "a", "size": 1, "sha256": SHA}] * 2)
    with pytest.raises(StoreError, match="'a' is both a file and a folder"):
        read([{"name": name, "size": 1, "sha256": SHA} for name in ("a", "a/b")])


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {"name": "a"},
        {"name": "a", "size": -1, "sha256": SHA},
        {"name": "a", "size": 1, "sha256": "../../channels/production"},
    ],
)
def test_entries_without_sense_are_refused(entry: object) -> None:
    with pytest.raises(StoreError, match="is refused"):
        read([entry])


def test_another_format_is_refused() -> None:
    data = b'{"files":[],"format":2,"lineage":{}}'
    with pytest.raises(StoreError, match="its format is 2, not 1"):
        Manifest.from_bytes(data, digest_of(data))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no model folder"):
        Manifest.of_folder(tmp_path / "absent", {})
    with pytest.raises(StoreError, match="is empty"):
        Manifest.of_folder(tmp_path, {})
    (tmp_path / "weights").symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="weights is not a regular file"):
        Manifest.of_folder(tmp_path, {})


@pytest.mark.parametrize("value", [float("nan"), object(), b"bytes", "\ud800"])
def test_lineage_must_be_plain_json(tmp_path: Path, value: object) -> None:
    (tmp_path / "weights").write_bytes(b"w")
    with pytest.raises(StoreError, match="cannot be stored"):
        Manifest.of_folder(tmp_path, {"loss": value})


def read(files: list) -> Manifest:
    data = json.dumps({"files": files, "format": 1, "lineage": {}}).encode()
    return Manifest.from_bytes(data, digest_of(data))
