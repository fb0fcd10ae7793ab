"""Find, download or build the Pulumi engine, whichever is first possible on this machine.

The engine ends at ``~/.cache/hybrid/pulumi/bin``: a link to the `pulumi` on PATH, the official
download, or a build from the Go modules pinned beside this file. Run by ``make setup``; a second
run finds the engine there and does nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pulumi.automation import PulumiCommand
from semver import VersionInfo

ENGINE_VERSION = VersionInfo.parse("3.259.0")
OLDEST_ENGINE = VersionInfo.parse("3.200.0")
LANGUAGE_HOST_VERSION = "3.79.0"
TOOLS = Path(__file__).resolve().parent


def cache_root(part: str = "pulumi") -> Path:
    """Folder whose ``bin`` holds what is built of one part; XDG_CACHE_HOME is obeyed."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "hybrid" / part


@contextmanager
def step(text: str) -> Iterator[None]:
    """Print what is done now, and how long it took once it is done."""
    print(f"{text} …", flush=True)
    start = time.monotonic()
    yield
    print(f"  done in {time.monotonic() - start:.0f} s", flush=True)


def version_of(pulumi: Path) -> VersionInfo | None:
    """Version of an engine, or None where it does not run."""
    environment = os.environ | {"PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        said = subprocess.run(
            [pulumi, "version"], env=environment, capture_output=True, text=True, check=True
        )
        return VersionInfo.parse(said.stdout.strip().removeprefix("v"))
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a new enough engine with its Python language host."""
    version = version_of(folder / "pulumi")
    host = (folder / "pulumi").resolve().with_name("pulumi-language-python")
    return version is not None and version >= OLDEST_ENGINE and host.exists()


def link_from_path(root: Path) -> bool:
    """Use the `pulumi` of PATH; the project's own environment is not looked at."""
    own = Path(sys.executable).parent
    folders = [f for f in os.environ.get("PATH", "").split(os.pathsep) if f and Path(f) != own]
    found = shutil.which("pulumi", path=os.pathsep.join(folders))
    if found is None:
        return False
    folder = Path(found).resolve().parent
    if not is_complete(folder):
        print(f"{found} is older than {OLDEST_ENGINE} or lacks its Python host: not used")
        return False
    for program in folder.glob("pulumi*"):
        place(program, root / "bin" / program.name, link=True)
    print(f"Pulumi engine: {found}")
    return True


def download(root: Path) -> bool:
    """Run the official installer; False where its host cannot be reached."""
    try:
        with step(f"Downloading the Pulumi engine {ENGINE_VERSION}"):
            PulumiCommand.install(root=str(root), version=ENGINE_VERSION)
    except Exception as error:  # the installer raises whatever its transport raises
        print(f"  not possible here: {str(error).strip().splitlines()[-1][:160]}")
        return False
    return is_complete(root / "bin")


def build(root: Path) -> bool:
    """Compile the pinned Go modules; False where there is no Go toolchain."""
    go = shutil.which("go")
    if go is None:
        return False
    sdk = "github.com/pulumi/pulumi/sdk/v3"
    with step(f"Building the Python language host {LANGUAGE_HOST_VERSION} with Go"):
        build_tool(
            go,
            "language-python",
            f"{sdk}/python/cmd/pulumi-language-python",
            root / "bin" / "pulumi-language-python",
            version=LANGUAGE_HOST_VERSION,
            flags=[],
        )
        listed = subprocess.run(
            [go, "list", "-mod=mod", "-m", "-f", "{{.Dir}}", sdk],
            cwd=TOOLS / "language-python", capture_output=True, text=True, check=True,
        )
        python = Path(listed.stdout.strip()) / "python"
        for companion in (
            "cmd/pulumi-language-python-exec",
            "dist/pulumi-resource-pulumi-python",
            "dist/pulumi-analyzer-policy-python",
        ):
            place(python / companion, root / "bin" / Path(companion).name)
    with step(f"Building the Pulumi engine {ENGINE_VERSION} with Go (once; 7 minutes on 2 cores)"):
        build_tool(
            go,
            "pulumi",
            "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
            root / "bin" / "pulumi",
            version=str(ENGINE_VERSION),
            flags=["-tags", "osusergo,grpcnotrace"],
        )
    return is_complete(root / "bin")


def build_tool(
    go: str, module: str, package: str, target: Path, *, version: str, flags: list[str],
    setting: str = "github.com/pulumi/pulumi/sdk/v3/go/common/version.Version",
) -> None:  # fmt: skip
    """Compile one package of a module under tools/ and put the program in place.

    ``setting`` is the Go variable that holds the version which the program tells.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        program = Path(folder) / target.name
        subprocess.run(
            [go, "build", "-mod=mod", "-trimpath", *flags,
             "-ldflags", f"-s -w -X {setting}=v{version}", "-o", program, package],
            cwd=TOOLS / module, env=os.environ | {"CGO_ENABLED": "0"}, check=True,
        )  # fmt: skip
        os.replace(program, target)


def place(source: Path, target: Path, *, link: bool = False) -> None:
    """Put a program at a place in one move, as a copy with mode 0755 or as a link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        fresh = Path(folder) / target.name
        if link:
            fresh.symlink_to(source)
        else:
            shutil.copyfile(source, fresh)
            fresh.chmod(0o755)
        os.replace(fresh, target)


def main() -> int:
    """Climb the ladder: already there, PATH, official download, Go build."""
    root = cache_root()
    if is_complete(root / "bin"):
        return 0
    (root / "bin").mkdir(parents=True, exist_ok=True)
    ladder: list[Callable[[Path], bool]] = [link_from_path, download, build]
    if any(rung(root) for rung in ladder):
        return 0
    print(
        "There is no Pulumi engine here: install the Pulumi CLI "
        f"(version {OLDEST_ENGINE} or newer) or a Go toolchain, then run this again.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
