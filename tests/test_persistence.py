"""Persistence: a moving mean over patches above a threshold, against its definition spelt out; and its calibration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avgeo.perceive import CoderError, Listener, SaeConfig, SparseAutoencoder, calibrated, persist

CODES = hnp.arrays(np.float32, (2, 9, 6), elements=st.sampled_from(np.float32([0, 0, 0, 0.25, 1, 2, 3e4])))


@given(CODES, st.integers(0, 10), st.sampled_from([0.0, 0.3, 1.1]))
def test_it_is_the_mean_of_the_neighbourhood_where_that_is_enough(codes, reach, threshold):
    found = persist(torch.from_numpy(codes), reach, threshold).numpy()
    for clip in range(2):
        for time in range(9):
            mean = codes[clip, max(0, time - reach) : time + reach + 1].astype(np.float64).mean(0)
            expected = np.where(mean >= threshold, mean, 0)
            clear = np.abs(mean - threshold) > 1e-9 * (1 + mean)
            assert found[clip, time][clear] == pytest.approx(expected[clear], rel=1e-5)
            assert not found[clip, time][mean == 0].any()  # what is silent all around is exactly silent


@given(CODES)
def test_without_reach_codes_come_back_and_neither_order_matters(codes):
    x = torch.from_numpy(codes)
    assert torch.equal(persist(x, 0), x)
    assert torch.allclose(persist(x.flip(-1), 3, 0.5).flip(-1), persist(x, 3, 0.5))
    assert torch.allclose(persist(x.flip(-2), 3).flip(-2), persist(x, 3))  # the past counts as the future


@pytest.mark.parametrize("wrong", [(-1, 0.0), (2, -0.1)])
def test_impossible_neighbourhoods_are_refused(wrong):
    with pytest.raises(CoderError, match=r"reach|threshold"):
        persist(torch.zeros(1, 3, 4), *wrong)


def test_a_listener_hears_no_clip_into_another_and_without_reach_is_its_coder():
    coder = SparseAutoencoder(SaeConfig(12, 30, active=4), seed=0)
    x = torch.randn(5, 7, 12, generator=torch.Generator().manual_seed(0))
    alone = Listener(coder).encode(x)
    assert torch.equal(alone.flatten(0, 1), coder.encode(x.flatten(0, 1)))
    listener = Listener(coder, 2, 0.1)
    heard = listener.encode(x)
    assert torch.equal(heard, persist(alone, 2, 0.1))
    assert torch.allclose(listener.encode(x[1:2]), heard[1:2], atol=1e-6)
    moments = listener.moments(x)
    assert torch.equal(moments, torch.where(heard > 0, alone, 0.0)) and int((moments > 0).sum()) < int(
        (heard > 0).sum()
    )
    assert torch.allclose(Listener(coder).decode(alone), coder.decode(alone.flatten(0, 1)).reshape(x.shape), atol=1e-6)


@pytest.mark.parametrize("at_a_time", [0.5, 2, 5])
def test_calibration_makes_moments_hold_so_many_atoms_and_no_more_than_there_are(at_a_time):
    coder = SparseAutoencoder(SaeConfig(12, 30, active=4), seed=0)
    x = torch.randn(70, 7, 12, generator=torch.Generator().manual_seed(0))
    listener = calibrated(coder, x, 3, at_a_time)
    assert float((listener.encode(x) > 0).sum(-1).double().mean()) == pytest.approx(at_a_time, abs=1e-2)
    assert calibrated(coder, x, 3, 30).threshold == 0
    with pytest.raises(CoderError, match="at_a_time"):
        calibrated(coder, x, 3, 0)
    with pytest.raises(CoderError, match="clips"):
        calibrated(coder, x[:0], 3, 2)
