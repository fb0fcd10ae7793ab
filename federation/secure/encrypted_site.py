"""A site's part in encrypted sums: keeping the key that the sites share, and using it.

One site draws the key of a run and writes it to the others in sealed letters, which the server
passes on. The key lies in the site's folder of the run and leaves it in such letters alone.

==========  ==========================================  ==================================
stage       the site is told                            and answers
==========  ==========================================  ==================================
``key``                                                 its key for letters, which keys of
                                                        sums it holds, its examples
``deal``    sites with their keys for letters           the public key, a letter for each
``open``    a letter                                    which key it now holds
``decrypt`` an encrypted sum                            the sum
==========  ==========================================  ==================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag

from federation.errors import FederationError
from federation.files import write_private
from federation.keystream import derive
from federation.secure import homomorphic
from federation.secure.letters import box, public
from federation.secure.messages import read
from federation.secure.vectors import BOUND, layout
from federation.updates import Delta, Weights

SCHEME = "ckks"
NONCE_BYTES = 12
LETTER = "letter to "


class KeyHolder:
    """A site among those that share a key in a run.

    Parameters
    ----------
    site : str
    secret : bytes
        The site's own key of 32 bytes.
    run : str
        The run's identity.
    folder : Path
        Where the site keeps its runs.
    """

    def __init__(self, site: str, secret: bytes, run: str, folder: Path) -> None:
        if not run.isalnum():
            raise FederationError(f"{run!r} is no identity of a run: letters and digits only.")
        self._site, self._run, self._folder = site, run, folder / run
        self._private = derive(secret, f"encrypted sums/{run}/letters")

    def answer(
        self, text: str, parts: Mapping[str, bytes], examples: int
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Answer a question of the server.

        Parameters
        ----------
        parts
            What came with it: a letter, or an encrypted sum.
        examples
            What the site's weight in a sum follows from.

        Returns
        -------
        dict, dict of str to bytes
            What the site tells, and what goes with it.

        Raises
        ------
        FederationError
            If the question is none.
        """
        asked = read(text)
        try:
            stage = asked["stage"]
            if stage == "key":
                told = {"key": public(self._private).hex(), "holds": self._held()}
                return told | {"examples": examples}, {}
            if stage == "deal":
                return self._deal(str(asked["name"]), asked["to"])
            if stage == "open":
                return self._open(str(asked["sender"]), bytes.fromhex(asked["key"]), parts), {}
            if stage == "decrypt":
                message = homomorphic.parted(parts["sum"])
                total = homomorphic.decrypt(self._secret(str(asked["name"])), message)
                return {}, {"plain": total.astype("<i4").tobytes()}
            raise ValueError(f"the stage {stage!r}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FederationError(f"The question of an encrypted sum is none ({error}).") from error

    def encrypted(
        self, text: str, delta: Delta, weights: Weights, *, seed: int, number: int
    ) -> bytes:
        """A change of the model times the site's weight, encrypted; `text` is the task's plan."""
        plan = read(text)
        try:
            name, rows = str(plan["name"]), float(plan["rows"])
            weight = float(plan["weights"][self._site])
        except (KeyError, TypeError, ValueError) as error:
            raise FederationError(f"The plan of an encrypted sum is none ({error}).") from error
        sent = layout(
            weights, share=rows, seed=seed, number=number, bound=BOUND, bits=homomorphic.BITS
        )
        vector = sent.encode(delta, weight).view(np.int32)
        return homomorphic.joined(homomorphic.encrypt(self._secret(name), vector))

    def _deal(
        self, name: str, to: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        name = name or self._keep(homomorphic.new_key())
        secret = self._secret(name)
        parts = {"public": homomorphic.public_of(secret)}
        for site, other in to.items():
            nonce = os.urandom(NONCE_BYTES)
            sealed = self._box(bytes.fromhex(other), self._site, site)
            parts[f"{LETTER}{site}"] = nonce + sealed.encrypt(nonce, secret, None)
        return {"name": name}, parts

    def _open(self, sender: str, other: bytes, parts: Mapping[str, bytes]) -> dict[str, Any]:
        letter = parts["letter"]
        sealed = self._box(other, sender, self._site)
        try:
            secret = sealed.decrypt(letter[:NONCE_BYTES], letter[NONCE_BYTES:], None)
        except InvalidTag as error:
            raise FederationError(
                f"The letter of site {sender!r} to site {self._site!r} was changed on the way."
            ) from error
        return {"name": self._keep(secret)}

    def _box(self, other: bytes, sender: str, receiver: str):
        return box(self._private, other, f"encrypted sums/{self._run}/{sender}/{receiver}")

    def _held(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.ckks"))

    def _keep(self, secret: bytes) -> str:
        name = homomorphic.name_of(secret)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._path(name), secret)
        return name

    def _secret(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            raise FederationError(
                f"Site {self._site!r} does not hold the key {name!r} of encrypted sums."
            ) from None

    def _path(self, name: str) -> Path:
        if not name.isalnum():
            raise FederationError(f"{name!r} is no name of a key.")
        return self._folder / f"{name}.ckks"


def is_encrypted(text: str) -> bool:
    """Whether a plan or a question is of encrypted sums, and not of masks."""
    return read(text).get("scheme") == SCHEME


def text_of(stage: str, **parts: Any) -> str:
    """A question to a site."""
    return json.dumps({"scheme": SCHEME, "stage": stage} | parts)
