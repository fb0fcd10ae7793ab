"""`hybrid store sync` beside other programs that copy a folder to S3: `python -m benchmarks.sync`.

A folder of small and large objects goes to a moto server on this machine, which is empty at first
(`first`), then holds all of it (`again`), then lacks one change (`one changed`). Times are wall
time, medians of several runs, each with buckets of its own. Peers are `rclone sync` and `aws s3
sync` where they are on PATH, and boto3's own copy, which compares nothing and sends everything.
What each checks differs: ours compares and verifies by SHA-256, the others by size, time or MD5.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import boto3
from rich.console import Console
from rich.table import Table

from model_store.factory import open_objects
from model_store.sync import sync

PARALLEL = 8
Copy = Callable[[Path, str], None]  # a folder, a bucket


def ours(endpoint: str, journals: Path) -> Copy:
    def copy(folder: Path, bucket: str) -> None:
        target = open_objects(f"s3://{bucket}", endpoint=endpoint)
        sync(open_objects(str(folder)), target, journals / bucket, parallel=PARALLEL)

    return copy


def plain(endpoint: str) -> Copy:
    def copy(folder: Path, bucket: str) -> None:
        client = boto3.client("s3", endpoint_url=endpoint)
        with ThreadPoolExecutor(PARALLEL) as pool:
            files = [path for path in folder.rglob("*") if path.is_file()]
            list(pool.map(lambda path: client.upload_file(
                str(path), bucket, str(path.relative_to(folder))), files))  # fmt: skip

    return copy


def program(command: Callable[[Path, str], list[str]]) -> Copy:
    def copy(folder: Path, bucket: str) -> None:
        done = subprocess.run(command(folder, bucket), capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{command(folder, bucket)[0]} failed:\n{done.stderr}")

    return copy


def peers(endpoint: str) -> dict[str, Copy]:
    """The peers that are installed, by name."""
    found = {"boto3, everything": plain(endpoint)}
    if shutil.which("aws"):
        found["aws s3 sync"] = program(
            lambda folder, bucket: [
                "aws", "s3", "sync", "--only-show-errors", "--endpoint-url", endpoint,
                str(folder), f"s3://{bucket}",
            ]
        )  # fmt: skip
    if shutil.which("rclone"):
        settings = f":s3,provider=Other,env_auth=true,endpoint='{endpoint}':"
        found["rclone sync"] = program(
            lambda folder, bucket: [
                "rclone", "sync", "--transfers", str(PARALLEL), str(folder), settings + bucket,
            ]
        )  # fmt: skip
    return found


@contextmanager
def moto() -> Iterator[str]:
    """A moto server; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        while server.poll() is None:
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=2).close()
                break
            except OSError:
                time.sleep(0.1)
        yield endpoint
    finally:
        server.terminate()
        server.wait()


def fill(folder: Path, small: int, large: int) -> int:
    """Write objects of 64 KiB and of 32 MiB; their bytes."""
    data, total = random.Random(0), 0
    for number in range(small + large):
        content = data.randbytes(2**16 if number < small else 2**25)
        file = folder / f"part-{number % 7}" / f"{number:04}.bin"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        total += len(content)
    return total


def measure(copy: Copy, folder: Path, name: str, endpoint: str) -> list[float]:
    """Seconds of a first copy, of one with nothing to do, and of one after a change."""
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=name)
    seconds = []
    for step in ("first", "again", "changed"):
        if step == "changed":
            (folder / "part-0" / "0000.bin").write_bytes(random.randbytes(2**16))
        start = time.perf_counter()
        copy(folder, name)
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", type=int, default=300, help="objects of 64 KiB")
    parser.add_argument("--large", type=int, default=2, help="objects of 32 MiB")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.pop("AWS_CA_BUNDLE", None)  # which rclone cannot take, and nothing here needs
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                   "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    table = Table("program", "first s", "again s", "one changed s")
    with tempfile.TemporaryDirectory(prefix="hybrid-bench-") as scratch, moto() as endpoint:
        folder = Path(scratch) / "objects"
        folder.mkdir()
        total = fill(folder, arguments.small, arguments.large)
        programs = {"hybrid store sync": ours(endpoint, Path(scratch) / "journals")}
        for number, (name, copy) in enumerate((programs | peers(endpoint)).items()):
            runs = [
                measure(copy, folder, f"bench-{number}-{run}", endpoint)
                for run in range(arguments.runs)
            ]
            table.add_row(name, *(f"{statistics.median(step):.2f}" for step in zip(*runs)))
    console = Console()
    console.print(f"{arguments.small + arguments.large} objects, {total / 1e6:.0f} MB, moto")
    console.print(table)


if __name__ == "__main__":
    main()
