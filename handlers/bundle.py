"""From a model artefact to an edge bundle: one file that `python FILE` serves, without torch.

The file is a zip that Python runs: ``__main__.py`` (`handlers.edge`), those modules of `handlers`
and `recsys` that answer, the model as `recsys.portable` has it, ``policy.json`` (`handlers.tower`),
``events.json`` (`handlers.tokens`), ``openapi.json``, ``requirements.txt``, and ``manifest.json`` with
the SHA-256 of each. Equal input gives equal bytes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from handlers.archive import version_of
from handlers.edge import EVENTS, MANIFEST, MODEL, POLICY, SIGNATURE
from handlers.errors import ArchiveError
from handlers.kinds import RECOMMEND, kind_in
from handlers.openapi import openapi_document
from handlers.tower import Policy

# The modules that answer, by package; nothing that they import when they are loaded needs torch.
MODULES = {
    "handlers": ("errors", "fresh", "kinds", "ledger", "openapi", "parsing", "recommender", "replies",
                 "requests", "sessions", "stopwatch", "tokens", "tower"),
    "recsys": ("diversity", "errors", "exact", "filters", "portable", "ranking"),
    "recsys.accelerate": ("session",),
}  # fmt: skip
REQUIREMENTS = ("cryptography", "numpy", "onnxruntime", "pydantic", "PyJWT", "uvicorn")
# The earliest that a zip can tell.
TIME = (1980, 1, 1, 0, 0, 0)

Sign = Callable[[bytes], bytes]


def build_bundle(
    artifact: Path,
    digest: str,
    target: Path,
    sign: Sign | None = None,
    policy: Policy = Policy(),
    keys: Sequence[str] | None = (),
) -> Path:
    """Write the bundle of a recommender.

    Parameters
    ----------
    artifact
        The model's files, as `model_store` gave them.
    digest
        The model's digest in the store.
    target
        The file to write; it appears whole or not at all.
    sign
        Gives a signature of the bytes of the manifest.
    policy
        What the cloud is told of the users of the site at which it will serve.
    keys
        Of who signs tokens, as `handlers.tokens.tokens_of` takes them: where users' histories or
        sessions are served with it, whoever posts or asks for one needs a token. None where anybody
        may.

    Raises
    ------
    ArchiveError
        The model is no recommender, or the file cannot be written.
    RecsysError
        The artefact is not usable, or needs torch.
    """
    from recsys.accelerate.runtime import open_runtime
    from recsys.attributes import columns_of
    from recsys.portable import write_portable

    version_of(digest)
    if (kind := kind_in(artifact)) is not RECOMMEND:
        raise ArchiveError(f"Model {digest} is a {kind.name} model: only recommenders are bundled.")
    runtime, items = open_runtime(artifact, exact=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as scratch:
            content = Path(scratch) / "content"
            write_portable(content / MODEL, runtime, items, columns_of(artifact, items))
            _lay_out(content)
            (content / POLICY).write_text(json.dumps(asdict(policy)) + "\n")
            credential = "none" if keys is None else "token"
            events = {"credential": credential, "keys": list(keys or ())}
            (content / EVENTS).write_text(json.dumps(events) + "\n")
            _describe(content, digest, sign)
            packed = Path(scratch) / "bundle"
            _pack(content, packed)
            os.replace(packed, target)
    except OSError as error:
        raise ArchiveError(f"The bundle {target} cannot be written: {error}.") from None
    return target


def _lay_out(content: Path) -> None:
    """The code, its description and what must be installed for it."""
    for package, names in MODULES.items():
        folder = content.joinpath(*package.split("."))
        folder.mkdir()
        for name in ("__init__", *names):
            # A package's own file is found under the package's name.
            spec = importlib.util.find_spec(package if name == "__init__" else f"{package}.{name}")
            shutil.copyfile(spec.origin, folder / f"{name}.py")
    main = importlib.util.find_spec("handlers.edge").origin
    shutil.copyfile(main, content / "__main__.py")
    document = json.dumps(openapi_document([RECOMMEND]), indent=2)
    (content / "openapi.json").write_text(document + "\n", encoding="utf-8")
    pinned = [f"{name}=={version(name)}\n" for name in REQUIREMENTS]
    (content / "requirements.txt").write_text("".join(pinned))


def _describe(content: Path, digest: str, sign: Sign | None) -> None:
    """The manifest, and its signature."""
    files = []
    for path in sorted(content.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            name, size = path.relative_to(content).as_posix(), path.stat().st_size
            files.append({"name": name, "size": size, "sha256": sha256})
    manifest = json.dumps({"format": 1, "model": digest, "files": files}, indent=1) + "\n"
    (content / MANIFEST).write_text(manifest)
    if sign:
        (content / SIGNATURE).write_bytes(sign(manifest.encode()))


def _pack(content: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(content.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(content).as_posix(), TIME)
                entry.external_attr = 0o644 << 16
                with path.open("rb") as file, packed.open(entry, "w", force_zip64=True) as place:
                    shutil.copyfileobj(file, place, 1 << 20)
    with target.open("rb") as file:
        os.fsync(file.fileno())
