"""Supervision of real processes by a real supervisord."""

from __future__ import annotations

import os
import signal
import socket
import sys

import psutil
import pytest
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from cli.errors import CommandError
from cli.processes import Part, Supervisor

LISTEN = (
    "import socket, sys, time; s = socket.socket(); "
    "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); "
    "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print('listening', flush=True); "
    "time.sleep(600)"
)

# When it is told to end, it waits until its client has.
SERVER = (
    "import signal, socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); "
    "c = s.accept()[0]; "
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(c.recv(1) or print('ended well'))); "
    "print('has a client', flush=True); signal.pause()"
)
CLIENT = (
    "import signal, socket, sys; server = '127.0.0.1', int(sys.argv[1]); "
    "c = next(c for c in iter(socket.socket, None) if not c.connect_ex(server)); signal.pause()"
)


@pytest.fixture
def supervisor(tmp_path):
    supervisor = Supervisor(tmp_path)
    yield supervisor
    supervisor.stop()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listener(port: int, name: str = "listener") -> Part:
    return Part(
        name,
        [sys.executable, "-c", LISTEN, str(port)],
        {"ports.listener": port},
        lambda: connects(port),
        {},
    )


def connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def bring_up(supervisor: Supervisor, *parts: Part) -> list[str]:
    supervisor.configure(list(parts))
    started = supervisor.start(list(parts))
    supervisor.wait(list(parts))
    return started


def test_a_second_start_starts_nothing(supervisor, port):
    assert bring_up(supervisor, listener(port)) == ["listener"]
    before = supervisor.states()
    assert bring_up(supervisor, listener(port)) == []
    assert supervisor.states()[0].pid == before[0].pid


def test_a_restart_makes_a_new_process_and_starts_what_did_not_run(supervisor, port):
    part = listener(port)
    supervisor.configure([part])
    pids = set()
    for _ in range(2):
        supervisor.restart([part])
        supervisor.wait([part])
        pids.add(supervisor.states()[0].pid)
    assert len(pids) == 2


def test_what_a_server_prints_is_in_its_log(supervisor, port):
    bring_up(supervisor, listener(port))
    # supervisord copies what a server prints when it next looks, which may be after it answers.
    told = Retrying(
        retry=retry_if_result(lambda text: not text),
        wait=wait_fixed(0.05),
        stop=stop_after_delay(30),
    )
    assert told(supervisor.log("listener").read_text) == "listening\n"


def test_a_killed_server_comes_back(supervisor, port):
    bring_up(supervisor, listener(port))
    first = supervisor.states()[0].pid
    process = psutil.Process(first)
    os.kill(first, signal.SIGKILL)
    psutil.wait_procs([process], timeout=10)
    supervisor.wait([listener(port)])
    assert supervisor.states()[0].pid != first


def test_stop_leaves_no_process_and_no_port(supervisor, port):
    bring_up(supervisor, listener(port))
    supervisor.stop()
    assert supervisor.survivors() == []
    assert not connects(port)
    assert supervisor.states() == []


def test_a_server_that_waits_for_its_client_and_that_client_are_stopped_together(supervisor, port):
    log = supervisor.log("server")
    bring_up(
        supervisor,
        Part("client", [sys.executable, "-c", CLIENT, str(port)], {}, lambda: True, {}),
        Part("server", [sys.executable, "-c", SERVER, str(port)], {},
             lambda: log.exists() and "has a client" in log.read_text(), {}),
    )  # fmt: skip
    supervisor.stop()
    assert log.read_text().endswith("ended well\n")


def test_servers_that_outlived_a_killed_supervisord_are_replaced(supervisor, port):
    bring_up(supervisor, listener(port))
    orphan = psutil.Process(supervisor.states()[0].pid)
    supervisord = psutil.Process(int(supervisor.pid_file.read_text()))
    supervisord.kill()
    psutil.wait_procs([supervisord], timeout=10)
    assert bring_up(supervisor, listener(port)) == ["listener"]
    assert not orphan.is_running()


def test_a_port_in_use_is_named_with_its_holder(supervisor, port):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        supervisor.configure([listener(port)])
        with pytest.raises(CommandError) as error:
            supervisor.start([listener(port)])
    assert f"Port {port}, which listener needs" in str(error.value)
    assert f"process {os.getpid()}" in str(error.value)
    assert "set ports.listener" in str(error.value)


def test_a_server_that_cannot_run_is_reported_with_its_last_lines(supervisor):
    broken = Part(
        "broken", [sys.executable, "-c", "raise SystemExit('no such model')"], {}, lambda: False, {}
    )
    supervisor.configure([broken])
    supervisor.start([broken])
    with pytest.raises(CommandError, match="broken ends again and again(?s:.*)no such model"):
        supervisor.wait([broken])


def test_a_server_that_is_configured_no_more_ends(supervisor, port):
    bring_up(supervisor, listener(port))
    gone = psutil.Process(supervisor.states()[0].pid)
    supervisor.configure([])
    assert supervisor.states() == []
    assert not gone.is_running()
