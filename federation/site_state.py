"""What a site keeps between the rounds of a run, so that it may be stopped at any moment.

Training is not repeated for a message that comes twice: the site answers with the bytes that it
sent before. And what it carries from round to round (what compression left out, control variates,
layers of its own) is that after the last round before the message's, however often the message
comes. A round's reply and what the site kept are one file, so there is never one without the other.

Layout under the given folder::

    <run>/lock                    held while a message is worked on
    <run>/<number>.safetensors    reply of a round and what was kept after it
    site.key, privacy.jsonl       of all runs, see federation.privacy.rounds
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from federation.arrays import flatten, unflatten
from federation.errors import FederationError
from federation.files import write_private
from federation.protocol import Reply
from federation.updates import Delta

# Of older runs only the last few are kept, for those that are taken up again.
RUNS = 5

Kept = dict[str, Delta]
"""Arrays that a site carries from round to round, by purpose and name."""


class SiteState:
    """State of one run at a site.

    Parameters
    ----------
    folder : Path
        Where the site keeps its runs.
    run : str
        The run's identity.
    """

    def __init__(self, folder: Path, run: str) -> None:
        if not run.isalnum():
            raise FederationError(f"{run!r} is no identity of a run: letters and digits only.")
        self._runs = folder
        self._folder = folder / run

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process of this site works on the run.

        After a crash of the SuperNode, the process of a message may outlive it for a while.
        """
        if not self._folder.exists():
            self._folder.mkdir(mode=0o700, parents=True)
            self._forget_old_runs()
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def answer(self, number: int, request: str) -> Reply | None:
        """The reply that was given to this request before, if it was.

        Parameters
        ----------
        number : int
            The round.
        request : str
            :meth:`federation.protocol.Task.digest` of the message.
        """
        path = self._path(number)
        if not path.exists():
            return None
        about, arrays = _read(path)
        if about["request"] != request:
            return None
        prefix = "reply/"
        blobs = {
            name.removeprefix(prefix): array.tobytes()
            for name, array in arrays.items()
            if name.startswith(prefix)
        }
        return Reply(**about["reply"], blobs=blobs)

    def before(self, number: int) -> Kept:
        """What the site kept after the last round before `number`; nothing before the first."""
        earlier = [other for other in self._numbers() if other < number]
        return unflatten(_read(self._path(max(earlier)))[1]) if earlier else {}

    def save(self, request: str, reply: Reply, kept: Kept) -> None:
        """Keep a round's reply and what the site carries on from it."""
        from safetensors.numpy import save

        about = {
            "request": request,
            "reply": {
                "site": reply.site, "run": reply.run, "number": reply.number,
                "figures": reply.figures,
            },
        }  # fmt: skip
        arrays = {
            f"reply/{name}": np.frombuffer(content, np.uint8)
            for name, content in reply.blobs.items()
        } | flatten(kept)
        content = save(arrays, metadata={"about": json.dumps(about)})
        try:
            write_private(self._path(reply.number), content)
        except OSError as error:
            raise FederationError(
                f"cannot keep round {reply.number} in {self._folder} ({error.strerror}): make room."
            ) from error
        earlier = [other for other in self._numbers() if other < reply.number]
        for other in self._numbers() - {reply.number, max(earlier, default=0)}:
            self._path(other).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.safetensors"

    def _numbers(self) -> set[int]:
        return {int(path.stem) for path in self._folder.glob("[0-9]*.safetensors")}

    def _forget_old_runs(self) -> None:
        runs = [path for path in self._runs.iterdir() if path.is_dir()]
        runs = sorted(runs, key=lambda run: run.stat().st_mtime, reverse=True)
        for run in runs[RUNS:]:
            shutil.rmtree(run, ignore_errors=True)


def _read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return json.loads(stored.metadata()["about"]), arrays
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FederationError(f"{path} is damaged: delete {path.parent}.") from error
