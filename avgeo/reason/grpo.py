"""Group-relative policy optimisation (Shao et al. 2024) of a fine-tuned reasoner, by trl's `GRPOTrainer`.

Only a LoRA adapter is trained, so the policy with its adapter off *is* the fine-tuned model: the reference of
the KL penalty costs no second copy. Two choices keep the proper reward proper: advantages are not divided by
the group's standard deviation, and the loss is a plain sum over tokens (`dr_grpo`), so that its gradient is
REINFORCE's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd
from peft import PeftModel
from trl import GRPOConfig, GRPOTrainer

from avgeo.profiles import ReasonSettings
from avgeo.reason import rewards
from avgeo.reason.audio import AudioGRPOTrainer
from avgeo.reason.policy import ModelError, Policy, lora
from avgeo.reason.sft import ExamplesError, Frames, Progress, Waveforms, common_arguments, history, rows_for, run


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
    policy: Policy,
    examples: pd.DataFrame,
    frames: Frames,
    settings: ReasonSettings,
    seed: int,
    work: Path,
    weights: RewardWeights | None = None,
    *,
    waveforms: Waveforms | None = None,
) -> tuple[Policy, pd.DataFrame]:
    """Train an adapter on a policy that is fine-tuned already; its own weights stay as they are.

    What `policy.trained` names is trained with the adapter, in a copy that goes where the adapter goes. Checkpoints go
    to `work`; a run that finds one there continues from it. Returns the policy with its adapter and the history, one
    row per step: `step`, `reward` (weighted), one column per part of `RewardWeights`, `parse_rate`, `kl` (nats per
    token), `entropy`, `length` (tokens), `clipped` (share cut off at `max_new_tokens`), `tied` (share of groups whose
    rollouts all earn the same, which teach nothing: 1 from a checkpoint that cannot answer yet).
    """
    weights = weights or RewardWeights()
    if settings.grpo_generations < 3:
        raise ExamplesError(f"grpo_generations: must be at least 3, got {settings.grpo_generations}")
    if len(examples) < settings.grpo_prompts:
        raise ExamplesError(f"examples: {len(examples)} rows are fewer than grpo_prompts, {settings.grpo_prompts}")
    rollouts = settings.grpo_prompts * settings.grpo_generations
    at_once = min(settings.grpo_at_once, rollouts)
    if at_once < 1 or rollouts % at_once:
        raise ExamplesError(
            f"grpo_at_once: {at_once} does not divide the {rollouts} rollouts of a step (grpo_prompts x "
            "grpo_generations); choose one that does"
        )
    parts = [part.name for part in fields(weights)]
    arguments = GRPOConfig(
        per_device_train_batch_size=at_once, gradient_accumulation_steps=rollouts // at_once,
        num_generations=settings.grpo_generations, max_steps=settings.grpo_steps,
        learning_rate=settings.grpo_learning_rate, lr_scheduler_type="constant", warmup_steps=0,
        beta=settings.grpo_beta, temperature=settings.temperature,
        max_completion_length=settings.max_new_tokens, scale_rewards="none", loss_type="dr_grpo",
        reward_weights=[getattr(weights, part) for part in parts],
        generation_kwargs={"suppress_tokens": list(policy.silent)}, **common_arguments(policy, seed, work),
    )  # fmt: skip
    trainer = (AudioGRPOTrainer if policy.sample_rate_hz else GRPOTrainer)(
        model=policy.model, args=arguments, processing_class=policy.processor,
        reward_funcs=[getattr(rewards, f"{part}_reward") for part in parts],
        train_dataset=rows_for(policy, examples, frames, waveforms).remove_columns("completion"),
        peft_config=lora(policy, settings.lora_rank), callbacks=[Progress("GRPO", "reward")],
    )  # fmt: skip
    run(trainer, work)
    names = {"reward": "reward"} | {f"rewards/{part}_reward/mean": part for part in parts}
    names |= {
        "kl": "kl", "entropy": "entropy", "completions/mean_length": "length",
        "completions/clipped_ratio": "clipped", "frac_reward_zero_std": "tied",
    }  # fmt: skip
    table = history(trainer, names)
    table.insert(2, "parse_rate", table["format"])
    return replace(policy, model=trainer.accelerator.unwrap_model(trainer.model)), table


def save_adapter(policy: Policy, folder: Path) -> None:
    """Write the adapter alone (safetensors); its base is the fine-tuned model, in `sft` beside it.

    Raises `ModelError` for a policy without one.
    """
    model = policy.model
    if not isinstance(model, PeftModel):
        raise ModelError("policy: has no adapter; pass the one that train_grpo returned, or use save_policy")
    model.peft_config["default"].base_model_name_or_path = "../sft"
    # "auto" would ask a hub whether the vocabulary has grown
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
