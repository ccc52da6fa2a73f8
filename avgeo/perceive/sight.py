"""Sights: a small convolutional network that says which visible cues a clip shows, and how sure it is of each.

The counterpart of the atoms. Sound is taken apart without labels, because that is the paper's claim; sight needs no
such claim here, so its cues are learned from the training places' labels. On real video a pretrained encoder takes
its place.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from avgeo.perceive.atoms import spoken
from avgeo.profiles import AtomSettings

_WEIGHTS = "sights.safetensors"
_CONFIG = "config.json"
_MOST = 8.0  # log odds beyond this only say how sure the network is of itself
_UNIT = 4.0


class SightModel(nn.Module):
    """Log odds of each visible source from thumbnails; a clip's are the mean over its frames."""

    usual: Tensor

    def __init__(self, sources: list[str]) -> None:
        super().__init__()
        self.sources = sources
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((6, 8)),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 48, len(sources)),
        )
        # the confidence that the sources' frequency alone would give: what to put where nobody looked
        self.register_buffer("usual", torch.zeros(len(sources)))

    def forward(self, frames: Float[Tensor, "batch count height width 3"]) -> Float[Tensor, "batch sources"]:
        """Log odds (batch, sources) of frames in [0, 1]."""
        batch, count = frames.shape[:2]
        images = frames.flatten(0, 1).permute(0, 3, 1, 2) - 0.5
        return self.layers(images).reshape(batch, count, -1).mean(1)

    @torch.no_grad()
    def look(
        self, frames: UInt8[np.ndarray, "clips count height width 3"], batch: int = 256
    ) -> Float[np.ndarray, "clips sources"]:
        """Confidence (clips, sources) in every visible source: its log odds as trained, kept within ±8, over 4.

        Training weighs rare sources up, so that not knowing is `usual`, nearer to 0 than the source's frequency.
        """
        parts = [
            self(torch.from_numpy(frames[start : start + batch]).float() / 255).numpy()
            for start in range(0, len(frames), batch)
        ]
        return np.concatenate(parts).clip(-_MOST, _MOST) / _UNIT

    def label(self, source: int) -> str:
        """A visible source in words."""
        return spoken(self.sources[source])

    def save_pretrained(self, folder: Path) -> None:
        """Write `sights.safetensors` and `config.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / _WEIGHTS)
        (folder / _CONFIG).write_text(json.dumps({"sources": self.sources}, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path) -> SightModel:
        """Load what `save_pretrained` wrote."""
        model = cls(json.loads((folder / _CONFIG).read_text())["sources"])
        model.load_state_dict(load_file(folder / _WEIGHTS))
        return model.eval()


def visible_sources(truth: pd.DataFrame, clip_id: list[str]) -> tuple[list[str], Bool[np.ndarray, "clips sources"]]:
    """Which visible source each clip shows: (source names, presence)."""
    visible = truth.loc[(truth["modality"] == "visible") & truth["clip_id"].isin(clip_id)]
    sources = sorted(visible["source"].unique())
    table = pd.crosstab(visible["clip_id"], visible["source"]).reindex(index=clip_id, columns=sources, fill_value=0)
    return sources, table.to_numpy() > 0


def train_sights(
    frames: UInt8[np.ndarray, "clips count height width 3"],
    present: Bool[np.ndarray, "clips sources"],
    sources: list[str],
    settings: AtomSettings,
    seed: int,
) -> tuple[SightModel, pd.DataFrame]:
    """Fit a `SightModel` by binary cross-entropy on varied frames; returns it and its history (step, loss)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = SightModel(sources).to(device)
    images, labels = torch.from_numpy(frames), torch.from_numpy(present).float()
    steps = max(1, settings.sight_epochs * len(frames) // settings.sight_batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.sight_learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.sight_learning_rate, total_steps=steps)
    # a script seen in ten clips would otherwise never be worth learning; the square root keeps its odds sane
    rate = labels.mean(0).clamp_min(1e-3)
    rare = ((1 - rate) / rate).sqrt().to(device)
    history = []
    for step in tqdm(range(steps), desc="sights", unit="step", disable=None):
        index = torch.randint(len(images), (settings.sight_batch,), generator=draw)
        scores = model(_varied(images[index], draw).to(device))
        loss = nn.functional.binary_cross_entropy_with_logits(scores, labels[index].to(device), pos_weight=rare)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 10 == 0 or step == steps - 1:
            history.append({"step": step, "loss": loss.item()})
    model.cpu().eval()
    # with odds weighted by sqrt((1 - r)/r), knowing only the rate r means log odds of half logit(r)
    model.usual.copy_(0.5 * torch.logit(labels.mean(0), eps=1e-3) / _UNIT)
    return model, pd.DataFrame(history)


def _varied(frames: UInt8[Tensor, "batch count height width 3"], draw: torch.Generator) -> Tensor:
    """The same frames in another light, from a camera that shook."""
    images = frames.float() / 255
    contrast = 0.8 + 0.4 * torch.rand(len(images), 1, 1, 1, 1, generator=draw)
    light = 0.2 * torch.rand(len(images), 1, 1, 1, 1, generator=draw) - 0.1
    noise = 0.03 * torch.randn(images.shape, generator=draw)
    down, right = (int(torch.randint(-2, 3, (1,), generator=draw)) for _ in range(2))
    return torch.roll(images * contrast + light + noise, (down, right), dims=(2, 3))
