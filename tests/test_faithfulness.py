"""Whether an answer depends on what it cites: log-probabilities that are right, and a toy where the truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_reason_smollm import tiny
from tiny_qwen import examples as clips_of_noise
from tiny_qwen import sounds, tiny_omni, vl3, vl25

from avgeo.profiles import ReasonSettings
from avgeo.reason.faithfulness import (
    ALIKE,
    BY_BITS,
    PAIRED,
    TRUE_ONLY,
    Removals,
    cut,
    display,
    remove_cues,
    summarize,
    verdict,
)
from avgeo.reason.graft import graft
from avgeo.reason.model import build_model, to_images
from avgeo.reason.policy import Policy
from avgeo.reason.prompts import Answer, parse, question, questions, trace, without_cited
from avgeo.reason.propose import Reasoner
from avgeo.reason.qwen import vision_language
from avgeo.reason.sft import ExamplesError, corpus, traces, train_sft

SETTINGS = ReasonSettings(
    hidden=48, layers=2, heads=2, vocabulary=400, vision_hidden=16, vision_layers=1, image_px=32, patch_px=16,
    sft_steps=150, sft_batch=16, sft_learning_rate=5e-3, max_new_tokens=80,
)  # fmt: skip
PLACES = {"siren": ("Peru", -10.0, -75.0), "bell": ("Kenya", 0.0, 37.0), "surf": ("Japan", 36.0, 138.0)}


def toy(clips: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """One of three sounds tells the country; wind blows anywhere and is true; a third atom is noise, and not true.

    Nothing of it is in the order or the loudness. There are no frames.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for clip in range(clips):
        sound = str(rng.choice(list(PLACES)))
        country, latitude, longitude = PLACES[sound]
        names = [sound, "wind", f"noise {rng.integers(5)}"]
        rows.append({
            "clip_id": f"clip {clip}", "place_id": f"place {clip // 2}", "split": "train",
            "latitude_deg": latitude, "longitude_deg": longitude, "country": country, "region": "Earth",
            "heard": list(zip(names, rng.uniform(0.1, 3.0, 3), strict=True)), "told": {sound: 1.58}, "seen": {},
        })  # fmt: skip
    return pd.DataFrame(rows), np.zeros((clips, 0, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory) -> Reasoner:
    examples, frames = toy(300)
    policy = build_model(SETTINGS, corpus(examples), seed=0)
    return Reasoner(train_sft(policy, examples, frames, SETTINGS, 0, tmp_path_factory.mktemp("sft"))[0])


@pytest.fixture(scope="module")
def removed(reasoner: Reasoner) -> Removals:
    examples, frames = toy(40, seed=1)
    # wind is as true as the sound, but tells nothing; the policy was not taught to cite it
    told = [{**told, "wind": 0.0} for told in examples["told"]]
    return remove_cues(reasoner, examples.assign(told=told), frames)


# The toy


def test_what_decides_is_missed_and_noise_is_not(removed: Removals):
    table = removed.table
    assert len(table) == 120 and removed.left_out == {}
    assert table.groupby("clip_id")["cited"].sum().eq(1).all()
    assert table["cited"].equals(table["cue"].isin(PLACES))
    cited, rest = table[table["cited"]], table[~table["cited"]]
    assert cited["lost_nats"].median() > 1 and cited["shift_km"].median() > 1000
    assert rest["lost_nats"].abs().max() < 0.1 and rest["shift_km"].max() == 0
    assert table["true"].equals(~table["cue"].str.startswith("noise"))
    assert table["bits"].equals(table["cited"] * 1.58)
    assert [sorted(ranks) for _, ranks in table.groupby("clip_id")["rank"]] == [[0, 1, 2]] * 40


def test_the_summary_says_so(removed: Removals):
    found = summarize(removed, bootstrap=200).set_index(["measure", "comparison"])
    for measure, least in (("lost_nats", 1.0), ("shift_km", 1000.0)):
        for comparison in (PAIRED, TRUE_ONLY):
            row = found.loc[measure, comparison]
            assert row["low"] > least and row["low"] < row["value"] < row["high"] and row["clips"] == 40
        # here bits and citing are one and the same: nothing can tell them apart, and nothing is made up
        assert np.isnan(found.loc[(measure, ALIKE), "value"])
    assert found.loc[("lost_nats", BY_BITS), "value"] > 0.8 and found.loc[("lost_nats", BY_BITS), "atoms"] == 80


def test_answers_at_hand_spare_a_run_and_must_be_to_these_clips(reasoner: Reasoner):
    examples, frames = toy(6, seed=2)
    answers = reasoner.propose(examples, frames)
    first, again = (remove_cues(reasoner, examples, frames, answers=given) for given in (None, answers))
    pd.testing.assert_frame_equal(first.table, again.table)
    with pytest.raises(ExamplesError, match="not to these clips"):
        remove_cues(reasoner, examples, frames, answers=answers[::-1])
    with pytest.raises(ExamplesError, match="place_id"):
        remove_cues(reasoner, examples.drop(columns="place_id"), frames)
    with pytest.raises(ExamplesError, match="told must map labels to bits"):
        remove_cues(reasoner, examples.assign(told=[["siren"]] * 6), frames)


def test_clips_that_compare_nothing_are_counted_by_reason(reasoner: Reasoner):
    examples, frames = toy(5, seed=3)
    sound = next(iter(examples["told"][0]))

    def said(cited: list[str]) -> str:
        return trace([(name, 1.0) for name in cited], cited, [], "Peru", "Earth", -10, -75)

    names = [[name for name, _ in heard] for heard in examples["heard"]]
    examples["heard"] = [*examples["heard"][:4], []]
    completions = [said([sound]), "no answer", said(["ghost"]), said(names[3]), said([])]
    answers = pd.DataFrame({"clip_id": examples["clip_id"], "completion": completions})
    answers[["latitude_deg", "longitude_deg", "parsed"]] = [-10.0, -75.0, True]
    found = remove_cues(reasoner, examples, frames, answers=answers)
    assert found.table["clip_id"].unique().tolist() == ["clip 0"]
    assert found.left_out == {
        "the answer does not parse": 1, "none of its atoms is cited": 1, "all are cited": 1, "no atom is named": 1,
    }  # fmt: skip
    none = remove_cues(reasoner, examples[4:], frames[4:], answers=answers[4:])
    assert none.table.empty and summarize(none, bootstrap=10)["value"].isna().all()


# The statistics


def planted(effect: float, confounded: bool, clips: int = 200) -> Removals:
    """Removals in which a bit loses 2 nats, truth 1, loudness 1, and being cited `effect`."""
    rng = np.random.default_rng(0)
    rows = []
    for clip in range(clips):
        true, bits = rng.random(5) < 0.5, rng.exponential(1.0, 5)
        level = rng.choice(["strong", "clear", "faint"], 5)
        # cited are, if confounded, the truer ones that tell more
        cited = (true & (bits > 0.5) if confounded else rng.random(5) < 0.5) ^ (rng.random(5) < 0.15)
        lost = (
            effect * cited + 2.0 * bits * true + true + (level == "strong") + rng.normal(3, 1) + rng.normal(0, 0.5, 5)
        )
        rows.append(pd.DataFrame({
            "clip_id": f"{clip}", "place_id": f"{clip // 3}", "cue": list("abcde"), "cited": cited, "true": true,
            "bits": bits * true, "rank": range(5), "level": level, "lost_nats": lost, "shift_km": 100 * lost,
        }))  # fmt: skip
    return Removals(pd.concat(rows, ignore_index=True), {})


def test_cues_alike_tells_citing_from_what_is_cited():
    for effect, confounded in ((0.0, True), (0.7, True), (0.7, False)):
        found = summarize(planted(effect, confounded), bootstrap=200).set_index(["measure", "comparison"])
        raw, alike = (found.loc["lost_nats", name] for name in (PAIRED, ALIKE))
        assert alike["low"] < effect < alike["high"] and alike["high"] - alike["low"] < 0.4
        assert (raw["low"] > effect + 0.5) == confounded
        assert found.loc[("shift_km", ALIKE), "value"] == pytest.approx(100 * alike["value"])


def test_the_verdict_says_what_the_intervals_say():
    said = [verdict(summarize(planted(effect, True), bootstrap=200)) for effect in (0.0, 0.7)]
    assert "positive as cues come, not to be told from zero with cues alike" in said[0]
    assert "does not show that answers depend" in said[0] and "positive, also with cues alike" in said[1]
    assert "So answers depend on what they cite, beyond" in said[1]
    nothing = planted(0.0, True, clips=3)
    assert "nothing can be compared" in verdict(summarize(replace(nothing, table=nothing.table[:0]), bootstrap=9))
    still = planted(0.7, True)
    still = replace(still, table=still.table.assign(shift_km=np.nan))
    assert " nan " not in verdict(summarize(still, bootstrap=50))
    shown = display(summarize(planted(0.7, True), bootstrap=50))
    assert shown.columns.tolist() == ["comparison", "nats lost", "km moved", "clips", "atoms"]
    assert shown["comparison"].tolist() == [PAIRED, TRUE_ONLY, ALIKE, BY_BITS] and "[" in shown["km moved"][0]


def test_a_pin_that_does_not_parse_is_left_out_of_the_distances_alone():
    removals = planted(0.7, True, clips=40)
    removals.table.loc[removals.table["clip_id"] == "0", "shift_km"] = np.nan
    found = summarize(removals, bootstrap=50).set_index(["measure", "comparison"])
    assert found.loc[("lost_nats", ALIKE), "clips"] == 40 and found.loc[("shift_km", ALIKE), "clips"] == 39
    assert found.loc[("shift_km", PAIRED), "value"] < np.inf


# What is written without a cue


def test_the_other_atoms_are_written_as_before():
    heard = [("surf", 3.0), ("bell", 1.5), ("wind", 0.5)]
    assert question(heard) == "strong: surf\nclear: bell\nfaint: wind\nWhere was this recorded?"
    assert question(heard, without=["Surf"]) == "clear: bell\nfaint: wind\nWhere was this recorded?"
    assert question(heard, without=[]) == question(heard)
    assert question(heard, without=["surf", "bell", "wind"]).startswith("heard none\n")
    many = [(f"atom {number}", 9.0 - number) for number in range(9)]
    assert "atom 8" not in question(many, without=["atom 0"])
    table = pd.DataFrame({"heard": [heard, heard], "without": [["bell"], None]})
    assert questions(table) == [question(heard, without=["bell"]), question(heard)]


def test_the_thought_loses_the_cue_and_nothing_else():
    thought = "<think>heard: siren:yelp; bell\nseen: bell; snow</think><answer>"
    assert without_cited(thought, "Siren yelp") == "<think>heard: bell\nseen: bell; snow</think><answer>"
    assert without_cited(thought, "bell") == "<think>heard: siren:yelp\nseen: bell; snow</think><answer>"
    assert without_cited("<think>heard: bell\nI heard: bell", "bell") == "<think>heard: none\nI heard: bell"
    assert without_cited(thought, "surf") == thought


@pytest.mark.parametrize("thought", ["seen: x\nheard: wind; rain", "heard: rain", "seen: x\x0bheard: rain\nsaid: so",
                                     "heard: rain; Rain\r\nheard: wind"])  # fmt: skip
def test_what_parse_finds_cited_is_gone_wherever_it_stood(thought):
    """The last line of a thought runs into the tag that ends it, and parse knows more line breaks than one."""
    answer = '<answer>{"country": "A", "region": "B", "latitude": 1.0, "longitude": 2.0}</answer>'
    whole = f"<think>{thought}</think>{answer}"
    before, rest = parse(whole), parse(without_cited(whole, "rain"))
    assert isinstance(before, Answer) and isinstance(rest, Answer)
    assert "rain" in before.heard and [cue for cue in before.heard if cue.lower() != "rain"] == list(rest.heard)


# Log-probabilities

TOY = clips_of_noise(6, frames=2)
BUILT = {
    "scratch": lambda: build_model(replace(SETTINGS, hidden=32), corpus(TOY[0]), seed=0),
    "grafted": lambda: graft(*tiny(), SETTINGS, seed=0),
    "qwen2.5-vl": lambda: vision_language(vl25()),
    "qwen3-vl": lambda: vision_language(vl3()),
    "omni": tiny_omni,
}


def plain(policy: Policy, row: int, context: str, answer: str, waveform: np.ndarray | None) -> float:
    """One row, no padding, no cache: the log-softmax of the tokens of the answer."""
    processor: Any = policy.processor
    model: Any = policy.model
    images = [to_images(clip, policy.image_px) for clip in TOY[1][row : row + 1]]
    senses = [{"type": "image"}] * 2 + ([] if waveform is None else [{"type": "audio"}])
    chat = [{"role": "user", "content": [*senses, {"type": "text", "text": questions(TOY[0])[row]}]}]
    text = processor.apply_chat_template([chat], add_generation_prompt=True, tokenize=False)[0]
    heard = {} if waveform is None else {"audio": [waveform]}
    inputs = processor(
        images=images, text=[text + context + answer], add_special_tokens=False, return_tensors="pt", **heard
    )
    length = len(processor.tokenizer(answer, add_special_tokens=False)["input_ids"])
    with torch.inference_mode():
        logits = model(**inputs).logits[0, -length - 1 : -1].log_softmax(-1)
    return float(logits.gather(1, inputs["input_ids"][0, -length:, None]).sum())


@pytest.mark.parametrize("size", BUILT)
def test_log_prob_is_that_of_a_plain_pass_alone_and_in_any_batch(size: str):
    policy = BUILT[size]()
    reasoner = Reasoner(policy)
    sound = sounds(6, equal=True) if policy.sample_rate_hz else None
    halves = [cut(text) for text in traces(TOY[0])]
    contexts = [f"<think>heard: {'x' * row}; " + before[15:] for row, (before, _) in enumerate(halves)]
    answers = [after + "!" * (row % 3) for row, (_, after) in enumerate(halves)]  # lengths differ, in front and behind
    found = reasoner.log_prob(*TOY, contexts, answers, waveforms=sound, batch=6)
    assert found.shape == (6,) and found.dtype == np.float64 and (found < 0).all()
    one = reasoner.log_prob(*TOY, contexts, answers, waveforms=sound, batch=1)
    np.testing.assert_allclose(found, one, rtol=1e-5)
    expected = [
        plain(policy, row, contexts[row], answers[row], None if sound is None else sound[row]) for row in range(6)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len(set(found.round(3))) == 6


def test_log_prob_of_all_there_could_be_is_one(reasoner: Reasoner):
    """Over every token that could come next, probabilities add up."""
    tokenizer: Any = reasoner.policy.processor.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    singles = [text for text in tokenizer.get_vocab() if text.isascii() and text.isalpha()]
    examples, frames = toy(1, seed=4)
    some = examples.iloc[[0] * len(singles)].assign(clip_id=range(len(singles)))
    found = reasoner.log_prob(some, frames[[0] * len(singles)], ["<think>heard: "] * len(singles), singles)
    assert 0.9 < np.exp(found).sum() <= 1 + 1e-6


def test_a_trace_is_cut_where_the_tokenizer_cuts(reasoner: Reasoner):
    tokenizer: Any = reasoner.policy.processor.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    examples, _ = toy(10, seed=5)
    for text in traces(examples):
        before, after = cut(text)
        assert before + after == text and before.endswith('"country": "') and after.startswith(parsed(text).country)
        ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after, text)]
        assert ids[0] + ids[1] == ids[2]
    odd = '<think>x</think> <answer>{"latitude": 1, "longitude": 2, "country": "a", "region": "b"}</answer>'
    assert cut(odd) == ("<think>x</think> <answer>", odd.partition("<answer>")[2])


def parsed(text: str) -> Answer:
    answer = parse(text)
    assert isinstance(answer, Answer)
    return answer


def test_log_prob_wants_something_to_score(reasoner: Reasoner):
    examples, frames = toy(2)
    for contexts, answers in ((["a"], ["b", "c"]), (["a", "a"], ["b"]), (["a", "a"], ["b", ""])):
        with pytest.raises(ValueError, match="one context and one answer"):
            reasoner.log_prob(examples, frames, contexts, answers)
    assert reasoner.log_prob(examples[:0], frames[:0], [], []).shape == (0,)
