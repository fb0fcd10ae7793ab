from __future__ import annotations

import numpy as np
import pytest
import tenseal

from federation.errors import FederationError
from federation.secure.homomorphic import Key, add, decrypt, encrypt

SIZE = 5000  # more than two ciphertexts


@pytest.fixture(scope="module")
def key() -> Key:
    return Key.new()


@pytest.mark.parametrize("sites", [2, 50])
def test_the_server_adds_what_it_cannot_read(key, sites):
    generator = np.random.default_rng(sites)
    vectors = generator.uniform(-1, 1, (sites, SIZE)) * [1.0] * SIZE
    total = add(key.public, [encrypt(key.secret, vector) for vector in vectors])
    np.testing.assert_allclose(decrypt(key.secret, total), vectors.sum(0), atol=1e-5)


def test_the_public_key_does_not_decrypt(key):
    message = encrypt(key.public, np.ones(10))
    np.testing.assert_allclose(decrypt(key.secret, message), np.ones(10), atol=1e-5)
    with pytest.raises(ValueError, match="secret"):
        decrypt(key.public, message)
    assert not tenseal.context_from(key.public).is_private()


def test_equal_vectors_have_unlike_ciphertexts(key):
    assert encrypt(key.secret, np.zeros(10)) != encrypt(key.secret, np.zeros(10))
    # Which numbers are zero does not show in the length: all ciphertexts have about the same.
    lengths = [len(encrypt(key.secret, vector)[0]) for vector in (np.zeros(2048), np.ones(2048))]
    assert abs(lengths[0] - lengths[1]) < 0.01 * lengths[0]


def test_messages_that_cannot_be_added_are_refused(key):
    message = encrypt(key.secret, np.ones(SIZE))
    with pytest.raises(FederationError, match="not of one length"):
        add(key.public, [message, message[:-1]])
    with pytest.raises(FederationError, match="no usable ciphertext"):
        add(key.public, [message, [b"noise"] * len(message)])
    other = encrypt(Key.new().secret, np.ones(10))
    assert not np.allclose(decrypt(key.secret, other)[:10], 1)
