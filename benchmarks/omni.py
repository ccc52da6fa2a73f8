"""What GRPO on Qwen2.5-Omni costs: its Thinker at the true shape, of random weights, three steps with LoRA on one GPU.

python benchmarks/omni.py               # 7B: data/results/omni-grpo.json, memory and tokens per second
python benchmarks/omni.py --size 3B     # data/results/omni-grpo-3b.json
python benchmarks/omni.py --tiny        # a dry run on a CPU: a toy model, the card's result on the screen, no card

Sizes of a step are those of the profile `full`: 16 clips of 4 frames and 10 s of sound, 8 rollouts each. Memory beyond
80 GB is denied, so that a run that ends has kept to it. Random weights answer noise: the card tells what training
costs, and nothing of what is learned. Clips are noise too, and the reward counts letters, because noise earns no other.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import Qwen2_5OmniThinkerConfig, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig

from avgeo.artifacts import run_card
from avgeo.paths import data_dir
from avgeo.profiles import get_profile
from avgeo.reason.audio import AudioGRPOTrainer, with_sound
from avgeo.reason.policy import Policy, lora
from avgeo.reason.qwen import SAMPLE_RATE_HZ, omni, thinker_config
from avgeo.reason.sft import rows

LIMIT_GB = 80.0
SEED = 0
STEPS = 3


@dataclass(frozen=True)
class Sizes:
    """Of one step: what is shown, how many rollouts, how long they may be, what is trained.

    `clips_at_once` are answered together. They are not all of a step's, because transformers' Thinker makes logits of
    every token of the prompts it starts from (152,064 numbers each), though generation wants those of the last.
    """

    clips: int
    rollouts: int
    clips_at_once: int
    frames: int
    frame_px: int
    sound_s: float
    answer_tokens: int
    lora_rank: int
    beta: float
    temperature: float
    learning_rate: float


def full_sizes() -> Sizes:
    """Those of the profile `full`; a square of 280 px has the tokens of its frames of 320 x 240."""
    profile = get_profile("full")
    reason = profile.reason
    return Sizes(
        clips=reason.grpo_prompts, rollouts=reason.grpo_generations, clips_at_once=4, frames=profile.atoms.frames,
        frame_px=280, sound_s=profile.world.duration_s, answer_tokens=reason.max_new_tokens,
        lora_rank=reason.lora_rank, beta=reason.grpo_beta, temperature=reason.temperature, learning_rate=1e-5,
    )  # fmt: skip


def toy() -> tuple[Qwen2_5OmniThinkerConfig, Sizes]:
    """A Thinker of 0.2 million parameters and a step to match."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    config = Qwen2_5OmniThinkerConfig(
        text_config=dict(vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, rope_parameters=rope),
        vision_config=dict(depth=1, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=64,
                           fullatt_block_indexes=[0], window_size=56),
        audio_config=dict(num_mel_bins=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64,
                          d_model=32, output_dim=64, n_window=50),
    )  # fmt: skip
    return config, Sizes(
        clips=2, rollouts=3, clips_at_once=1, frames=2, frame_px=56, sound_s=1.0, answer_tokens=8, lora_rank=4,
        beta=0.04, temperature=1.0, learning_rate=1e-3,
    )  # fmt: skip


def clips(policy: Policy, sizes: Sizes) -> Dataset:
    """Noise to look at and to listen to, for `STEPS` steps."""
    rng, count = np.random.default_rng(SEED), sizes.clips * STEPS
    heard = [[(f"atom {atom}", float(strength)) for atom, strength in enumerate(rng.uniform(0.1, 1, 8))]] * count
    table = pd.DataFrame({
        "clip_id": [f"clip {clip}" for clip in range(count)], "split": "train", "latitude_deg": 0.0,
        "longitude_deg": 0.0, "country": "Gabon", "region": "Estuaire", "heard": heard, "told": [[]] * count,
        "seen": [[]] * count,
    })  # fmt: skip
    frames = rng.integers(0, 255, (count, sizes.frames, sizes.frame_px, sizes.frame_px, 3), dtype=np.uint8)
    sound = 0.1 * rng.standard_normal((count, int(sizes.sound_s * SAMPLE_RATE_HZ)), dtype=np.float32)
    prompts = rows(table, frames, sizes.frame_px).remove_columns("completion")
    return with_sound(prompts, list(sound), SAMPLE_RATE_HZ, policy)


def letters(completions: list[Any], **_: Any) -> list[float]:
    """Something that differs between rollouts of noise: how many different characters they have."""
    return [float(len(set(completion[0]["content"]))) for completion in completions]


class Timed(AudioGRPOTrainer):
    """Counts the seconds and tokens of generation, which trl does not tell from the rest of a step."""

    generating_s = 0.0
    prompt_tokens = answer_tokens = 0

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **options: Any) -> Any:
        began = _now()
        answers, logps = super()._generate_single_turn(prompt_ids, *args, **options)
        self.generating_s += _now() - began
        self.prompt_tokens += sum(map(len, prompt_ids))
        self.answer_tokens += sum(map(len, answers))
        return answers, logps


class Clock(TrainerCallback):
    """The seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(_now() - self.began)


def measure(config: Qwen2_5OmniThinkerConfig, sizes: Sizes, device: str) -> dict[str, Any]:
    """Build the model on `device`, train `STEPS` steps, and say what it took (GB are 1e9 bytes)."""
    began = _now()
    with torch.device(device):
        policy = omni(config, longest_s=sizes.sound_s, dtype=torch.bfloat16, seed=SEED)
    built_s, parameters = _now() - began, policy.model.num_parameters()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder, max_steps=STEPS, seed=SEED, per_device_train_batch_size=sizes.rollouts,
            num_generations=sizes.rollouts, gradient_accumulation_steps=sizes.clips,
            steps_per_generation=sizes.clips_at_once, beta=sizes.beta,
            temperature=sizes.temperature, max_completion_length=sizes.answer_tokens,
            learning_rate=sizes.learning_rate, lr_scheduler_type="constant", scale_rewards="none",
            loss_type="dr_grpo", generation_kwargs={"suppress_tokens": list(policy.silent)}, bf16=True,
            gradient_checkpointing=True, use_cpu=device == "cpu", report_to="none", save_strategy="no",
            disable_tqdm=True, logging_steps=1, remove_unused_columns=False,
        )  # fmt: skip
        trainer = Timed(
            model=policy.model, args=arguments, reward_funcs=letters, train_dataset=clips(policy, sizes),
            processing_class=policy.processor, callbacks=[clock],
            peft_config=lora(policy, sizes.lora_rank),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    steps_s, tokens = sum(clock.seconds), trainer.prompt_tokens + trainer.answer_tokens
    logged = [entry for entry in trainer.state.log_history if "kl" in entry]
    rollouts = sizes.clips * sizes.rollouts * STEPS
    return {
        "parameters": parameters,
        "trained_parameters": sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad),
        "peak_gb": _peak_gb(device),
        "limit_gb": LIMIT_GB if device == "cuda" else None,
        "tokens_per_rollout": {"prompt": trainer.prompt_tokens / rollouts, "answer": trainer.answer_tokens / rollouts},
        "tokens_per_second": {
            "generated": trainer.answer_tokens / trainer.generating_s,
            "trained": tokens / (steps_s - trainer.generating_s),
            "overall": tokens / steps_s,
        },
        "seconds": {"building": built_s, "generation": trainer.generating_s, "steps": clock.seconds},
        "steps": [{name: entry[name] for name in ("loss", "reward", "kl", "grad_norm")} for entry in logged],
    }


def _peak_gb(device: str) -> dict[str, float]:
    if device == "cuda":
        return {
            "allocated": torch.cuda.max_memory_allocated() / 1e9,
            "reserved": torch.cuda.max_memory_reserved() / 1e9,
        }
    return {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def _now() -> float:
    """Seconds, when all that was asked of the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("3B", "7B"), default="7B")
    parser.add_argument("--tiny", action="store_true", help="a toy model on the CPU, to see that this runs; no card")
    asked = parser.parse_args(arguments)
    if asked.tiny:
        config, sizes = toy()
        print(json.dumps({"settings": asdict(sizes), "result": measure(config, sizes, "cpu")}, indent=1))
        return
    if not torch.cuda.is_available():
        raise SystemExit(
            f"omni: no CUDA device here, and Qwen2.5-Omni {asked.size} wants one of {LIMIT_GB:g} GB. "
            "Run it on a machine with such a GPU, or see that it runs with --tiny (no card)."
        )
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, LIMIT_GB * 1e9 / whole))
    sizes = full_sizes()
    file = data_dir() / "results" / {"7B": "omni-grpo.json", "3B": "omni-grpo-3b.json"}[asked.size]
    what = f"{STEPS} GRPO steps with LoRA of Qwen2.5-Omni's Thinker ({asked.size}, random weights, bfloat16) on one GPU"
    command = f"python benchmarks/omni.py --size {asked.size}"
    with run_card(file, what=what, command=command, settings=sizes, seed=SEED) as card:
        card["result"] = measure(thinker_config(asked.size), sizes, "cuda")


if __name__ == "__main__":
    main()
