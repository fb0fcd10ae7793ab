"""Ed25519 signatures of models: who stored this, and is it trusted here?

A folder holds the keys: ``signing.pem`` signs and is readable by its owner alone, ``trusted/*.pem``
are the public keys of others, and of oneself before a rotation. What is signed is a model's digest,
the hash of its manifest, and so every byte of it. ``signatures/<sha256>/<key>`` in the store holds
the signature by one key.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from model_store.errors import StoreError
from model_store.folder import sync_file, sync_folder
from model_store.objects import Objects

# So that a signature of a model can be taken for nothing else that a key might sign.
PURPOSE = b"hybrid model\n"


class Keyring:
    """The keys in a folder, which need not exist before the first signature.

    Parameters
    ----------
    folder
        Where they are.
    rotation
        The command that makes a new one, for sentences.
    """

    def __init__(self, folder: Path, rotation: str = "hybrid models key --rotate") -> None:
        self.folder, self.rotation = folder, rotation
        self.private = folder / "signing.pem"
        self.others = folder / "trusted"

    def own(self) -> Ed25519PrivateKey:
        """The own key, made if there is none; StoreError as in `sign`."""
        return self._own() or self._make()

    def sign(self, digest: str) -> tuple[str, bytes]:
        """Id of the own key, made if there is none, and its signature of a model's digest.

        Raises
        ------
        StoreError
            The key cannot be made or read, or others can read it.
        """
        key = self.own()
        return key_id(key.public_key()), key.sign(PURPOSE + digest.encode())

    def sign_document(self, document: bytes) -> bytes:
        """The own key's signature of a JSON object, which can be taken for no model's digest."""
        return self.own().sign(document)

    def trusted(self) -> dict[str, Ed25519PublicKey]:
        """Keys whose models may be loaded, by id: the own one and those in ``trusted``."""
        own = self._own()
        keys = [own.public_key()] if own else []
        keys += [_read_public(file) for file in sorted(self.others.glob("*.pem"))]
        return {key_id(key): key for key in keys}

    def rotate(self) -> str:
        """Sign with a new key from now on; the old one stays trusted. Id of the new key."""
        old = self._own()
        if old is not None:
            # Trusted before it is replaced: a crash in between leaves both as they were.
            self.others.mkdir(parents=True, exist_ok=True)
            file = self.others / f"{key_id(old.public_key())}.pem"
            file.write_bytes(public_pem(old.public_key()))
            sync_file(file)
            sync_folder(self.others)
        return key_id(self._make(replace=True).public_key())

    def _own(self) -> Ed25519PrivateKey | None:
        try:
            with self.private.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                pem = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"The key {self.private} cannot be read: {error.strerror}.") from None
        if mode & 0o077:
            raise StoreError(
                f"Others than its owner may read or write the key {self.private}: run chmod 600 on "
                f"it, and `{self.rotation}` if somebody may have read it."
            )
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise StoreError(f"{self.private} holds no Ed25519 key: put the right one back.")
        return key

    def _make(self, *, replace: bool = False) -> Ed25519PrivateKey:
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".signing.")  # mode 0600
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            try:
                if replace:
                    os.replace(name, self.private)
                else:
                    os.link(name, self.private)  # unlike a rename it fails where another was first
            except FileExistsError:
                return self._own() or key
            finally:
                Path(name).unlink(missing_ok=True)
            sync_folder(self.folder)
        except OSError as error:
            raise StoreError(f"No key can be made in {self.folder}: {error}.") from None
        return key


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hex digits of the public key's SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def public_pem(key: Ed25519PublicKey) -> bytes:
    """A public key as the files of ``trusted`` hold it."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def add_signature(objects: Objects, digest: str, keys: Keyring) -> None:
    """Sign a model in its store; what was there under the same key is replaced if it is wrong."""
    name, signature = keys.sign(digest)
    key = f"{signatures_of(digest)}{name}"
    content = f"{signature.hex()}\n".encode()
    found = objects.read(key)
    if found is None or found[0] != content:
        objects.swap(key, content, found[1] if found else None)


def require_signed(objects: Objects, digest: str, keys: Keyring | None) -> str:
    """Id of a trusted key that signed a model.

    Raises
    ------
    StoreError
        No trusted key did, or its signature is wrong.
    """
    if keys is None:
        raise StoreError(f"Model {digest} is refused: there are no keys to check its signature by.")
    wrong = None
    for name, key in keys.trusted().items():
        found = objects.read(f"{signatures_of(digest)}{name}")
        if found is None:
            continue
        try:
            key.verify(bytes.fromhex(found[0].decode().strip()), PURPOSE + digest.encode())
            return name
        except (InvalidSignature, ValueError):
            wrong = name
    if wrong:
        raise StoreError(
            f"Model {digest} is refused: its signature by the key {wrong} is wrong; take another "
            "model, or find out who changed the store."
        )
    signers = [entry.key.rpartition("/")[2] for entry in objects.entries(signatures_of(digest))]
    if signers:
        raise StoreError(
            f"Model {digest} is refused: it is signed by {', '.join(signers)}, which is not "
            f"trusted here; if it should be, put that public key into {keys.others}."
        )
    raise StoreError(
        f"Model {digest} is refused: nobody signed it. If you know where it comes from, run "
        f"hybrid models sign {digest.removeprefix('sha256:')[:12]}."
    )


def signatures_of(digest: str) -> str:
    """Prefix of a model's signatures."""
    return f"signatures/{digest.removeprefix('sha256:')}/"


def _read_public(file: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(file.read_bytes())
    except (OSError, ValueError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise StoreError(f"{file} holds no public Ed25519 key: put the right one there.")
    return key
