"""A stored model as an edge bundle, which is tried on this machine before anybody gets it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from cli.errors import CommandError, ServingError

if TYPE_CHECKING:
    from cli.application import Progress
    from cli.environment import Environment
    from handlers.tower import Policy

# Of the epsilon that is told.
DELTA = 1e-6
# What the place where a bundle is used need not have; it is hidden from the bundle that is tried.
HIDDEN = ("torch", "polars", "faiss", "safetensors", "onnx")
START = (
    "import runpy, sys; hidden = sys.argv.pop(1).split(); del sys.argv[0]; "
    "sys.modules.update(dict.fromkeys(hidden)); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
# Of the largest score: float32 kernels differ in the order of their sums.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class EdgeBundle:
    """A bundle, `file` of `bytes` bytes, that answered so many `requests` as its model does.

    Of a user it sends up to `vectors` vectors, which give no more away than `epsilon` (local
    differential privacy at `DELTA`); None where there is no limit, or no noise.
    """

    model: str
    file: str
    bytes: int
    sha256: str
    requests: int
    vectors: int | None
    epsilon: float | None


def bundle(
    environment: Environment, reference: str, target: Path, progress: Progress
) -> EdgeBundle:
    """Write a stored model's bundle; it appears once it has answered as the model.

    Raises
    ------
    ServingError
        It does not start, or answers otherwise than the model.
    StoreError, ArchiveError, RecsysError, CommandError
        The model is unknown, corrupt, unsigned or no recommender, or the file cannot be written.
    """
    from cli.learning import environment_store
    from cli.posting import trusted_keys
    from handlers.bundle import build_bundle
    from handlers.tower import Policy

    store = environment_store(environment)
    digest = store.resolve(reference)
    target = target.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside it, so that what was tried can be renamed to it.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".edge-") as scratch:
            progress(0, 3, "fetching the model")
            artifact = store.get(digest, Path(scratch) / "artifact")
            progress(1, 3, "writing its bundle")
            made = Path(scratch) / target.name
            sign = environment.signing_keys().sign_document
            policy = Policy(**environment.settings.tower.model_dump())
            keys = None if environment.settings.events.anybody else trusted_keys(environment)
            build_bundle(artifact, digest, made, sign, policy, keys)
            progress(2, 3, "asking the bundle and the model the same")
            asked = check(made, artifact)
            with made.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.replace(made, target)
    except OSError as error:
        raise CommandError(f"{target} cannot be written ({error.strerror}).") from None
    progress(3, 3, "done")
    size = target.stat().st_size
    most = policy.most_vectors if policy.shares == "vector" else None
    return EdgeBundle(digest, str(target), size, sha256, asked, most, _given_away(policy))


def _given_away(policy: Policy) -> float | None:
    """What the noisy vectors of a user can give away in all; None where nothing bounds it.

    Any two vectors are at most twice `clip` apart, and each has noise of its own: so many Gaussian
    mechanisms, one after another.
    """
    if policy.shares == "nothing" or policy.most_vectors is None or not policy.noise:
        return None
    from federation.privacy.accounting import Release, epsilon

    return epsilon([Release(1.0, policy.noise / 2, policy.most_vectors)], DELTA)


def check(archive: Path, artifact: Path) -> int:
    """Ask a bundle in a process of its own and the model here the same; the number of requests.

    Raises
    ------
    ServingError
        The bundle does not start, or an answer is not the model's.
    """
    from handlers.kinds import RECOMMEND
    from handlers.parsing import parse
    from handlers.recommender import Recommender
    from handlers.replies import answers_of
    from handlers.stopwatch import Stopwatch
    from recsys.accelerate.runtime import open_runtime
    from recsys.attributes import columns_of

    runtime, items = open_runtime(artifact, exact=True)
    model = Recommender(runtime, items, columns_of(artifact, items))
    questions = _questions(items, model.filters is not None)
    with (
        running(archive, "--share-nothing") as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        for question in questions:
            body = json.dumps(question).encode()
            (wanted,) = answers_of(model, [parse(RECOMMEND.request, body)], Stopwatch())
            answer = client.post(f"/predictions/{RECOMMEND.name}", content=body)
            problem = _difference(answer, wanted)
            if problem:
                raise ServingError(
                    f"The bundle does not answer as its model: {problem} to {json.dumps(question)};"
                    " nothing was written."
                )
    return len(questions)


@contextmanager
def running(archive: Path, *options: str) -> Iterator[str]:
    """Run a bundle on a free port, where much of what this machine has is hidden; its address."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", START, " ".join(HIDDEN),
             str(archive), "--port", "0", *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        try:
            first = process.stdout.readline()
            if not first:
                process.wait()
                log.seek(0)
                last = log.read().decode(errors="replace").strip().splitlines()[-1:]
                raise ServingError(f"The bundle does not start: {''.join(last) or 'no word why'}")
            yield first.split()[-1]
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def _questions(items: list[str], filtered: bool) -> list[dict[str, Any]]:
    """Known users and a new one, with and without what they have had, and items like one."""
    k = min(10, len(items))
    asked: list[dict[str, Any]] = [
        {"history": items[:3], "k": k},
        {"history": items[::-1][:100], "k": k},
        {"history": items[1:2], "k": k, "exclude_seen": False},
        {"history": [], "k": k},
        {"item": items[-1], "k": k},
    ]
    if filtered:
        asked.append({"history": items[:3], "k": k, "where": {"min_price": 0}})
    return asked


def _difference(answer: httpx.Response, wanted: dict[str, Any] | Exception) -> str | None:
    """How an answer is not the one wanted; None where it is."""
    if isinstance(wanted, Exception):
        same = answer.is_client_error and answer.json() == {"error": str(wanted)}
        return None if same else f"{answer.text[:200]} instead of: {wanted}"
    if answer.status_code != 200:
        return answer.text[:200]
    got, rows = answer.json()["items"], wanted["items"]
    if len(got) != len(rows):
        return f"{len(got)} items instead of {len(rows)}"
    tolerance = TOLERANCE * max([1.0, *(abs(row["score"]) for row in rows)])
    for mine, theirs in zip(got, rows, strict=True):
        if not math.isclose(mine["score"], theirs["score"], rel_tol=0, abs_tol=tolerance):
            return f"a score of {mine['score']} instead of {theirs['score']}"
        # Items whose scores are nearly the same may have changed places.
        alike = {row["item"] for row in rows if abs(row["score"] - mine["score"]) <= tolerance}
        if mine["item"] not in alike and theirs is not rows[-1]:
            return f"item {mine['item']} instead of {theirs['item']}"
    return None
