from __future__ import annotations

import builtins

import numpy as np
import pytest
import tenseal

from federation.errors import FederationError
from federation.secure.homomorphic import (
    BITS,
    Total,
    decrypt,
    encrypt,
    joined,
    new_key,
    parted,
    public_of,
)

SIZE = 2500  # more than a ciphertext


@pytest.fixture(scope="module")
def key() -> bytes:
    return new_key()


@pytest.mark.parametrize("sites", [2, 50])
def test_the_server_adds_what_it_cannot_read_and_the_sum_is_exact(key, sites):
    generator = np.random.default_rng(sites)
    most = 2 ** (BITS - 1) // sites
    vectors = generator.integers(-most, most, (sites, SIZE), dtype=np.int32)
    vectors[:, 0], vectors[:, 1] = most, -most
    total = Total(public_of(key), SIZE)
    for vector in vectors:
        total.add(parted(joined(encrypt(key, vector))))
    assert (decrypt(key, total.serialize()) == vectors.sum(0)).all()


def test_the_public_key_does_not_decrypt(key):
    public = public_of(key)
    message = encrypt(public, np.ones(10, np.int32))
    assert (decrypt(key, message) == 1).all()
    with pytest.raises(FederationError, match="cannot be read .*secret"):
        decrypt(public, message)
    assert not tenseal.context_from(public).is_private()


def test_equal_vectors_have_unlike_ciphertexts(key):
    zeros, ones = np.zeros(2048, np.int32), np.ones(2048, np.int32)
    assert encrypt(key, zeros) != encrypt(key, zeros)
    # Which numbers are zero does not show in the length: all ciphertexts have about the same.
    lengths = [len(encrypt(key, vector)[0]) for vector in (zeros, ones)]
    assert abs(lengths[0] - lengths[1]) < 0.01 * lengths[0]


def test_messages_that_cannot_be_added_are_refused_and_change_nothing(key):
    ones = np.ones(SIZE, np.int32)
    total = Total(public_of(key), SIZE)
    message = encrypt(key, ones)
    total.add(message)
    for wrong, sentence in (
        (message[:-1], "1 ciphertexts in the place of the 2 of 2,500 numbers"),
        ([b"noise"] * 2, "cannot be used"),
        ([message[0], message[0]], "of another length"),
    ):
        with pytest.raises(FederationError, match=sentence):
            total.add(wrong)
    assert (decrypt(key, total.serialize()) == 1).all()
    with pytest.raises(FederationError, match="cut short"):
        parted(joined(message)[:-1])


def test_what_is_under_another_key_is_no_sum(key):
    total = Total(public_of(key), 10)
    total.add(encrypt(new_key(), np.ones(10, np.int32)))
    with pytest.raises(FederationError, match="no whole numbers: a site .* another key"):
        decrypt(key, total.serialize())


def test_without_the_library_a_sentence_names_it(monkeypatch):
    usual = builtins.__import__

    def without(name: str, *arguments, **named):
        if name == "tenseal":
            raise ImportError("No module named 'tenseal'")
        return usual(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FederationError, match="need TenSEAL.*uv pip install tenseal"):
        new_key()
