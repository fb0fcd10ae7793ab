"""What machine, cluster and accounts have of what is needed, and what mends each lack."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

from cli.application import PROJECT
from cli.environment import Environment, engine_root
from cli.errors import ServingError
from cli.findings import Finding
from cli.gpu_health import gpu_findings
from cli.nginx import nginx_program
from cli.sessions import LACK, session_store_program
from cli.torchserve import find_java


def diagnose(environment: Environment) -> list[Finding]:
    """Look at everything an environment needs on this machine, and at its GPU pool."""
    findings = [_packages(), _engine(), _language_host(), _java()]
    if environment.is_local:
        findings += [_plugins(environment), _passphrase(environment), _space(environment),
                     _proxy(), _sessions()]  # fmt: skip
    if engine_root().joinpath("bin", "pulumi").exists():
        findings += gpu_findings(environment)
    return findings


def _packages() -> Finding:
    lock = (PROJECT / "requirements.txt").read_text()
    wanted = re.findall(r"(?m)^([a-z0-9-]+)==([^\s;\\]+)(?: ;.*)?", lock)
    absent = []
    for name in ("click", "pulumi", "pulumi-aws", "flwr", "torch", "torchserve", "moto"):
        versions = {v for n, v in wanted if n == name}
        try:
            if version(name) not in versions:
                absent.append(f"{name} {version(name)} instead of {' or '.join(versions)}")
        except PackageNotFoundError:
            absent.append(f"{name} is not installed")
    detail = "; ".join(absent) or "as locked in requirements.txt"
    return Finding("Python packages", not absent, detail, "make setup")


def _engine() -> Finding:
    engine = engine_root() / "bin" / "pulumi"
    if not engine.exists():
        return Finding("Pulumi engine", False, "not installed", "make setup")
    said = _first_line([str(engine), "version"])
    return Finding("Pulumi engine", said is not None, f"{engine} {said}", "make setup")


def _language_host() -> Finding:
    host = (engine_root() / "bin" / "pulumi").resolve().with_name("pulumi-language-python")
    detail = str(host) if host.exists() else "not beside the engine"
    return Finding("Pulumi's Python host", host.exists(), detail, "make setup")


def _java() -> Finding:
    mend = "sudo apt-get install openjdk-17-jre-headless"
    try:
        program = find_java()
    except ServingError as error:
        return Finding("Java", False, str(error), mend)
    said = _first_line([program, "-version"]) or ""
    major = re.search(r'"(\d+)', said)
    return Finding("Java", bool(major) and int(major.group(1)) >= 17, f"{program}: {said}", mend)


def _plugins(environment: Environment) -> Finding:
    folder = environment.folder / "pulumi" / "plugins"
    found = sorted(p.name.removeprefix("resource-") for p in folder.glob("resource-*[0-9]"))
    mend = f"hybrid init {environment.name}"
    return Finding("Offline plugins", bool(found), ", ".join(found) or "not installed", mend)


def _passphrase(environment: Environment) -> Finding:
    mend = f"hybrid init {environment.name}"
    file = environment.passphrase_file
    if not file.exists():
        return Finding("State passphrase", False, "not made yet", mend)
    private = file.stat().st_mode & 0o077 == 0
    detail = "only you can read it" if private else f"others can read {file}"
    return Finding("State passphrase", private, detail, f"chmod 600 {file}")


def _space(environment: Environment) -> Finding:
    place = next(p for p in [environment.folder, *environment.folder.parents] if p.exists())
    free = shutil.disk_usage(place).free / 2**30
    return Finding("Disk", free > 2, f"{free:.0f} GiB free at {place}", "free some space")


def _proxy() -> Finding:
    """Not needed to work, so that its absence is no failure."""
    program = nginx_program()
    lack = (
        "not installed: sites reach the whole SuperLink and users all of TorchServe, and there is "
        "no canary (sudo apt-get install nginx-light)"
    )
    return Finding("Proxy", True, program or lack, "")


def _sessions() -> Finding:
    """Not needed to work either."""
    detail = session_store_program() or f"answers do not know what users did of late, since {LACK}"
    return Finding("Session store", True, detail, "")


def _first_line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return (done.stdout or done.stderr).strip().splitlines()[0]
