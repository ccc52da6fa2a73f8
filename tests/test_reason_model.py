"""The untrained reasoner: size, tokenizer, chat template, frames that reach the logits, the way to disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from avgeo.profiles import ReasonSettings
from avgeo.reason.model import IMAGE, build_model, build_tokenizer, to_images
from avgeo.reason.optimizer import MuonAdamW, orthogonalize
from avgeo.reason.policy import ModelError
from avgeo.reason.prompts import SKELETON, question, trace
from avgeo.reason.sizes import load_policy, save_policy

PROMPT = question([("siren:two_tone", 2.0), ("rain", 1.0)])
TRACE = trace([("rain", 1.0)], ["rain"], ["driving side left"], "Kenya", "Eastern Africa", -1.3, 36.8)
CORPUS = [PROMPT, TRACE] * 20
SMALL = ReasonSettings(hidden=32, layers=2, heads=2, vocabulary=320, vision_hidden=16, vision_layers=1, image_px=32)


def encode(policy, frames, texts=(PROMPT,)):
    """Processor inputs of one clip per text, all with the same frames (F, H, W, 3)."""
    images, processor = to_images(frames, policy.image_px), policy.processor
    content = [{"type": "image"}] * len(images)
    chats = [[{"role": "user", "content": [*content, {"type": "text", "text": text}]}] for text in texts]
    prompts = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    return processor(images=[images] * len(texts), text=prompts, padding=True, return_tensors="pt")


@pytest.fixture(scope="module")
def reasoner():
    return build_model(SMALL, CORPUS, seed=0)


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)


def test_the_default_size_is_small():
    model = build_model(ReasonSettings(), CORPUS, seed=0).model
    assert 1_000_000 < sum(weight.numel() for weight in model.parameters()) < 1_600_000
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_the_seed_fixes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (build_model(SMALL, CORPUS, seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("text", [TRACE, "São Tomé; 東京; 🦗 \t x", "latitude 12.34567, -0.5"])
def test_tokenizing_loses_nothing(reasoner, text):
    tokenizer = reasoner.processor.tokenizer
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_digits_stay_apart_cues_do_not_merge_and_the_skeleton_is_whole(reasoner):
    tokenizer = build_tokenizer(600, CORPUS)
    pieces = [tokenizer.decode([token]) for token in tokenizer(TRACE)["input_ids"]]
    assert set(SKELETON) <= set(pieces)
    assert all(len(piece) == 1 for piece in pieces if any(sign.isdigit() for sign in piece))
    assert "driving side left" in pieces and "Eastern Africa" in pieces
    pieces = [tokenizer.decode([token]) for token in tokenizer("strong: rain; rain")["input_ids"]]
    assert pieces.count("rain") == 2
    assert not any("; r" in piece for piece in pieces)


def test_a_prompt_opens_its_completion(reasoner):
    processor = reasoner.processor
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    opened = processor.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False)
    assert processor.apply_chat_template(chat, tokenize=False) == opened + "b<|end|>"


def test_one_soft_token_per_patch_of_every_frame(reasoner, frames):
    inputs = encode(reasoner, frames)
    image = reasoner.processor.tokenizer.convert_tokens_to_ids(IMAGE)
    assert int((inputs["input_ids"] == image).sum()) == 2 * reasoner.model.config.image_seq_length == 2 * 4
    assert inputs["pixel_values"].shape == (2, 3, 32, 32)
    assert inputs["pixel_values"].abs().max() <= 1


def test_frames_and_their_order_reach_the_logits(reasoner, frames):
    with torch.inference_mode():
        plain, swapped, other = (
            reasoner.model(**encode(reasoner, clip)).logits[:, -1]
            for clip in (frames, frames[::-1].copy(), 255 - frames)
        )
    assert (plain - other).abs().max() > 1e-5
    assert (plain - swapped).abs().max() > 1e-6


def test_left_padding_does_not_change_the_logits(reasoner, frames):
    with torch.inference_mode():
        alone = reasoner.model(**encode(reasoner, frames)).logits[0, -1]
        padded = reasoner.model(**encode(reasoner, frames, texts=(PROMPT, PROMPT + " " * 30 + "really?"))).logits[0, -1]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=1e-4)


def test_saved_and_loaded_it_is_the_same(reasoner, frames, tmp_path):
    save_policy(reasoner, tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]
    again = load_policy(tmp_path)
    before, after = encode(reasoner, frames), encode(again, frames)
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.inference_mode():
        assert torch.equal(reasoner.model(**before).logits, again.model(**after).logits)
    assert replace(again, model=None, processor=None) == replace(reasoner, model=None, processor=None)
    assert again.whole and again.model.generation_config.suppress_tokens == list(reasoner.silent)
    assert again.model.generation_config.max_new_tokens == SMALL.max_new_tokens


def test_errors_name_the_cure(tmp_path):
    with pytest.raises(ModelError, match="avgeo train"):
        load_policy(tmp_path)
    with pytest.raises(ModelError, match="vocabulary"):
        build_tokenizer(100, CORPUS)
    for wrong in ({"hidden": 30}, {"image_px": 30}):
        with pytest.raises(ModelError, match=f"{next(iter(wrong))} must be divisible"):
            build_model(ReasonSettings(**wrong), CORPUS, seed=0)


@pytest.mark.parametrize("shape", [(3, 20, 50), (2, 50, 20), (1, 16, 16)])
def test_orthogonalizing_keeps_the_singular_vectors_and_levels_the_values(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    levelled = left.mT @ orthogonalize(matrices) @ right.mT  # diagonal: the new singular values
    values = torch.diagonal(levelled, dim1=-2, dim2=-1)
    assert values.min() > 0.3 and values.max() < 1.3
    torch.testing.assert_close(levelled, torch.diag_embed(values), atol=1e-4, rtol=0)


def test_the_adam_half_is_torchs_adamw_and_every_weight_is_in_one_half(reasoner):
    model = build_model(SMALL, CORPUS, seed=0).model
    ours = MuonAdamW(model, lr=1e-2)
    muon, rest = (group["params"] for group in ours.param_groups)
    assert len(muon) + len(rest) == len(list(model.parameters()))
    assert all(weight.ndim == 2 for weight in muon)
    assert any(weight is model.get_input_embeddings().weight for weight in rest)
    copies = [weight.detach().clone().requires_grad_() for weight in rest]
    theirs = torch.optim.AdamW(copies, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for weight, copy in zip(rest, copies, strict=True):
            weight.grad = copy.grad = torch.randn(weight.shape, generator=generator)
        ours.step()
        theirs.step()
    for weight, copy in zip(rest, copies, strict=True):
        torch.testing.assert_close(weight.detach(), copy.detach(), atol=1e-6, rtol=1e-5)
