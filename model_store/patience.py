"""A limit on how slowly a store may answer; a socket's time-out begins anew at every byte."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from model_store.errors import StoreError

# Long enough for a client that asks a silent server again, as those of S3 and GCS do by themselves.
SECONDS = 300.0
LEAST_BYTES = 2**18

Result = TypeVar("Result")


class SlowStoreError(StoreError):
    """A store answers, but too slowly to wait for."""


def patiently(
    call: Callable[[], Result],
    address: str,
    arrived: Callable[[], int] = lambda: 0,
    *,
    seconds: float = SECONDS,
) -> Result:
    """What a call to a store returns, if it ends or goes on fast enough.

    It runs in a thread of its own, which is left to itself where it is too slow: nobody can end a
    read under way. Such a thread keeps no process alive.

    Parameters
    ----------
    address
        Of the store, for the sentence.
    arrived
        Tells how many bytes have come so far; by default the call must end in time.
    seconds
        Within which it must end or bring `LEAST_BYTES` more, again and again.

    Raises
    ------
    SlowStoreError
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    before = arrived()
    threading.Thread(target=run, name=f"store {address}", daemon=True).start()
    while not wait([future], seconds).done:
        now = arrived()
        if now - before < LEAST_BYTES:
            raise SlowStoreError(
                f"The store {address} answers too slowly: {now - before:,} bytes in "
                f"{seconds:g} s, where at least {LEAST_BYTES:,} must come. Look at the network and at the "
                "store, then try again."
            )
        before = now
    return future.result()
