"""Clips as a phone would have filmed AVG-Sim, and what can be wrong with their picture and sound.

AVG-Sim draws a scene from a tripod without noise. A phone is held by hand and its sensor is noisy, so `film` looks at
the scene through a window that wanders by some pixels and adds noise before the codec sees it: without both, half of
AVG-Sim's clips would be stills.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.codec.context import Flags
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from avgeo.profiles import WorldSettings
from avgeo.world.plan import ClipPlan, render_frames, render_sound

WIDTH, HEIGHT, FPS, RATE_HZ = 320, 240, 8, 16_000
_WANDER_PX = 12  # how far the window may lie from the middle
SCENE = WorldSettings(
    duration_s=4.0, sample_rate_hz=RATE_HZ, width=WIDTH + 2 * _WANDER_PX, height=HEIGHT + 2 * _WANDER_PX, fps=FPS
)
_TRIPOD_SHARE = 0.15
_STILL = 0.05  # mean absolute difference of frames, below which a scene does not move by itself


@dataclass(frozen=True)
class Take:
    """Picture and sound (mono at 16 kHz, in [-1, 1]) of one recording."""

    frames: UInt8[np.ndarray, "frames height width 3"]
    sound: Float32[np.ndarray, " samples"]


def film(plan: ClipPlan, rng: np.random.Generator) -> Take:
    """A plan of AVG-Sim, filmed: 32 frames of 320 x 240 pixels and 4 s of sound.

    The hand's drift is an Ornstein-Uhlenbeck walk of 1 to 4 pixels (standard deviation), the sensor's noise is Gaussian
    of 1 to 3.5 grey levels. A seventh of those scenes that move by themselves is filmed from a tripod.
    """
    scene = render_frames(plan, SCENE)
    moves = float(np.abs(np.diff(scene[:, ::4, ::4].astype(np.int16), axis=0)).mean()) > _STILL
    shake_px = 0.0 if moves and rng.random() < _TRIPOD_SHARE else rng.uniform(1, 4)
    walk = np.zeros((len(scene), 2))
    for step in range(1, len(scene)):
        walk[step] = 0.85 * walk[step - 1] + 0.53 * rng.normal(size=2)  # of unit variance: 0.85² + 0.53² = 1
    offsets = np.clip(np.rint(_WANDER_PX + shake_px * walk), 0, 2 * _WANDER_PX).astype(int)
    window = np.stack([picture[y : y + HEIGHT, x : x + WIDTH] for picture, (y, x) in zip(scene, offsets, strict=True)])
    noise = rng.standard_normal(window.shape[:3], dtype=np.float32)[..., None] * np.float32(rng.uniform(1, 3.5))
    frames = np.clip(window + noise, 0, 255).astype(np.uint8)
    return Take(frames, render_sound(plan, SCENE))


# --- files ---


@dataclass(frozen=True)
class Coding:
    """How a take becomes a file. `quality` is x264's and x265's rate factor, or a quantiser from 1 for the others."""

    container: str = "mov"
    codec: str = "libx264"
    quality: int = 26
    sound_codec: str = "aac"
    sound_bit_rate: int = 64_000
    sound_rate_hz: int = RATE_HZ
    fps: Fraction = Fraction(FPS)
    front: bool = True  # moov before the media
    mdta: bool = True  # tags as Apple's phones write them

    def __str__(self) -> str:
        return f"{self.codec} {self.quality} and {self.sound_codec} {self.sound_bit_rate // 1000}k in {self.container}"


def _options(coding: Coding) -> dict[str, str]:
    quality = str(coding.quality)
    match coding.codec:
        case "libx264":
            return {"preset": "veryfast", "crf": quality, "threads": "1", "x264-params": "mbtree=0:rc-lookahead=0"}
        case "libx265":
            return {"preset": "ultrafast", "x265-params": f"crf={quality}:pools=none:frame-threads=1:log-level=none"}
        case "libvpx":
            return {"deadline": "realtime", "cpu-used": "8", "crf": quality, "b": "2M", "threads": "1"}
        case _:
            return {"qmin": quality, "qmax": quality, "threads": "1", "strict": "unofficial"}


def encoded(take: Take, coding: Coding, tags: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a media file: the same for the same input and codecs."""
    with tempfile.TemporaryDirectory() as folder:  # to put moov in front, FFmpeg reads back what it wrote
        file = Path(folder, "take")
        _write(file, take, coding, tags or {})
        return file.read_bytes()


def _write(file: Path, take: Take, coding: Coding, tags: Mapping[str, str]) -> None:
    movflags = [flag for flag, on in (("faststart", coding.front), ("use_metadata_tags", coding.mdta)) if on]
    options = {"movflags": "+" + "+".join(movflags)} if coding.container in ("mov", "mp4") and movflags else {}
    with av.open(str(file), "w", format=coding.container, options=options | {"fflags": "+bitexact"}) as out:
        out.metadata.update(tags)
        picture: Any = out.add_stream(coding.codec, rate=coding.fps, options=_options(coding))
        picture.height, picture.width = take.frames.shape[1:3]
        picture.pix_fmt = "yuv420p"
        sound: Any = out.add_stream(coding.sound_codec, rate=coding.sound_rate_hz, layout="mono")
        sound.bit_rate = coding.sound_bit_rate
        for stream in (picture, sound):
            stream.codec_context.flags |= Flags.bitexact
        for image in take.frames:
            out.mux(picture.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        out.mux(picture.encode(None))
        chunk = av.AudioFrame.from_ndarray(np.clip(take.sound, -1, 1)[None, :], format="fltp", layout="mono")
        chunk.sample_rate, chunk.pts, chunk.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
        sound.codec_context.open(strict=False)
        wanted = sound.codec_context
        cutter = AudioResampler(
            format=wanted.format, layout="mono", rate=coding.sound_rate_hz, frame_size=wanted.frame_size or 1024
        )
        for piece in [*cutter.resample(chunk), *cutter.resample(None), None]:
            out.mux(sound.encode(piece))


def decoded(path: Path) -> Take:
    """All of a file that `encoded` made."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    resampler = AudioResampler(format="fltp", layout="mono", rate=RATE_HZ)
    with av.open(str(path)) as container:
        pieces = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    pieces += resampler.resample(None)
    return Take(np.stack(frames), np.concatenate([piece.to_ndarray()[0] for piece in pieces]).astype(np.float32))


# --- copies ---


def _resized(frames: np.ndarray, width: int, height: int, box: tuple[float, float, float, float]) -> np.ndarray:
    pictures = [Image.fromarray(f).resize((width, height), Image.Resampling.BILINEAR, box=box) for f in frames]
    return np.stack([np.asarray(picture) for picture in pictures])


def _recoded(take: Take, rng: np.random.Generator, crop: float) -> tuple[Take, Coding, str]:
    """As an upload does it: another size, codec, bit rate and loudness, with a share `crop` of each side cut off."""
    scale, gain_db = rng.choice([1.0, 1.0, 0.75, 0.5, 1.5]), rng.uniform(-6, 3)
    codings = [
        Coding("mp4", "libx264", int(rng.integers(20, 37)), "aac", int(rng.choice([32_000, 64_000])), 44_100),
        Coding("mp4", "libx265", int(rng.integers(24, 36)), "aac", 48_000, 32_000),
        Coding("mp4", "mpeg4", int(rng.integers(3, 12)), "libmp3lame", 64_000, 44_100),
        Coding("webm", "libvpx", int(rng.integers(10, 40)), "libopus", int(rng.choice([24_000, 64_000])), 48_000),
        Coding("matroska", "libx264", int(rng.integers(20, 37)), "libopus", 48_000, 48_000),
        Coding("avi", "mpeg4", int(rng.integers(3, 12)), "libmp3lame", 96_000, 44_100),
    ]
    coding = codings[int(rng.integers(len(codings)))]
    height, width = take.frames.shape[1:3]
    left, top = rng.random(2) * crop
    box = (width * left, height * top, width * (left + 1 - crop), height * (top + 1 - crop))
    size = (2 * round(width * scale / 2), 2 * round(height * scale / 2))
    frames = _resized(take.frames, *size, box)
    sound = np.clip(take.sound * 10 ** (gain_db / 20), -1, 1)
    detail = f"{coding}, {size[0]} x {size[1]}, {gain_db:+.1f} dB" + (f", {crop:.0%} cut off" if crop else "")
    return Take(frames, sound.astype(np.float32)), coding, detail


def reencoded(take: Take, rng: np.random.Generator) -> tuple[Take, Coding, str]:
    """The same recording in other bytes."""
    return _recoded(take, rng, 0.0)


def cropped(take: Take, rng: np.random.Generator) -> tuple[Take, Coding, str]:
    """The same recording, with 5 to 20 % of width and height cut off."""
    return _recoded(take, rng, rng.uniform(0.05, 0.20))


# --- faults of picture and sound ---


def _silent(take: Take, rng: np.random.Generator) -> tuple[Take, str]:
    level_dbfs = rng.choice([-np.inf, -np.inf, -100.0, -85.0])
    noise = rng.standard_normal(len(take.sound)) * 10 ** (level_dbfs / 20)
    return replace(take, sound=noise.astype(np.float32)), f"{level_dbfs:.0f} dBFS"


def _frozen(take: Take, rng: np.random.Generator) -> tuple[Take, str]:
    return replace(take, frames=np.repeat(take.frames[:1], len(take.frames), 0)), "one picture throughout"


def _black(take: Take, rng: np.random.Generator) -> tuple[Take, str]:
    level, noise = rng.uniform(0, 8), rng.uniform(0, 3)
    grey = rng.normal(level, noise, (*take.frames.shape[:3], 1))
    frames = np.broadcast_to(np.clip(grey, 0, 255).astype(np.uint8), take.frames.shape)
    return replace(take, frames=frames), f"grey level {level:.1f}, noise {noise:.1f}"


def _slides(take: Take, rng: np.random.Generator) -> tuple[Take, str]:
    count = int(rng.integers(2, 5))
    height, width = take.frames.shape[1:3]
    pictures = []
    for slide in range(count):
        share = 1.0 if slide == 0 else rng.uniform(0.4, 0.7)
        left, top = rng.random(2) * (1 - share)
        box = (width * left, height * top, width * (left + share), height * (top + share))
        pictures.append(_resized(take.frames[slide : slide + 1], width, height, box)[0])
    turns = np.arange(len(take.frames)) * count // len(take.frames)
    return replace(take, frames=np.stack([pictures[turn] for turn in turns])), f"{count} stills, one after another"


@lru_cache(maxsize=1)
def _fonts() -> list[Path]:
    import matplotlib

    names = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono", "DejaVuSans-Oblique")
    return [Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf") for name in names]


_LINES = (
    "Welcome back to my channel", "DAY 3: THE OLD TOWN", "Please like and subscribe", "- Where are we going?",
    "This street is 400 years old", "Добро пожаловать в город", "Bienvenidos a mi ciudad", "Καλημέρα από το λιμάνι",
    "Wait for it...", "Follow @wanderer for more", "So we took the first bus", "Güzel bir gün, değil mi?",
)  # fmt: skip


def _captions(take: Take, rng: np.random.Generator) -> tuple[Take, str]:
    height, width = take.frames.shape[1:3]
    size_px = round(height * rng.uniform(0.055, 0.10))
    typeface = ImageFont.truetype(str(_fonts()[int(rng.integers(6))]), size_px)
    look = str(rng.choice(["outline", "box", "plain", "shadow"]))
    where = str(rng.choice(["bottom", "bottom", "bottom", "top", "middle"]))
    colour = [(255, 255, 255), (255, 255, 255), (255, 230, 60), (90, 255, 120)][int(rng.integers(4))]
    texts = ["\n".join(rng.choice(_LINES, int(rng.integers(1, 3)), replace=False)) for _ in range(2)]
    share = rng.uniform(0.6, 1.0)
    frames = take.frames.copy()
    for index in range(round(share * len(frames))):
        picture = Image.fromarray(frames[index])
        draw = ImageDraw.Draw(picture)
        text, font = texts[2 * index // len(frames)], typeface
        box = draw.multiline_textbbox((0, 0), text, font=font, align="center")
        if box[2] - box[0] > 0.94 * width:
            font = font.font_variant(size=size_px * 0.94 * width / (box[2] - box[0]))
            box = draw.multiline_textbbox((0, 0), text, font=font, align="center")
        x = (width - (box[2] - box[0])) / 2 - box[0]
        y = {"bottom": 0.93 * height - box[3], "top": 0.05 * height, "middle": 0.45 * height}[where]
        if look == "box":
            draw.rectangle((x + box[0] - 4, y + box[1] - 3, x + box[2] + 4, y + box[3] + 3), fill=(0, 0, 0))
        if look == "shadow":
            draw.multiline_text((x + 1, y + 1), text, font=font, fill=(0, 0, 0), align="center")
        outline = max(1, size_px // 10) if look == "outline" else 0
        draw.multiline_text(
            (x, y), text, font=font, fill=colour, align="center", stroke_width=outline, stroke_fill=(0, 0, 0)
        )
        frames[index] = np.asarray(picture)
    return replace(take, frames=frames), f"{look} {size_px} px at the {where}, {share:.0%} of the time"


def _mixed(take: Take, added: np.ndarray, over_db: float) -> Take:
    """`added` laid over the sound, so much louder than it; the sum peaks at -1 dBFS at most."""

    def rms(samples: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) or 1e-6

    added = np.resize(np.asarray(added, dtype=np.float64), len(take.sound))
    total = take.sound + added * (rms(take.sound) / rms(added) * 10 ** (over_db / 20))
    return replace(take, sound=(total * min(1.0, 0.89 / np.abs(total).max())).astype(np.float32))


def _voiceover(take: Take, rng: np.random.Generator) -> tuple[Take, str]:
    """As a narrator is mixed, with the scene turned down beneath."""
    return _spoken(take, rng.uniform(24, 36), rng)


def _faint_voiceover(take: Take, rng: np.random.Generator) -> tuple[Take, str]:
    """AVG-Sim's own voices stand up to 26 dB above the background and last nearly as long: so near to the scene, no
    level tells a narrator from someone in the street. Planted to be told as plainly as the rest."""
    return _spoken(take, rng.uniform(6, 24), rng)


def _spoken(take: Take, over_db: float, rng: np.random.Generator) -> tuple[Take, str]:
    from avgeo.curate.planted_sounds import speech

    return _mixed(take, speech(len(take.sound) / RATE_HZ, rng), over_db), f"{over_db:.0f} dB over the place's sound"


def _music(take: Take, rng: np.random.Generator) -> tuple[Take, str]:
    from avgeo.curate.planted_sounds import music

    over_db = rng.uniform(6, 20)
    return _mixed(take, music(len(take.sound) / RATE_HZ, rng), over_db), f"{over_db:.0f} dB over the place's sound"


Tweak = Callable[[Take, np.random.Generator], tuple[Take, str]]
TWEAKS: dict[str, Tweak] = {
    "silence": _silent, "frozen picture": _frozen, "black picture": _black, "slide show": _slides,
    "captions": _captions, "voice-over": _voiceover, "faint voice-over": _faint_voiceover, "music": _music,
}  # fmt: skip
"""Faults of picture and sound, each a function of a take and a generator: the faulty take, and how bad it is."""
