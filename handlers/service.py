"""What TorchServe loads, whatever the model; `handlers.worker` does the work."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ts.context import Context


class Service:
    """The one class that TorchServe finds here.

    Imports are inside the methods: TorchServe takes an ImportError of this file for a missing
    handler and hides its cause.
    """

    def initialize(self, context: Context) -> None:
        """Load the model from the unpacked archive."""
        from handlers.worker import Unmeasured, Worker

        set_up_logs()
        context.metrics = Unmeasured()
        self.worker = Worker(
            context.system_properties["model_dir"], context.manifest["model"]["modelVersion"]
        )

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[bytes]:
        """Answer a batch of requests, in their order."""
        return self.worker.answer(data, context)


def set_up_logs() -> None:
    """Let our own records be lines of JSON, and let there be none of TorchServe's of each batch.

    It reads its metrics from other lines.
    """
    from pythonjsonlogger.json import JsonFormatter

    output = logging.StreamHandler(sys.stdout)
    output.setFormatter(
        JsonFormatter(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",
        )
    )
    for package in ("handlers", "recsys"):
        logger = logging.getLogger(package)
        logger.handlers, logger.propagate = [output], False
        logger.setLevel(logging.INFO)
    # TorchServe's server throws away what its worker has to say of a batch.
    logging.getLogger().setLevel(logging.WARNING)
    # What `handlers.meter` writes once a second goes this way.
    logging.getLogger("ts.metrics.caching_metric").setLevel(logging.INFO)
