"""When each step of the pipeline began and how it ended, on disk, for `hybrid metrics`."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Concatenate, ParamSpec, TypeVar

from cli.environment import Environment
from cli.errors import CommandError
from cli.files import write_text

P, R = ParamSpec("P"), TypeVar("R")
Step = Callable[Concatenate[Environment, P], R]


def recorded(name: str) -> Callable[[Step[P, R]], Step[P, R]]:
    """Decorate the function that does a step on an environment, its first argument.

    What was interrupted has begun, and neither succeeded nor failed.
    """

    def decorate(work: Step[P, R]) -> Step[P, R]:
        @functools.wraps(work)
        def done(environment: Environment, *args: P.args, **options: P.kwargs) -> R:
            began = time.time()
            _note(environment, name, began=began)
            try:
                result = work(environment, *args, **options)
            except Exception:
                # Of two things that went wrong the first is the one to tell of.
                with suppress(CommandError):
                    _note(environment, name, failed=time.time())
                raise
            now = time.time()
            _note(environment, name, succeeded=now, seconds=now - began)
            return result

        return done

    return decorate


def steps(environment: Environment) -> dict[str, dict[str, float]]:
    """Of each step that was ever done, by name: when it `began`, `succeeded` and `failed` last.

    In seconds since 1970, and in `seconds` how long it took when it last succeeded.
    """
    files = sorted((environment.folder / "steps").glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


def _note(environment: Environment, name: str, **changes: float) -> None:
    file = environment.folder / "steps" / f"{name}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    write_text(file, json.dumps(known | changes) + "\n")
