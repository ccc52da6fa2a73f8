"""Many clips at once: by vLLM where it is installed and there is a CUDA device, by transformers everywhere else.

The prompts, the tokens that may be said, the parser and the table are the same; only the machine that draws tokens
differs, so that greedy answers agree but for ties and sampled ones in law, not one by one. Which it is, the reasoner's
`engine` says, and a log line with the reason.

**Not yet run on a GPU.** This is written against vLLM's documented interface (0.33: `LLM`, `SamplingParams`, prompts of
tokens with `multi_modal_data`) and tested with a stand-in that records its calls. Install it where there is a GPU:
`pip install "avgeo[vllm]"`. vLLM starts processes of its own, so a script that calls this wants a
`if __name__ == "__main__":`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch

from avgeo.reason.model import to_images
from avgeo.reason.policy import Policy
from avgeo.reason.propose import Reasoner
from avgeo.reason.sft import Frames, Waveforms
from avgeo.reason.sizes import save_policy

SILENCE = -100.0
"""Added to the logit of a token that no answer holds: the least that OpenAI's interface, which vLLM follows, allows."""
_AT_ONCE = 1024  # clips whose frames are in memory together; within them vLLM makes its own batches


def why_not_vllm(policy: Policy) -> str | None:
    """Why vLLM cannot answer for this policy here; None: it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vllm is not installed"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if policy.sample_rate_hz is not None:
        return "vLLM reads Qwen2.5-Omni whole only, and ours is its Thinker"
    return None


def batch_reasoner(reasoner: Reasoner, frames: int, **options: Any) -> Reasoner:
    """The reasoner to ask about many clips of at most so many frames: `VllmReasoner` where that can be, else itself.

    `options` go to `vllm.LLM`, e.g. `gpu_memory_utilization` and `max_model_len`. The reasoner given is used up where
    vLLM takes over: its model is moved off the GPU.
    """
    reason = why_not_vllm(reasoner.policy)
    logging.getLogger(__name__).info("answers by %s", "vLLM" if reason is None else f"transformers: {reason}")
    return reasoner if reason else VllmReasoner(reasoner.policy, frames, **options)


class VllmReasoner(Reasoner):
    """A reasoner whose answers are drawn by vLLM; log-probabilities stay with transformers, on the CPU.

    vLLM reads a folder, so the policy is written to a temporary one as it is, adapter merged: its LoRA could not take
    the projector that GRPO trains beside the adapter. Raises `ModelError` while an adapter is on.
    """

    engine = "vllm"

    def __init__(self, policy: Policy, frames: int, **options: Any) -> None:
        from vllm import LLM  # pyright: ignore[reportMissingImports]

        super().__init__(policy)
        torch.nn.Module.to(policy.model, "cpu")
        torch.cuda.empty_cache()
        self.frames = frames
        self._folder = TemporaryDirectory()
        folder = Path(self._folder.name)
        save_policy(policy, folder)
        _video_slot(policy.processor, folder)
        # "auto" would make float32 weights half as precise without a word
        dtype = str(policy.model.dtype).removeprefix("torch.")
        limits = {"limit_mm_per_prompt": {"image": frames}}
        self._llm: Any = LLM(model=str(folder), dtype=dtype, **limits, **options)

    def _batches(
        self,
        examples: pd.DataFrame,
        frames: Frames,
        waveforms: Waveforms | None,
        batch: int,
        *,
        n: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[list[str]]:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        self._sound(examples, frames, waveforms)
        if frames.shape[1] > self.frames:
            raise ValueError(f"frames: {frames.shape[1]} a clip, but the engine was started for {self.frames} at most")
        processor: Any = self.policy.processor
        known: Any = self.policy.model.generation_config
        ends = known.eos_token_id if isinstance(known.eos_token_id, list) else [known.eos_token_id]
        for start in range(0, len(examples), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            texts = self.prompts(examples.iloc[rows], frames.shape[1])
            # tokens, not text: vLLM would add special ones of its own
            tokens = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
            prompts: list[dict[str, Any]] = [{"prompt_token_ids": ids} for ids in tokens]
            for prompt, clip in zip(prompts, frames[rows], strict=True):
                if len(clip):
                    prompt["multi_modal_data"] = {"image": to_images(clip, self.policy.image_px)}
            drawing = [
                SamplingParams(
                    n=n, temperature=temperature, max_tokens=known.max_new_tokens, stop_token_ids=ends,
                    # an answer's seed is this and its number: no two clips may share their luck
                    seed=seed * len(examples) * n + (start + row) * n,
                    logit_bias=dict.fromkeys(self.policy.silent, SILENCE) or None,
                )
                for row in range(len(prompts))
            ]  # fmt: skip
            found = self._llm.generate(prompts, drawing)
            ids = [list(answer.token_ids) for one in found for answer in one.outputs]
            yield processor.batch_decode(ids, skip_special_tokens=True)


def _video_slot(processor: Any, folder: Path) -> None:
    """Give Qwen's own processors, which vLLM loads, settings for the videos that ours leave out: those of images."""
    if getattr(processor, "video_processor", True) is None:
        settings = processor.image_processor.to_dict()
        settings["image_processor_type"] = settings["image_processor_type"].removesuffix("Pil")
        (folder / "preprocessor_config.json").write_text(json.dumps(settings) + "\n")
