"""Persistence: a moving mean over patches that keeps the strongest, against its definition spelt out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avgeo.perceive import CoderError, Listener, SaeConfig, SparseAutoencoder, persist

CODES = hnp.arrays(np.float32, (2, 9, 6), elements=st.sampled_from(np.float32([0, 0, 0, 0.25, 1, 2, 3e4])))


@given(CODES, st.integers(0, 10), st.integers(1, 7))
def test_it_is_the_mean_of_the_neighbourhood_and_its_strongest(codes, reach, limit):
    found = persist(torch.from_numpy(codes), reach, limit).numpy()
    for clip in range(2):
        for time in range(9):
            near = codes[clip, max(0, time - reach) : time + reach + 1].astype(np.float64)
            mean, got = near.mean(0), found[clip, time]
            kept = got > 0
            assert kept.sum() <= limit
            assert got[kept] == pytest.approx(mean[kept], rel=1e-5)
            assert not (got[mean == 0]).any()  # what is silent all around is exactly silent
            if (mean > 0).sum() <= limit:
                assert np.array_equal(kept, mean > 0)
            elif not kept.all():
                assert mean[~kept].max() <= mean[kept].min() * (1 + 1e-5)


@given(CODES)
def test_without_reach_codes_come_back_and_order_of_atoms_does_not_matter(codes):
    x = torch.from_numpy(codes)
    assert torch.equal(persist(x, 0, 6), x)
    turned = persist(x.flip(-1), 3, 6).flip(-1)
    assert torch.allclose(turned, persist(x, 3, 6))
    assert torch.allclose(persist(x.flip(-2), 3, 6).flip(-2), persist(x, 3, 6))  # the past counts as the future


@pytest.mark.parametrize("wrong", [(-1, 3), (2, 0)])
def test_impossible_neighbourhoods_are_refused(wrong):
    with pytest.raises(CoderError, match=r"reach|limit"):
        persist(torch.zeros(1, 3, 4), *wrong)


def test_a_listener_without_reach_is_its_coder_and_hears_no_clip_into_another():
    coder = SparseAutoencoder(SaeConfig(12, 30, active=4), seed=0)
    x = torch.randn(5, 7, 12, generator=torch.Generator().manual_seed(0))
    alone = Listener(coder).encode(x)
    assert torch.equal(alone.flatten(0, 1), coder.encode(x.flatten(0, 1)))
    heard = Listener(coder, 2, 6).encode(x)
    assert torch.equal(heard, persist(alone, 2, 6)) and int((heard > 0).sum(-1).max()) <= 6
    assert torch.allclose(Listener(coder, 2, 6).encode(x[1:2]), heard[1:2], atol=1e-6)
    assert torch.allclose(Listener(coder).decode(alone), coder.decode(alone.flatten(0, 1)).reshape(x.shape), atol=1e-6)
