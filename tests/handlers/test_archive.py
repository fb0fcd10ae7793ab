from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from handlers.archive import build_archive
from handlers.errors import ArchiveError

DIGEST = "sha256:" + "b" * 64


def test_the_archive_serves_without_the_project(artifact: Path, tmp_path: Path) -> None:
    archive = build_archive(artifact, DIGEST, tmp_path / "archives" / "recommend.mar")
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path / "unpacked")
    # As a worker does: the handler's file on top, its folder first on the path, nothing of ours.
    code = """
import os
from ts.context import RequestProcessor
from ts.model_loader import TsModelLoader
service = TsModelLoader().load("recommend", os.getcwd(), "service.py", None, 1)
import handlers, recsys
assert handlers.__file__.startswith(os.getcwd()) and recsys.__file__.startswith(os.getcwd())
service.context.request_processor = [RequestProcessor({})]
(answer,) = service._entry_point([{"body": b'{"history": ["item-1"], "k": 3}'}], service.context)
print(answer.decode())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "unpacked",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "unpacked")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert len(answer["items"]) == 3
    assert answer["model"] == DIGEST


def test_the_manifest_names_handler_and_version(artifact: Path, tmp_path: Path) -> None:
    archive = build_archive(artifact, DIGEST, tmp_path / "recommend.mar")
    with zipfile.ZipFile(archive) as content:
        model = json.loads(content.read("MAR-INF/MANIFEST.json"))["model"]
        names = content.namelist()
    assert model["modelName"] == "recommend"
    assert model["modelVersion"] == "b" * 64
    assert model["handler"] == "service.py"
    assert not [name for name in names if name.endswith((".pyc", ".pt", ".pth", ".pkl"))]
    own = {"service.py", "openapi.json", "model-config.yaml", "artifact/weights.safetensors"}
    assert own <= set(names)


def test_nothing_but_the_archive_is_left(artifact: Path, tmp_path: Path) -> None:
    build_archive(artifact, DIGEST, tmp_path / "recommend.mar")
    build_archive(artifact, DIGEST, tmp_path / "recommend.mar")
    assert [path.name for path in tmp_path.iterdir()] == ["recommend.mar"]


def test_on_a_full_disk_the_archive_of_before_stays(artifact: Path, tmp_path: Path) -> None:
    archive = build_archive(artifact, DIGEST, tmp_path / "recommend.mar")
    before = archive.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses longer files than this, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    try:
        with pytest.raises(ArchiveError, match="recommend.mar cannot be written: .*too large"):
            build_archive(artifact, "sha256:" + "c" * 64, archive)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert archive.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["recommend.mar"]


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="holds no model: recipe.json is missing"):
        build_archive(tmp_path, DIGEST, tmp_path / "recommend.mar")


@pytest.mark.parametrize("digest", ["production", "sha256:abc", "../../x"])
def test_only_a_whole_digest_is_a_version(artifact: Path, tmp_path: Path, digest: str) -> None:
    with pytest.raises(ArchiveError, match="is no digest"):
        build_archive(artifact, digest, tmp_path / "recommend.mar")
