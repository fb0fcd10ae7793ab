"""The plugin process: ``python -m infra.offline PACKAGE [ENGINE_ADDRESS]`` prints its port."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType

PACKAGES = ("aws", "gcp", "kubernetes", "command", "tls", "random")
_MAX_MESSAGE_BYTES = 400 * 1024 * 1024  # the engine's own limit
_CALLS_AT_ONCE = 16  # the engine's default parallelism on a small machine


def _skip_package_initialisers() -> None:
    """Make ``pulumi.runtime.proto`` importable without running ``pulumi/__init__.py``.

    The plugin needs the protocol's messages only.  The initialisers of the packages above them
    import the whole SDK, which takes three times as long as everything else here.
    """
    spec = importlib.util.find_spec("pulumi")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("the Python package pulumi is not installed: run `make setup`")
    folder = Path(next(iter(spec.submodule_search_locations)))
    for name in ("pulumi", "pulumi.runtime", "pulumi.runtime.proto"):
        module = ModuleType(name)
        module.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module


def serve(package: str) -> None:
    """Serve ``package`` on a free port of 127.0.0.1 until told to stop or left by the engine."""
    parent = os.getppid()
    # The engine ends a plugin, once its calls are answered, by SIGINT to the plugin's own process
    # group, and ends all plugins one by one within 5 s together.  So a plugin goes at once: joining
    # threads and unloading modules would take the time of the plugins after it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    _skip_package_initialisers()

    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from pulumi.runtime.proto import provider_pb2_grpc

    from infra.offline.plugin import Plugin

    server = grpc.server(
        ThreadPoolExecutor(max_workers=_CALLS_AT_ONCE),
        options=[
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ],
    )
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Plugin(package), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    # An engine that was killed cannot say so: its children then have another parent.
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PACKAGES:
        raise SystemExit(f"usage: python -m infra.offline {{{'|'.join(PACKAGES)}}}")
    serve(sys.argv[1])
