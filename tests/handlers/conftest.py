from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.handlers.small_models import small_models, small_recommender


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A handler has records written to its worker's output, where pytest does not see them."""
    loggers = [logging.getLogger(name) for name in ("handlers", "recsys")]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_recommender(tmp_path_factory.mktemp("artifact"))


@pytest.fixture(scope="session")
def artifacts(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of every kind, by name."""
    return {"recommend": artifact} | small_models(tmp_path_factory.mktemp("artifacts"))
