"""The gate before `candidate`: no federated model that is below the one in production."""

from __future__ import annotations

from cli import evaluation
from cli.application import Progress
from cli.environment import Environment
from cli.errors import CommandError
from cli.learning import environment_store, short_digest

LENGTH = 10


def promote(environment: Environment, digest: str, progress: Progress) -> str:
    """Let `candidate` point to a stored model, unless it is below the one in production.

    Both rank the held-out events of the same users. Nothing is compared where nothing is in
    production yet, or where that model was made for another catalogue or other data.

    Returns
    -------
    str
        A sentence with what was found.

    Raises
    ------
    CommandError
        The model is below production: `candidate` stays where it is.
    """
    from federation.gate import judge

    store = environment_store(environment)
    production = store.channels().get("production")
    if production in (None, digest):
        found = "nothing else is in production to compare it with"
    else:
        try:
            compared = evaluation.compare(environment, production, digest, LENGTH, progress)
        except evaluation.NotComparable as error:
            found = f"not compared with production: {error}"
        else:
            verdict = judge(compared.comparison)
            if not verdict.passed:
                raise CommandError(
                    f"Model {short_digest(digest)} is stored but not the candidate, as it is "
                    f"{verdict.reason}."
                )
            found = verdict.reason
    store.move_channel("candidate", digest)
    return f"{found[0].upper()}{found[1:].removesuffix('.')}."
