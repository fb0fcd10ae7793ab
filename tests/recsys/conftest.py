from __future__ import annotations

import hashlib
import multiprocessing
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

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


class Gang:
    """Runs a function of members.py in processes of its own, joined by gloo if there are several."""

    def __init__(self, folder: Path) -> None:
        # Forked from a clean process that has loaded what takes seconds to load.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            ["torch._dynamo", "torch.distributed.tensor", "torch.utils.tensorboard", "polars"]
        )
        self.folder = folder
        self.meetings = 0

    def run(self, count: int, work: str, *arguments: object, **options: object) -> list[int]:
        """The exit codes of the processes; a signal's is negative."""
        self.meetings += 1
        given = {"work": work, "arguments": arguments, "options": options, "count": count}
        given["meeting"] = self.folder / f"meeting{self.meetings}"
        script = str(Path(__file__).with_name("members.py"))
        processes = [
            self.context.Process(
                target=runpy.run_path, args=(script, given | {"rank": rank}, "member")
            )
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [process.exitcode for process in processes]


@pytest.fixture
def gang(tmp_path: Path) -> Gang:
    return Gang(tmp_path)


def digests(artifact: Path) -> dict[str, str]:
    """Hash of each file of an artefact."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in artifact.iterdir()}


@pytest.fixture(name="digests")
def digests_fixture() -> Callable[[Path], dict[str, str]]:
    return digests


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
