"""Whether what a store holds is whole: signatures, manifests, every byte of every file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from model_store.blobs import get_blob
from model_store.errors import StoreError
from model_store.signing import require_signed
from model_store.store import Store

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Checked:
    """What was found of one model: who signed it, or what is wrong with it."""

    model: str
    signed_by: str | None
    problem: str | None


def check(
    store: Store,
    models: Iterable[str],
    progress: Progress = lambda done, total, text: None,
    *,
    signed: bool = True,
) -> list[Checked]:
    """Fetch and hash every file of some models, each content once, and keep nothing.

    Parameters
    ----------
    signed
        Whether a trusted key must have signed them.
    """
    models = list(models)
    good: set[str] = set()
    checked = []
    for number, model in enumerate(models):
        progress(number, len(models), model.removeprefix("sha256:")[:12])
        signer = problem = None
        try:
            if signed:
                signer = require_signed(store.objects, model, store.keys)
            for file in store.manifest(model).files:
                if file.sha256 not in good:
                    with tempfile.TemporaryDirectory(prefix="hybrid-check-") as scratch:
                        get_blob(store.objects, model, file, Path(scratch) / "file")
                    good.add(file.sha256)
        except StoreError as error:
            problem = str(error)
        checked.append(Checked(model, signer, problem))
    progress(len(models), len(models), "done")
    return checked
