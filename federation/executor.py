"""Run a SuperLink's ServerApps, or a SuperNode's ClientApps, in forks of one warm process.

Flower starts a new Python for every run and every message. Importing Flower, PyTorch and its
compiler costs it several seconds each time, more than training on a small site takes. This process
does the same job as ``flower-superexec`` in process isolation: it asks for tasks and runs each in a
process of its own. But it imports once, at the first task, and then forks; as a fork of so large a
process takes a twentieth of a second, the next one is made ahead and waits. The one that works is
called ``clientapp`` or ``serverapp``. A task's token also stays out of the process list, where
``flower-superexec`` shows it. And of an app that was killed this process tells at once, where Flower
waits a minute for signs of life.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import httpx

if TYPE_CHECKING:
    from flwr.supercore.protobuf.client import ProtobufClientInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h


@dataclass(frozen=True)
class Kind:
    """What one executor runs.

    Attributes
    ----------
    task : str
        Flower's name of the tasks.
    load : callable
        Imports what an app needs, and gives Flower's function that runs one.
    poll_seconds : float
        From one question for a task to the next.
    farewell : int
        The signal that an app gets when the executor has ended.
    """

    task: str
    load: Callable[[], Callable[..., None]]
    poll_seconds: float
    farewell: int


def main() -> NoReturn:
    """Serve the SuperLink or SuperNode named on the command line until SIGTERM."""
    kinds = {
        # The SuperNode answers when there is a task (:mod:`federation.supernode`); one that does
        # not wait shall not be asked without end. And its ClientApp may not end politely: that
        # tells of an end without a reply, and the SuperNode waits for that reply for ever. One
        # that vanishes is given up in a minute.
        "clientapp": Kind("flwr-clientapp", _client_app, 0.02, signal.SIGKILL),
        "serverapp": Kind("flwr-serverapp", _server_app, 0.5, signal.SIGTERM),
    }
    parser = argparse.ArgumentParser(prog="executor", description=__doc__.splitlines()[0])
    parser.add_argument("app", choices=kinds)
    parser.add_argument("--runtime-api-address", required=True, metavar="HOST:PORT")
    parser.add_argument("--root-certificates", type=Path, metavar="FILE", help="for TLS")
    parser.add_argument("--superexec-auth-secret-file", required=True, type=Path, metavar="FILE")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _exit)
    authority = arguments.root_certificates
    _serve(
        arguments.app,
        kinds[arguments.app],
        arguments.runtime_api_address,
        arguments.superexec_auth_secret_file.read_bytes(),
        authority.read_bytes() if authority else None,
    )


def _serve(
    name: str, kind: Kind, address: str, secret: bytes, authority: bytes | None
) -> NoReturn:
    """Ask at `address` for tasks and run them, each in a fork."""
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor

    proof = SuperExecAuthHttpInterceptor(
        master_secret=secret, protected_methods=["/flwr.proto.Runtime/AcquireTask"]
    )
    client = _connect(address, authority, proof)
    request = AcquireTaskRequest(supported_task_types=[kind.task])

    def fork() -> tuple[int, int]:
        return _fork(name, kind, address, authority)

    # The token of each child's task; none while it waits for one.
    children: dict[int, str] = {}
    waiting: tuple[int, int] | None = None
    try:
        while True:
            answer = client.AcquireTask(request)
            if answer.token:
                ready = waiting or fork()
                if not _hand_over(answer.token, ready):
                    ready = fork()
                    _hand_over(answer.token, ready)
                children[ready[0]] = answer.token
                waiting = fork()
                children[waiting[0]] = ""
            for child in list(children):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended and (token := children.pop(child)) and os.WIFSIGNALED(status):
                    _give_up(address, authority, token, signal.Signals(os.WTERMSIG(status)))
            time.sleep(kind.poll_seconds)
    finally:
        for child in children:
            os.kill(child, kind.farewell)
        for child in children:
            os.waitpid(child, 0)


def _hand_over(token: str, ready: tuple[int, int]) -> bool:
    """Send a process its task; tells whether it was still there to get it."""
    try:
        os.write(ready[1], token.encode())
    except BrokenPipeError:
        return False
    finally:
        os.close(ready[1])
    return True


def _connect(
    address: str, authority: bytes | None, proof: ProtobufClientInterceptor
) -> RuntimeHttpClient:
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient

    return RuntimeHttpClient.from_server_address(
        address,
        insecure=authority is None,
        root_certificates=authority,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), proof],
        # Waits for a server that is still starting or being restarted.
        retry_invoker=make_simple_http_retry_invoker(),
    )


def _give_up(
    address: str, authority: bytes | None, token: str, killed_by: signal.Signals
) -> None:
    """Tell of an app that was killed before it could do so."""
    from flwr.common.constant import SubStatus
    from flwr.proto.runtime_pb2 import PushTaskOutputRequest
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor

    client = _connect(address, authority, RuntimeTokenHttpInterceptor(token))
    try:
        client.PushTaskOutput(
            PushTaskOutputRequest(
                sub_status=SubStatus.FAILED, details=f"ended by {killed_by.name}"
            )
        )
    except httpx.HTTPStatusError as error:  # Flower has given it up already
        print(f"The end of an app was not heard of: {error}", file=sys.stderr, flush=True)
    finally:
        client.close()


def _fork(name: str, kind: Kind, address: str, authority: bytes | None) -> tuple[int, int]:
    """A new process that runs the task whose token it is sent; its id, and where to send that."""
    run = kind.load()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if child:
        os.close(from_parent)
        return child, to_child
    code = 1
    try:
        _prctl(PR_SET_PDEATHSIG, kind.farewell)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(to_child)
        with open(from_parent) as pipe:
            token = pipe.read()
        _prctl(PR_SET_NAME, name.encode())
        run(
            runtime_api_address=address,
            token=token,
            insecure=authority is None,
            certificates=authority,
            runtime_dependency_install=False,
        )
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Leaves without the clean-up that belongs to the parent.
        os._exit(code)


def _client_app() -> Callable[..., None]:
    # Creating an optimizer imports PyTorch's compiler; better once here than in every fork.
    import torch._dynamo  # noqa: F401
    from flwr.supernode.runtime.run_clientapp import run_clientapp

    import federation.client_app  # noqa: F401

    return run_clientapp


def _server_app() -> Callable[..., None]:
    from queue import Queue

    from flwr.supercore.logger import mirror_output_to_queue
    from flwr.superlink.runtime import run_serverapp

    import federation.server_app  # noqa: F401

    def run(**how: Any) -> None:
        # What `flwr-serverapp` does: the SuperLink gets what the app prints.
        printed: Queue[str | None] = Queue()
        mirror_output_to_queue(printed)
        run_serverapp(log_queue=printed, **how)

    return run


def _prctl(option: int, value: int | bytes) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
