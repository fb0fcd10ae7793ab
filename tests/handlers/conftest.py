from __future__ import annotations

from pathlib import Path

import pytest

from tests.handlers.small_models import small_models, small_recommender


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_recommender(tmp_path_factory.mktemp("artifact"))


@pytest.fixture(scope="session")
def artifacts(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of every kind, by name."""
    return {"recommend": artifact} | small_models(tmp_path_factory.mktemp("artifacts"))
