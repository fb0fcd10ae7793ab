"""The providers' SDKs without what only the engine's way of registering a resource looks at.

An SDK's package imports every resource that it knows and the classes of all nested inputs and
outputs, which takes seconds. A process that captures programs and declares nothing through the
engine (`hybrid plan --fast`, the check before `hybrid up`) imports a resource when a program names
it, and no nested class. Programs can still give nested inputs as dictionaries, as ours do.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

# Of the other packages, which are small, programs use the nested classes themselves.
PACKAGES = frozenset({"pulumi_aws", "pulumi_azure", "pulumi_gcp", "pulumi_kubernetes"})
NESTED_TYPES = frozenset({"_inputs", "outputs"})

# Where a class's name is cut for its file's: BucketIAMMember is in bucket_iam_member.py.
WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class _LightFinder(MetaPathFinder, Loader):
    """Finds an empty module in the place of nested types, and a lazy one in that of a package."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        if package not in PACKAGES or not rest:
            return None
        if rest.rpartition(".")[2] in NESTED_TYPES:
            return ModuleSpec(fullname, self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or not spec.submodule_search_locations:
            return spec
        if not (Path(spec.submodule_search_locations[0]) / "_inputs.py").exists():
            return spec  # it only holds other packages, lazily
        light = ModuleSpec(fullname, self, is_package=True)
        light.submodule_search_locations = spec.submodule_search_locations
        return light

    def exec_module(self, module: Any) -> None:
        if module.__spec__.submodule_search_locations is None:
            return

        def find(name: str) -> Any:
            for file in (name, WORD.sub("_", name).lower(), "_enums"):
                if (Path(module.__path__[0]) / f"{file}.py").exists():
                    found = getattr(
                        importlib.import_module(f"{module.__name__}.{file}"), name, None
                    )
                    if found is not None:
                        setattr(module, name, found)
                        return found
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = find


def use_light_sdk() -> None:
    """Import the SDKs that way from now on, in this process; those imported before stay whole."""
    if not any(isinstance(finder, _LightFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LightFinder())
