"""Run everything that a site needs, in the foreground: gateway, SuperNode and client executor.

    python -m federation.site FOLDER --data DATA

FOLDER is what `hybrid site add` packed. If one of the three ends, the others are ended and so does
this: a service manager starts all of them again. A site that was removed ends so each time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from federation import deployment
from federation.errors import FederationError

SETTINGS = "site.json"
STOP_SECONDS = 20.0


def main() -> None:
    """Serve the site whose folder is named on the command line until SIGTERM."""
    parser = argparse.ArgumentParser(prog="site", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True, type=Path, help="the site's interactions")
    arguments = parser.parse_args()
    try:
        sys.exit(asyncio.run(_run(site_commands(arguments.folder, arguments.data))))
    except FederationError as error:
        sys.exit(f"Error: {error}")


def site_commands(folder: Path, data: Path) -> list[deployment.Command]:
    """Commands of a site's gateway, SuperNode and client executor.

    Raises
    ------
    FederationError
        If the folder is not one of a site, or there are no data.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text())
        site, proxy = settings["site"], settings["proxy"]
        gateway_port, runtime_port = settings["gateway_port"], settings["runtime_port"]
    except (OSError, ValueError, KeyError) as error:
        raise FederationError(
            f"{folder} holds no usable {SETTINGS} ({error}): unpack what hybrid site add wrote."
        ) from error
    if not data.exists():
        raise FederationError(f"{data} does not exist: name the folder of the site's interactions.")
    return [
        deployment.gateway_command(folder, site, port=gateway_port, proxy=proxy),
        deployment.supernode_command(
            folder,
            site,
            data=data,
            superlink=f"{deployment.LOOPBACK}:{gateway_port}",
            runtime_port=runtime_port,
            gateway=True,
        ),
        deployment.client_executor_command(folder, site, runtime_port=runtime_port),
    ]


async def _run(commands: list[deployment.Command]) -> int:
    """Run the commands until one ends or SIGTERM comes; 0 for the latter."""
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    processes = [
        await asyncio.create_subprocess_exec(*argv, env=os.environ | environment)
        for argv, environment in commands
    ]
    ends = [asyncio.create_task(process.wait()) for process in processes]
    asked = asyncio.create_task(terminated.wait())
    await asyncio.wait([*ends, asked], return_when=asyncio.FIRST_COMPLETED)
    for process in processes:
        if process.returncode is None:
            process.terminate()
    _, stubborn = await asyncio.wait(ends, timeout=STOP_SECONDS)
    for process in processes:
        if process.returncode is None:
            process.kill()
    await asyncio.gather(*stubborn)
    return 0 if terminated.is_set() else 1


if __name__ == "__main__":
    main()
