"""Sights: cues are learned from frames, and `usual` is what the network says when it can see nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from avgeo.perceive import SightModel, auroc_matrix, train_sights, visible_sources
from avgeo.profiles import AtomSettings

SETTINGS = replace(AtomSettings(), sight_epochs=12, sight_batch=32)


def test_a_visible_cue_is_learned_and_survives_a_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    present = rng.random((200, 2)) < [0.5, 0.2]
    frames = rng.integers(0, 60, (200, 2, 48, 64, 3), dtype=np.uint8)
    frames[present[:, 0], :, 20:28, 40:48] = (250, 40, 40)  # a red sign on the right
    frames[present[:, 1], :, :16] += 120  # a bright sky
    model, history = train_sights(frames[:150], present[:150], ["sign:red", "sky:bright"], SETTINGS, 0)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    seen = model.look(frames[150:])
    assert np.diag(auroc_matrix(seen, present[150:])).min() > 0.95
    assert np.abs(seen).max() <= 2 and model.label(0) == "sign red"
    model.save_pretrained(tmp_path)
    assert np.array_equal(SightModel.from_pretrained(tmp_path).look(frames[150:]), seen)


def test_usual_is_the_confidence_of_a_network_that_can_see_nothing():
    present = np.zeros((400, 2), dtype=bool)
    present[:20, 0], present[:200, 1] = True, True  # one clip in twenty, one in two
    grey = np.full((400, 1, 48, 64, 3), 128, dtype=np.uint8)
    model, _ = train_sights(grey, np.random.default_rng(0).permutation(present), ["rare:x", "even:x"], SETTINGS, 0)
    assert np.abs(model.look(grey[:1])[0] - model.usual.numpy()).max() < 0.12


def test_visible_sources_are_one_row_per_clip_in_order():
    truth = pd.DataFrame(
        {
            "clip_id": ["b", "b", "a", "c"],
            "modality": ["visible"] * 3 + ["audible"],
            "source": ["s:1", "s:1", "t:2", "u:3"],
        }
    )
    names, present = visible_sources(truth, ["a", "b", "c"])
    assert names == ["s:1", "t:2"]
    assert present.tolist() == [[False, True], [True, False], [False, False]]
