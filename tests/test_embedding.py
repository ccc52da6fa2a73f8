"""A corpus embedded in shards: the same as clip by clip, resumed, verified, and honest about what failed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfiles
import torch
from safetensors.numpy import load_file
from tiny import pictures, silent_video
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from avgeo.clips import read_audio, write_clip
from avgeo.engine import EngineError
from avgeo.perceive import embed_clip, embedding
from avgeo.perceive.embedding import Corpus, EmbeddingError, Features, embed_corpus
from avgeo.perceive.encoders import EncoderError
from avgeo.profiles import AtomSettings

RATE = 16_000
SETTINGS = AtomSettings(mels=32, frame_width=32, frame_height=24)
SECONDS = (1.5, 0.7, 2.0, 1.0, 0.05, 1.5)


def manifest_of(files: list[str], seconds: list[float]) -> pd.DataFrame:
    return pd.DataFrame({
        "clip_id": [f"c{number}" for number in range(len(files))], "path": files, "duration_s": seconds,
        "latitude_deg": 0.0, "longitude_deg": 0.0, "place_id": "p", "split": "train", "source": "test",
        "recorded_at": None, "url": None, "licence": None, "attribution": None,
    })  # fmt: skip


def noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Six films with sound, of different lengths."""
    root = tmp_path_factory.mktemp("films")
    for number, seconds in enumerate(SECONDS):
        write_clip(root / f"{number}.mp4", pictures(3, number), 4, noise(seconds, number), RATE)
    return root


@pytest.fixture
def manifest(films) -> pd.DataFrame:
    return manifest_of([f"{number}.mp4" for number in range(len(SECONDS))], list(SECONDS))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("features-*.safetensors"))


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- what is written ---


def test_a_corpus_is_its_clips(films, manifest, tmp_path):
    corpus = embed_corpus(manifest, films, SETTINGS, tmp_path / "out", engine="local", shard_s=3.0)
    # 1.5 + 0.7, 2.0 + 1.0, 0.05 + 1.5 (with the one before it, more than 3 s)
    assert corpus.index["shard"].tolist() == [0, 0, 1, 1, 2, 2]
    assert corpus.index["clip_id"].tolist() == manifest["clip_id"].tolist() and not len(corpus.failed)
    assert corpus.index["frame_s"].unique() == pytest.approx([0.16]) and set(corpus.index["encoder"]) == {"log-mel"}
    found = list(corpus.frames_of())
    for number, frames in enumerate(found):
        alone = embed_clip(films / f"{number}.mp4", SETTINGS, SECONDS[number])
        np.testing.assert_array_equal(frames, alone.patches.astype(np.float16))
        row = corpus.index.iloc[number]
        shard = load_file(tmp_path / "out" / f"features-{row['shard']:05d}.safetensors")
        np.testing.assert_array_equal(shard["sight"][row["sight"]], alone.frames)
        np.testing.assert_array_equal(shard["sound"][row["offset"] :][: row["count"]], frames)
    assert [len(frames) for frames in found] == corpus.index["count"].tolist() == [9, 4, 12, 6, 1, 9]
    some = list(corpus.frames_of([4, 0, 5]))
    assert [np.array_equal(part, found[row]) for part, row in zip(some, (4, 0, 5), strict=True)] == [True] * 3
    assert list(corpus.frames_of([])) == []

    features = Features.load(tmp_path / "out")
    assert features.clip_id == manifest["clip_id"].tolist()
    assert (
        features.patches.shape == (6, 1, SETTINGS.patch_frames * SETTINGS.mels) and features.patches.dtype == np.float16
    )
    assert features.frames.shape == (6, 2, 24, 32, 3) and features.frames.dtype == np.uint8
    np.testing.assert_array_equal(features.patches, np.stack([frames[:1] for frames in found]))
    np.testing.assert_array_equal(features.frames[5], embed_clip(films / "5.mp4", SETTINGS).frames)
    assert (features.frame_s, features.encoder) == (pytest.approx(0.16), "log-mel")
    assert not list((tmp_path / "out").glob("*.partial"))


def test_engines_and_shards_change_nothing(films, manifest, tmp_path):
    one = embed_corpus(manifest, films, SETTINGS, tmp_path / "one", workers=1)
    two = embed_corpus(manifest, films, SETTINGS, tmp_path / "two", workers=2, shard_s=1.0)
    assert len(shards(tmp_path / "one")) == 1 and len(shards(tmp_path / "two")) == 6
    for first, second in zip(one.frames_of(), two.frames_of(), strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(one.load().frames, two.load().frames)


def test_a_pretrained_encoder_by_its_folder(films, manifest, tmp_path):
    torch.manual_seed(0)
    Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8, 8),
            conv_kernel=(10, 8, 8), conv_stride=(5, 8, 8), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
        )
    ).save_pretrained(tmp_path / "ears")  # fmt: skip
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "ears")
    name = f"hf:{tmp_path / 'ears'}"
    corpus = embed_corpus(manifest, films, SETTINGS, tmp_path / "out", encoder=name, engine="local")
    assert corpus.card["dim"] == 16 and corpus.index["count"].tolist() == [75, 35, 100, 50, 2, 75]
    audio = torch.from_numpy(read_audio(films / "2.mp4", RATE))
    direct = embedding.get_encoder(name, SETTINGS)(audio).numpy().astype(np.float16)
    np.testing.assert_allclose(next(corpus.frames_of([2])), direct, atol=2e-3)
    assert Features.load(tmp_path / "out").patches.shape == (6, 2, 16)


# --- going on ---


def test_an_interrupted_run_goes_on_where_it_was(films, manifest, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    embed_corpus(manifest, films, SETTINGS, whole, engine="local", shard_s=3.0)
    embed, done = embedding._embed, []

    def breaks(job):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(job.path.name)
        return embed(job)

    monkeypatch.setattr(embedding, "_embed", breaks)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(manifest, films, SETTINGS, out, engine="local", shard_s=3.0)
    assert len(shards(out)) == 1
    with pytest.raises(EmbeddingError, match="not finished; run the same"):
        Features.load(out)
    untouched = shards(out)[0].stat().st_mtime_ns

    def counts(job):
        done.append(job.path.name)
        return embed(job)

    done.clear()
    monkeypatch.setattr(embedding, "_embed", counts)
    embed_corpus(manifest, films, SETTINGS, out, engine="local", shard_s=3.0)
    assert done == ["2.mp4", "3.mp4", "4.mp4", "5.mp4"]
    assert shards(out)[0].stat().st_mtime_ns == untouched
    assert everything(out) == everything(whole)
    done.clear()
    embed_corpus(manifest, films, SETTINGS, out, engine="local", shard_s=3.0)
    assert done == [] and everything(out) == everything(whole)


def test_a_folder_of_something_else_is_refused(films, manifest, tmp_path):
    out = tmp_path / "out"
    embed_corpus(manifest, films, SETTINGS, out, engine="local")
    before = everything(out)
    for settings, table, shard_s, what in (
        (AtomSettings(mels=16), manifest, embedding.SHARD_S, "settings"),
        (SETTINGS, manifest.iloc[::-1], embedding.SHARD_S, "manifest"),
        (SETTINGS, manifest.assign(duration_s=1.0), embedding.SHARD_S, "manifest"),
        (SETTINGS, manifest, 7.0, "shard_s"),
    ):
        with pytest.raises(EmbeddingError, match=rf"was begun with another .*{what}.*delete this folder"):
            embed_corpus(table, films, settings, out, engine="local", shard_s=shard_s)
    assert everything(out) == before
    (out / "embedding.json").unlink()
    with pytest.raises(EmbeddingError, match=r"no embedding\.json says which"):
        embed_corpus(manifest, films, SETTINGS, out, engine="local")


def test_a_damaged_shard_is_named(films, manifest, tmp_path):
    embed_corpus(manifest, films, SETTINGS, tmp_path, engine="local")
    shards(tmp_path)[0].write_bytes(b"damaged")
    with pytest.raises(EmbeddingError, match=r"features-00000\.safetensors: damaged .*delete it and run"):
        embed_corpus(manifest, films, SETTINGS, tmp_path, engine="local")


# --- what cannot be embedded ---


def test_clips_that_fail_are_listed_and_the_rest_is_there(films, tmp_path, monkeypatch):
    root = tmp_path / "media"
    root.mkdir()
    (root / "good.mp4").write_bytes((films / "0.mp4").read_bytes())
    (root / "text.mp4").write_text("this is not a film")
    silent_video(root / "mute.mp4")
    soundfiles.write(root / "sound.wav", noise(1.0, 1), RATE)
    soundfiles.write(root / "quiet.wav", np.zeros(RATE, np.float32), RATE)
    names = ["text.mp4", "good.mp4", "gone.mp4", "mute.mp4", "sound.wav", "quiet.wav"]
    table = manifest_of(names, [1.0, 1.5, 1.0, 1.5, 1.0, 1.0])
    corpus = embed_corpus(table, root, SETTINGS, tmp_path / "out", workers=2, shard_s=1.2)
    reasons = dict(zip(corpus.failed["clip_id"], corpus.failed["reason"], strict=True))
    assert list(reasons) == ["c0", "c2", "c3"]
    assert "no media file" in reasons["c0"] and "no such file" in reasons["c2"] and "no sound" in reasons["c3"]
    assert corpus.index["clip_id"].tolist() == ["c1", "c4", "c5"]
    assert [sight >= 0 for sight in corpus.index["sight"]] == [True, False, False]
    assert not next(corpus.frames_of([2])).any()  # digital silence is sound, of zeros
    with pytest.raises(EmbeddingError, match="2 of 3 clips have no picture; curate with --need sound,picture"):
        corpus.load()
    with pytest.raises(EmbeddingError, match=r"3 of 6 clips cannot be embedded, first c0: .*no media file"):
        embed_corpus(table, root, SETTINGS, tmp_path / "out", workers=2, shard_s=1.2, complete=True)

    sounds = embed_corpus(table.iloc[4:], root, SETTINGS, tmp_path / "sounds", engine="local", complete=True).load()
    assert sounds.patches.shape[:2] == (2, 6) and sounds.frames.shape == (2, 0, 24, 32, 3)
    nothing = embed_corpus(table.iloc[[0, 2]], root, SETTINGS, tmp_path / "nothing", engine="local")
    assert len(nothing.failed) == 2 and list(nothing.frames_of()) == []
    with pytest.raises(EmbeddingError, match="none of its clips could be embedded"):
        nothing.load()


def test_frames_too_large_for_float16_fail(films, manifest, tmp_path, monkeypatch):
    class Loud:
        name, sample_rate_hz, dim, frame_s = "loud", RATE, 1, 1.0

        def __call__(self, audio: torch.Tensor) -> torch.Tensor:
            return torch.full((1, 1), 1e5)

    monkeypatch.setattr(embedding, "_encoder", lambda *_: Loud())
    corpus = embed_corpus(manifest, films, SETTINGS, tmp_path, engine="local")
    assert len(corpus.failed) == 6 and corpus.failed["reason"].str.contains("range of float16").all()


def test_arguments_that_cannot_be_used(films, manifest, tmp_path):
    with pytest.raises(EmbeddingError, match="holds no clip"):
        embed_corpus(manifest.iloc[:0], films, SETTINGS, tmp_path / "a")
    with pytest.raises(EmbeddingError, match=r"shard_s=0\.0"):
        embed_corpus(manifest, films, SETTINGS, tmp_path / "a", shard_s=0.0)
    with pytest.raises(EncoderError, match="unknown encoder 'x'"):
        embed_corpus(manifest, films, SETTINGS, tmp_path / "a", encoder="x")
    with pytest.raises(EngineError, match="'x'"):
        embed_corpus(manifest, films, SETTINGS, tmp_path / "a", engine="x")
    assert not (tmp_path / "a").exists()
    with pytest.raises(EmbeddingError, match="no embedded corpus there"):
        Corpus(tmp_path).card  # noqa: B018
    (tmp_path / "embedding.json").write_text(json.dumps({}))
    with pytest.raises(EmbeddingError, match="not finished"):
        Features.load(tmp_path)


def test_real_recordings_are_embedded(mirror, tmp_path):
    files = sorted((mirror / "esc10").rglob("*.ogg"))[:4] or sorted((mirror / "xeno_canto").glob("*.mp3"))[:2]
    if not files:
        pytest.skip("the mirror holds no recordings")
    table = manifest_of([str(file.relative_to(mirror)) for file in files], [5.0] * len(files))
    corpus = embed_corpus(table, mirror, AtomSettings(), tmp_path, workers=1, complete=True)
    assert len(corpus.index) == len(files) and all(np.isfinite(frames).all() for frames in corpus.frames_of())
