from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from federation.keystream import Keystream
from federation.privacy import noise
from federation.privacy.noise import add_noise


def test_what_is_added_is_gaussian_of_the_deviation(monkeypatch):
    monkeypatch.setattr(noise, "CHUNK", 1000)  # several chunks, each with noise of its own
    values = np.full((500, 20), 3.0, np.float32)
    added = add_noise(values, 0.5, Keystream(bytes(32), "a")) - 3.0
    assert added.shape == values.shape
    assert (values == 3.0).all()
    assert stats.kstest(added.ravel() / 0.5, "norm").pvalue > 0.001
    assert not np.isin(added.ravel()[:1000], added.ravel()[1000:2000]).all()


@pytest.mark.parametrize("deviation", [1e-3, 0.7, 40.0])
def test_results_lie_on_one_grid_whatever_the_values(deviation):
    first = add_noise(np.zeros(1000), deviation, Keystream(bytes(32), "a"))
    second = add_noise(np.linspace(0, deviation / 3, 1000), deviation, Keystream(bytes(32), "b"))
    step = 2.0 ** np.floor(np.log2(deviation)) * 2.0**-20
    for noisy in (first, second):
        assert (noisy / step == np.round(noisy / step)).all()


def test_a_single_number_keeps_its_shape():
    assert add_noise(np.float32(1.0), 0.1, Keystream(bytes(32), "a")).shape == ()
