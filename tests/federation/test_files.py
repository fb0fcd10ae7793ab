from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from federation.errors import FederationError
from federation.files import room_for


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_a_sentence_whoever_writes(error: Exception) -> None:
    with pytest.raises(FederationError, match="a/b cannot be written .*No space left.*: make room"):
        with room_for(Path("a/b")):
            raise error
