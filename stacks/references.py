"""Reading another layer's outputs, also while that layer is not deployed yet."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi.output import UNKNOWN


class LayerError(Exception):
    """A layer that must be deployed first is not."""

    exit_code = 1


class Layer:
    """Another layer of the same environment.

    Its full name begins with the organisation, which is "organization" in file, S3 and the other
    self-managed backends, and an account's or company's name in Pulumi Cloud.
    """

    def __init__(self, environment: str, layer: str) -> None:
        self._stack = f"{environment}.{layer}"
        self._reference = pulumi.StackReference(
            f"{pulumi.get_organization()}/{pulumi.get_project()}/{self._stack}"
        )

    def output(self, name: str) -> pulumi.Output[Any]:
        """An output; unknown in a preview while the layer has none of that name.

        Raises
        ------
        LayerError
            In `up` (at the resource that needs it), where the output is absent.
        """
        return self._reference.get_output(name).apply(lambda value: self._present(name, value))

    def _present(self, name: str, value: Any) -> Any:
        if value is not None:
            return value
        if pulumi.runtime.is_dry_run():
            return UNKNOWN
        raise LayerError(f"Stack {self._stack} has no output {name!r} yet: bring it up first.")
