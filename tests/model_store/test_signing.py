"""Signatures: only what a trusted key vouches for is fetched; keys stay private, and can change."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from model_store.errors import StoreError
from model_store.factory import open_store
from model_store.signing import Keyring, add_signature, public_pem, require_signed, signatures_of
from model_store.store import Store

Make = Callable[..., Path]


@pytest.fixture
def local(tmp_path: Path, keys: Keyring) -> Store:
    """A store in a folder, where it does not matter which kind of store it is."""
    return open_store(str(tmp_path / "local"), keys=keys)


def trust(keys: Keyring, other: Keyring) -> None:
    """Let the first trust what the second signs."""
    keys.others.mkdir(parents=True, exist_ok=True)
    for name, key in other.trusted().items():
        (keys.others / f"{name}.pem").write_bytes(public_pem(key))


def test_what_is_stored_is_signed(store: Store, make_model: Make, keys: Keyring) -> None:
    digest = store.put(make_model(), lineage={})
    assert require_signed(store.objects, digest, keys) in keys.trusted()
    assert keys.private.stat().st_mode & 0o777 == 0o600
    assert keys.folder.stat().st_mode & 0o777 == 0o700


def test_what_nobody_signed_is_refused_until_it_is_signed(
    store: Store, make_model: Make, keys: Keyring, tmp_path: Path
) -> None:
    digest = Store(store.objects).put(make_model(), lineage={})
    with pytest.raises(StoreError, match=f"nobody signed it.* hybrid models sign {digest[7:19]}"):
        store.get(digest, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    add_signature(store.objects, digest, keys)
    assert store.get(digest, tmp_path / "target").is_dir()


def test_without_keys_nothing_is_fetched(local: Store, make_model: Make, tmp_path: Path) -> None:
    digest = local.put(make_model(), lineage={})
    with pytest.raises(StoreError, match="no keys to check its signature by"):
        Store(local.objects).get(digest, tmp_path / "target")


def test_who_is_not_trusted_is_named(local: Store, make_model: Make, tmp_path: Path) -> None:
    digest = local.put(make_model(), lineage={})
    (signer,) = local.keys.trusted()
    elsewhere = Store(local.objects, Keyring(tmp_path / "elsewhere"))
    with pytest.raises(StoreError, match=f"signed by {signer}, which is not trusted here"):
        elsewhere.get(digest, tmp_path / "target")
    trust(elsewhere.keys, local.keys)
    assert elsewhere.get(digest, tmp_path / "target").is_dir()


@pytest.mark.parametrize("content", [b"00" * 64, b"no hex", b""])
def test_a_wrong_signature_is_refused(
    local: Store, make_model: Make, tmp_path: Path, content: bytes
) -> None:
    digest = local.put(make_model(), lineage={})
    (signer,) = local.keys.trusted()
    key = f"{signatures_of(digest)}{signer}"
    assert local.objects.swap(key, content, local.objects.read(key)[1])
    with pytest.raises(StoreError, match=f"its signature by the key {signer} is wrong"):
        local.get(digest, tmp_path / "target")
    add_signature(local.objects, digest, local.keys)
    assert local.get(digest, tmp_path / "target").is_dir()


def test_the_signature_of_one_model_is_none_of_another(
    tmp_path: Path, make_model: Make, keys: Keyring
) -> None:
    store = open_store(str(tmp_path / "store"), keys=keys)
    signed = store.put(make_model("one"), lineage={})
    unsigned = Store(store.objects).put(make_model("two"), lineage={})
    (signer,) = keys.trusted()
    data, _ = store.objects.read(f"{signatures_of(signed)}{signer}")
    store.objects.swap(f"{signatures_of(unsigned)}{signer}", data, None)
    with pytest.raises(StoreError, match="is wrong"):
        store.get(unsigned, tmp_path / "target")


def test_after_a_rotation_old_models_stay_good_until_the_old_key_goes(
    tmp_path: Path, make_model: Make, keys: Keyring
) -> None:
    store = open_store(str(tmp_path / "store"), keys=keys)
    old = store.put(make_model("one"), lineage={})
    (first,) = keys.trusted()
    second = keys.rotate()
    new = store.put(make_model("two"), lineage={})
    assert set(keys.trusted()) == {first, second}
    assert require_signed(store.objects, old, keys) == first
    assert require_signed(store.objects, new, keys) == second
    add_signature(store.objects, old, keys)
    (keys.others / f"{first}.pem").unlink()
    assert require_signed(store.objects, old, keys) == second
    assert keys.private.stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, make_model: Make) -> None:
    keys = Keyring(tmp_path / "keys")
    keys.sign("sha256:0")
    keys.private.chmod(0o640)
    with pytest.raises(StoreError, match="chmod 600"):
        open_store(str(tmp_path / "store"), keys=keys).put(make_model(), lineage={})


def test_files_that_are_no_keys_are_named(tmp_path: Path) -> None:
    keys = Keyring(tmp_path)
    keys.others.mkdir()
    (keys.others / "x.pem").write_text("no key")
    with pytest.raises(StoreError, match="x.pem holds no public Ed25519 key"):
        keys.trusted()
    keys.private.write_text("no key")
    keys.private.chmod(0o600)
    with pytest.raises(StoreError, match="signing.pem holds no Ed25519 key"):
        keys.sign("sha256:0")


def test_who_makes_the_key_at_once_makes_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        made = set(pool.map(lambda _: Keyring(tmp_path / "keys").sign("sha256:0"), range(12)))
    assert len(made) == 1
    assert [file.name for file in (tmp_path / "keys").iterdir()] == ["signing.pem"]


def test_a_signature_is_the_standards(tmp_path: Path) -> None:
    """Anybody can check one with the public key alone."""
    keys = Keyring(tmp_path)
    name, signature = keys.sign("sha256:0")
    private = serialization.load_pem_private_key(keys.private.read_bytes(), None)
    assert isinstance(private, Ed25519PrivateKey)
    private.public_key().verify(signature, b"hybrid model\nsha256:0")
    assert name in keys.trusted()
