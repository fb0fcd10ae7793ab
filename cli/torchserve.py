"""TorchServe on this machine: how it is started."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from cli.errors import ServingError
from cli.files import short_path, write_text

# One stream of JSON lines for the supervisor, without those that TorchServe writes at every
# request; what a handler logs is such a line already.
LOGGING = """\
<Configuration status="error">
  <Appenders>
    <Console name="server">
      <PatternLayout alwaysWriteExceptions="false" pattern='{"time": "%d{ISO8601_OFFSET_DATE_TIME_HHCMM}", \
"level": "%p", "logger": "%c{1}", "message": "%enc{%m%xEx}{JSON}"}%n'/>
      <RegexFilter onMatch="DENY" onMismatch="NEUTRAL" regex="(?s)\\{.*|.*(\\[METRICS\\]|Backend \
received inference|Backend response time|Looping backend response|Sending response for job).*"/>
    </Console>
    <Console name="handlers">
      <PatternLayout pattern="%m%n"/>
      <RegexFilter onMatch="ACCEPT" onMismatch="DENY" regex="(?s)\\{.*"/>
    </Console>
  </Appenders>
  <Loggers>
    <Logger name="io.netty" level="error"/>
    <Logger name="org.apache" level="off"/>
    <Logger name="ACCESS_LOG" level="warn"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Root level="info"><AppenderRef ref="server"/><AppenderRef ref="handlers"/></Root>
  </Loggers>
</Configuration>
"""
METRICS = Path(__file__).resolve().parents[1] / "infra" / "monitoring" / "torchserve.yaml"


def find_java() -> str:
    """Path of the Java to run: of JAVA_HOME, else of PATH; ServingError where there is none."""
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin" / "java"
        if not os.access(java, os.X_OK):
            raise ServingError(
                f"JAVA_HOME is {home}, but {java} is no program: correct or unset JAVA_HOME."
            )
        return str(java)
    java = shutil.which("java")
    if java is None:
        raise ServingError(
            "TorchServe needs Java 17 and there is none: run `make setup`, install a Java runtime "
            "or set JAVA_HOME."
        )
    return java


def torchserve_command(
    folder: Path,
    *,
    inference_port: int,
    management_port: int,
    grpc_port: int = 0,
    metrics_port: int | None = None,
    request_bytes: int = 1_000_000,
    worker_memory_mb: int = 4096,
) -> tuple[list[str], dict[str, str]]:
    """Prepare TorchServe and say how to run it in the foreground.

    The JVM itself is the program, not the `torchserve` script: the script keeps one pid file for
    the whole machine, and does not pass on a signal. At SIGTERM the JVM ends its workers; a worker
    whose JVM was killed ends by itself.

    Parameters
    ----------
    folder
        Holds the configuration and archives/; made if absent.
    inference_port, management_port, grpc_port
        TCP ports on 127.0.0.1; gRPC is for inference, by default on a port that the system
        chooses. TorchServe binds one of management by gRPC as well, which nobody is told of.
    metrics_port
        Where Prometheus reads /metrics, on 127.0.0.1; none by default.
    request_bytes
        The largest body that is taken.
    worker_memory_mb
        What a worker may write to. One that asks for more gets a MemoryError and its client a 507;
        the JVM has its own bound.

    Returns
    -------
    tuple
        Arguments, and variables to set beside those of our own process.

    Raises
    ------
    ServingError
        There is no Java or no TorchServe.
    """
    folder = folder.absolute()
    java = find_java()
    spec = find_spec("ts")
    if spec is None or spec.origin is None:
        raise ServingError("TorchServe is not installed: run `make setup`.")
    package = Path(spec.origin).parent
    archives = archives_of(folder)
    archives.mkdir(parents=True, exist_ok=True)
    configuration = folder / "config.properties"
    settings = {
        "inference_address": f"http://127.0.0.1:{inference_port}",
        "management_address": f"http://127.0.0.1:{management_port}",
        "metrics_address": f"http://127.0.0.1:{metrics_port or management_port}",
        "enable_metrics_api": "false" if metrics_port is None else "true",
        "grpc_inference_port": grpc_port,
        "grpc_management_port": 0,
        "metrics_mode": "prometheus",
        "metrics_config": METRICS,
        "disable_system_metrics": "true",
        # Only what lies in the archives folder may be registered: no URL matches this.
        "allowed_urls": "nothing",
        "default_workers_per_model": 1,
        "number_of_netty_threads": 2,
        "job_queue_size": 1000,
        "max_request_size": request_bytes,
        "default_response_timeout": 30,
        "unregister_model_timeout": 30,
        "number_of_gpu": 0,
        # The handler says what is wrong with a body; TorchServe would log a traceback.
        "decode_input_request": "false",
    }
    write_text(configuration, "".join(f"{key}={value}\n" for key, value in settings.items()))
    write_text(folder / "log4j2.xml", LOGGING)
    temporary = _temporary_folder(folder)
    command = [
        # What a killed TorchServe has unpacked is of no use to the next one.
        "/bin/sh",
        "-c",
        'rm -rf -- "$0"; mkdir -m 700 -- "$0" && exec "$@"',
        str(temporary),
        java,
        "-Xmx512m",
        # What lives long takes 30 MiB. G1, Java's choice for many cores and gigabytes, takes more
        # and more of the heap into use, and its threads take the cores from the workers.
        "-XX:+UseSerialGC",
        "-Xms128m",
        "-Xmn64m",
        "-XX:+AlwaysPreTouch",
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dmodel_server_home={package.parent}",
        f"-Djava.io.tmpdir={temporary}",
        f"-Dlog4j.configurationFile={(folder / 'log4j2.xml').as_uri()}",
        "-cp",
        f"{package / 'frontend'}/*",
        "org.pytorch.serve.ModelServer",
        "--python",
        str(_worker_program(folder, worker_memory_mb)),
        "--ts-config-file",
        str(configuration),
        "--model-store",
        str(archives),
        "--no-config-snapshot",
        "--disable-token-auth",
        "--enable-model-api",
    ]
    environment = {
        "TS_CONFIG_FILE": str(configuration),
        # Workers must import what their archive carries, not what our own path holds.
        "PYTHONPATH": "",
        # A worker has one core: NumPy's threads would wait for work by spinning.
        "OPENBLAS_NUM_THREADS": "1",
    }
    return command, environment


def _worker_program(folder: Path, memory_mb: int) -> Path:
    """Python with a bound on its memory. What it maps to read, such as libraries, does not count:
    RLIMIT_AS would, and torch alone maps several gigabytes."""
    program = folder / "worker-python"
    lines = [
        "#!/bin/sh",
        # Weights in pages of 2 MiB: between two requests others use the processor, and with small
        # pages it would look up hundreds of addresses again. No glibc, or an old one: no change.
        "export GLIBC_TUNABLES=glibc.malloc.hugetlb=1",
        f'ulimit -d {memory_mb * 1024} && exec {shlex.quote(sys.executable)} "$@"',
    ]
    write_text(program, "\n".join(lines) + "\n", mode=0o755)
    return program


def archives_of(folder: Path) -> Path:
    """Folder of the .mar files that TorchServe may register."""
    return folder / "archives"


def _temporary_folder(folder: Path) -> Path:
    """Folder of the sockets of TorchServe's workers."""
    return short_path(folder, "torchserve")
