from __future__ import annotations

import numpy as np
from scipy import stats

from federation.keystream import Keystream, derive

KEY = bytes(range(32))


def test_a_key_and_a_purpose_decide_the_stream():
    first = Keystream(KEY, "noise").words(1000)
    assert (Keystream(KEY, "noise").words(1000) == first).all()
    assert not (Keystream(KEY, "masks").words(1000) == first).any()
    assert not (Keystream(bytes(32), "noise").words(1000) == first).any()
    # RFC 8439's key stream of the derived key: any other reader of the protocol gets the same.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    cipher = Cipher(algorithms.ChaCha20(derive(KEY, "noise"), bytes(16)), mode=None)
    assert first.astype("<u4").tobytes() == cipher.encryptor().update(bytes(4000))


def test_a_stream_goes_on_where_it_was_left():
    stream = Keystream(KEY, "noise")
    parts = np.concatenate([stream.words(3), stream.words(0), stream.words(7)])
    assert (parts == Keystream(KEY, "noise").words(10)).all()


def test_uniform_and_gaussian_numbers_have_their_distributions():
    stream = Keystream(KEY, "noise")
    uniform = stream.uniform(100_000)
    assert uniform.min() > 0 and uniform.max() <= 1
    assert stats.kstest(uniform, "uniform").pvalue > 0.001
    normal = stream.gaussian(100_001)
    assert len(normal) == 100_001
    assert stats.kstest(normal, "norm").pvalue > 0.001
    half = len(normal) // 2
    assert abs(np.corrcoef(normal[:half], normal[half : 2 * half])[0, 1]) < 0.02
