from __future__ import annotations

from pathlib import Path

import pytest

from recsys.data.interactions import Interactions, load_interactions
from recsys.data.synthetic import write_shop


@pytest.fixture(scope="session")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder, users=300, items=60, seed=1)
    return folder


@pytest.fixture(scope="session")
def shop(shop_folder: Path) -> Interactions:
    return load_interactions(shop_folder)
