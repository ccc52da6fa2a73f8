"""Group-relative policy optimisation (Shao et al. 2024) of a fine-tuned reasoner, by trl's `GRPOTrainer`.

Only a LoRA adapter is trained, so the policy with its adapter off *is* the fine-tuned model: the reference of
the KL penalty costs no second copy. Two choices keep the proper reward proper: advantages are not divided by
the group's standard deviation, and the loss is a plain sum over tokens (`dr_grpo`), so that its gradient is
REINFORCE's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd
from peft import LoraConfig, PeftModel
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from trl import GRPOConfig, GRPOTrainer

from avgeo.profiles import ReasonSettings
from avgeo.reason import rewards
from avgeo.reason.model import silent_tokens
from avgeo.reason.sft import ExamplesError, Frames, Progress, common_arguments, history, rows, run

LORA_MODULES = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class RewardWeights:
    """Weight of each part in the total reward; a part of weight 0 is still measured and kept in the history.

    `hierarchy` and `distance` are off by default: being linear in the policy, they pull the answers of an
    ambiguous clip to the likelier place and cost the calibration that `proper` gains.
    """

    format: float = 0.5
    hierarchy: float = 0.0
    distance: float = 0.0
    groundedness: float = 0.25
    proper: float = 1.0


def train_grpo(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    examples: pd.DataFrame,
    frames: Frames,
    settings: ReasonSettings,
    seed: int,
    work: Path,
    weights: RewardWeights | None = None,
) -> tuple[PeftModel, pd.DataFrame]:
    """Train an adapter on `model`, which must be fine-tuned already; its own weights stay as they are.

    Checkpoints go to `work`; a run that finds one there continues from it. Returns the policy and the
    history, one row per step: `step`, `reward` (weighted), one column per part of `RewardWeights`,
    `parse_rate`, `kl` (nats per token), `entropy`, `length` (tokens), `clipped` (share cut off at
    `max_new_tokens`), `tied` (share of groups whose rollouts all earn the same, which teach nothing: 1 from a
    checkpoint that cannot answer yet).
    """
    weights = weights or RewardWeights()
    if settings.grpo_generations < 3:
        raise ExamplesError(f"grpo_generations: must be at least 3, got {settings.grpo_generations}")
    if len(examples) < settings.grpo_prompts:
        raise ExamplesError(f"examples: {len(examples)} rows are fewer than grpo_prompts, {settings.grpo_prompts}")
    parts = [part.name for part in fields(weights)]
    arguments = GRPOConfig(
        per_device_train_batch_size=settings.grpo_prompts * settings.grpo_generations,
        num_generations=settings.grpo_generations, max_steps=settings.grpo_steps,
        learning_rate=settings.grpo_learning_rate, lr_scheduler_type="constant", warmup_steps=0,
        beta=settings.grpo_beta, temperature=settings.temperature,
        max_completion_length=settings.max_new_tokens, scale_rewards="none", loss_type="dr_grpo",
        reward_weights=[getattr(weights, part) for part in parts],
        generation_kwargs={"suppress_tokens": silent_tokens(processor.tokenizer)},
        **common_arguments(seed, work),
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model, args=arguments, processing_class=processor,
        reward_funcs=[getattr(rewards, f"{part}_reward") for part in parts],
        train_dataset=rows(examples, frames, settings.image_px).remove_columns("completion"),
        peft_config=LoraConfig(
            r=settings.lora_rank,
            lora_alpha=2 * settings.lora_rank,
            target_modules=LORA_MODULES,
            task_type="CAUSAL_LM",
        ),
        callbacks=[Progress("GRPO", "reward")],
    )  # fmt: skip
    run(trainer, work)
    names = {"reward": "reward"} | {f"rewards/{part}_reward/mean": part for part in parts}
    names |= {
        "kl": "kl", "entropy": "entropy", "completions/mean_length": "length",
        "completions/clipped_ratio": "clipped", "frac_reward_zero_std": "tied",
    }  # fmt: skip
    table = history(trainer, names)
    table.insert(2, "parse_rate", table["format"])
    return trainer.accelerator.unwrap_model(trainer.model), table


def save_adapter(policy: PeftModel, folder: Path) -> None:
    """Write the adapter alone (safetensors); its base is the fine-tuned model, in `sft` beside it."""
    policy.peft_config["default"].base_model_name_or_path = "../sft"
    # "auto" would ask a hub whether the vocabulary has grown
    policy.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
