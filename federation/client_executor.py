"""Run a site's ClientApps in forks of one warm process.

Flower starts a new Python for every message. Importing Flower, PyTorch and its compiler costs it
several seconds each time, more than training on a small site takes. This process does the same
job as ``flower-superexec`` at a SuperNode in process isolation: it asks the SuperNode for tasks
and runs each in a process of its own. But it imports once, at the first task, and then forks; as
a fork of so large a process takes a twentieth of a second, the next one is made ahead and waits.
The one that works is called ``clientapp``. The task's token also stays out of the process list,
where ``flower-superexec`` shows it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

# The SuperNode answers when there is a task (:mod:`federation.supernode`); one that does not wait
# shall not be asked without end.
POLL_SECONDS = 0.02
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h


def main() -> NoReturn:
    """Serve the SuperNode named on the command line until SIGTERM."""
    parser = argparse.ArgumentParser(prog="client_executor", description=__doc__.splitlines()[0])
    parser.add_argument("--runtime-api-address", required=True, metavar="HOST:PORT")
    parser.add_argument("--superexec-auth-secret-file", required=True, type=Path, metavar="FILE")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _exit)
    serve(arguments.runtime_api_address, arguments.superexec_auth_secret_file.read_bytes())


def serve(address: str, secret: bytes) -> NoReturn:
    """Ask the SuperNode at `address` for ClientApp tasks and run them, each in a fork.

    Parameters
    ----------
    address : str
        "host:port" of the SuperNode's Runtime API, on this machine's loopback.
    secret : bytes
        What the SuperNode's ``--superexec-auth-secret-file`` holds.
    """
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType
    from flwr.supercore.interceptors import (
        RuntimeVersionHttpInterceptor,
        SuperExecAuthHttpInterceptor,
    )
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient

    client = RuntimeHttpClient.from_server_address(
        address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=secret, protected_methods=["/flwr.proto.Runtime/AcquireTask"]
            ),
        ],
        # Waits for a SuperNode that is still starting or being restarted.
        retry_invoker=make_simple_http_retry_invoker(),
    )
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    children: set[int] = set()
    waiting: tuple[int, int] | None = None
    try:
        while True:
            answer = client.AcquireTask(request)
            if answer.token:
                if waiting and waiting[0] not in children:  # somebody has ended it
                    os.close(waiting[1])
                    waiting = None
                child, to_child = waiting or _fork(address)
                with open(to_child, "w") as pipe:
                    pipe.write(answer.token)
                waiting = _fork(address)
                children |= {child, waiting[0]}
            children -= {child for child in children if os.waitpid(child, os.WNOHANG)[0]}
            time.sleep(POLL_SECONDS)
    finally:
        # Not SIGTERM: a ClientApp that may still say that it ends says so without a reply, and
        # the SuperNode waits for that reply for ever. One that vanishes is given up in a minute.
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def _fork(address: str) -> tuple[int, int]:
    """A new process that runs the task whose token it is sent; its id, and where to send that."""
    # Creating an optimizer imports PyTorch's compiler; better once here than in every fork.
    import torch._dynamo  # noqa: F401
    from flwr.supernode.runtime.run_clientapp import run_clientapp

    import federation.client_app  # noqa: F401

    from_parent, to_child = os.pipe()
    child = os.fork()
    if child:
        os.close(from_parent)
        return child, to_child
    code = 1
    try:
        # Flower's own watch over the parent ends the ClientApp politely, which loses its message;
        # see the end of :func:`serve`.
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(to_child)
        with open(from_parent) as pipe:
            token = pipe.read()
        _prctl(PR_SET_NAME, b"clientapp")
        run_clientapp(
            runtime_api_address=address,
            token=token,
            insecure=True,
            runtime_dependency_install=False,
        )
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Leaves without the clean-up that belongs to the parent.
        os._exit(code)


def _prctl(option: int, value: int | bytes) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
