"""From a model artefact to a .mar: one file with all that TorchServe needs to serve it."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from handlers.errors import ArchiveError
from handlers.kinds import kind_in
from handlers.openapi import openapi_document

HANDLER = "service.py"
PACKAGES = ("handlers", "recsys")
# TorchServe gathers a batch by letting its first request wait for others, a millisecond at least
# (it takes a delay of 0 for the default of 100). A worker that takes the next request instead has
# answered it by then, and is ahead at every load. Making the index of a million items takes a
# minute of both cores, and longer on a busy machine.
CONFIGURATION = """\
minWorkers: 1
maxWorkers: 1
batchSize: 1
responseTimeout: 30
startupTimeout: 600
"""


def version_of(digest: str) -> str:
    """TorchServe's version of a model: the whole hash, so that it names one model exactly."""
    version = digest.removeprefix("sha256:")
    if not re.fullmatch("[0-9a-f]{64}", version):
        raise ArchiveError(f"{digest!r} is no digest of a model: resolve it in the store first.")
    return version


def build_archive(artifact_folder: Path, digest: str, target: Path) -> Path:
    """Write the archive of a model of any kind.

    Its name in TorchServe is that of its kind, whose endpoint it answers. Beside the artefact it
    carries the source of `recsys` and `handlers`, so that the model is served by the code it was
    deployed with, whatever is installed later.

    Parameters
    ----------
    artifact_folder
        The model's files, as `model_store` gave them.
    digest
        The model's digest in the store; it becomes the version.
    target
        The .mar file to write; it appears whole or not at all.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    ArchiveError
        The folder holds no artefact, or the archive cannot be written.
    """
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging_utils import ModelExportUtils

    name = kind_in(artifact_folder).name
    configuration = ModelArchiverConfig(
        model_name=name,
        version=version_of(digest),
        handler=HANDLER,
        config_file="model-config.yaml",
        runtime="python",
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".archive-") as folder:
            content = Path(folder) / "content"
            _lay_out(artifact_folder, content)
            # The archiver's own gathering of files goes through one fixed folder of the machine,
            # where two users or two builds meet.
            ModelExportUtils.archive(
                folder,
                name,
                str(content),
                ModelExportUtils.generate_manifest_json(configuration),
                "zip-store",
            )
            archive = Path(folder) / f"{name}.mar"
            with archive.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(archive, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ArchiveError(
                f"The disk of {target.parent} is full: make room there, then try again."
            ) from None
        raise ArchiveError(f"The archive {target} cannot be written: {error}.") from None
    return target


def _lay_out(artifact_folder: Path, content: Path) -> None:
    """Gather the archive's files: TorchServe looks for the handler beside the packages."""
    shutil.copytree(artifact_folder, content / "artifact")
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        source = Path(next(iter(spec.submodule_search_locations)))
        for path in source.rglob("*.py"):
            copy = content / package / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    shutil.copyfile(content / "handlers" / HANDLER, content / HANDLER)
    document = json.dumps(openapi_document(), indent=2)
    (content / "openapi.json").write_text(document + "\n", encoding="utf-8")
    (content / "model-config.yaml").write_text(CONFIGURATION)
