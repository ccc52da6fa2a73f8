"""Group-relative policy optimisation (Shao et al. 2024) of a fine-tuned reasoner, by trl's `GRPOTrainer`.

Only a LoRA adapter is trained, so the policy with its adapter off *is* the fine-tuned model: the reference of
the KL penalty costs no second copy. Two choices keep the proper reward proper: advantages are not divided by
the group's standard deviation, and the loss is a plain sum over tokens (`dr_grpo`), so that its gradient is
REINFORCE's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from peft import PeftModel
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from avgeo.profiles import ReasonSettings
from avgeo.reason import rewards
from avgeo.reason.audio import AudioGRPOTrainer
from avgeo.reason.policy import ModelError, Policy, lora
from avgeo.reason.sft import ExamplesError, Frames, Progress, Waveforms, common_arguments, history, rows_for, run

WINDOW = 10
"""Steps over which `collapse` takes means."""


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
    row per step: `step`, `reward` (weighted), one column per part of `RewardWeights`, `parse_rate`, `diversity` (chord
    between answers to one clip), `kl` (nats per token; NaN when `grpo_beta` is 0), `entropy`, `length` (tokens),
    `clipped` (share cut off at `max_new_tokens`), `tied` (share of groups whose rollouts all earn the same, which teach
    nothing: 1 from a checkpoint that cannot answer yet). A run that collapses (see `collapse`) ends early and warns.
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
    measured: list[Any] = [*(getattr(rewards, f"{part}_reward") for part in parts), rewards.diversity]
    arguments = GRPOConfig(
        per_device_train_batch_size=at_once, gradient_accumulation_steps=rollouts // at_once,
        num_generations=settings.grpo_generations, max_steps=settings.grpo_steps,
        learning_rate=settings.grpo_learning_rate, lr_scheduler_type="constant", warmup_steps=0,
        beta=settings.grpo_beta, temperature=settings.temperature,
        max_completion_length=settings.max_new_tokens, scale_rewards="none", loss_type="dr_grpo",
        reward_weights=[*(getattr(weights, part) for part in parts), 0.0],
        generation_kwargs={"suppress_tokens": list(policy.silent)}, **common_arguments(policy, seed, work),
    )  # fmt: skip
    trainer = (AudioGRPOTrainer if policy.sample_rate_hz else GRPOTrainer)(
        model=policy.model, args=arguments, processing_class=policy.processor,
        reward_funcs=measured,
        train_dataset=rows_for(policy, examples, frames, waveforms).remove_columns("completion"),
        peft_config=lora(policy, settings.lora_rank), callbacks=[Progress("GRPO", "reward"), StopOnCollapse()],
    )  # fmt: skip
    run(trainer, work)
    table = _history(trainer.state.log_history)
    if (how := collapse(table)) is not None:
        warnings.warn(
            f"GRPO collapsed and ended at step {len(table)} of {settings.grpo_steps}: its answers fell {how}; lower "
            "grpo_learning_rate, raise grpo_beta, or give the proper reward more weight",
            stacklevel=2,
        )
    return replace(policy, model=trainer.accelerator.unwrap_model(trainer.model)), table


class StopOnCollapse(TrainerCallback):
    """Ends a run that has nothing left to learn from (`collapse`)."""

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if collapse(_history(state.log_history)) is not None:
            control.should_training_stop = True


def collapse(history: pd.DataFrame) -> str | None:
    """How the last `WINDOW` steps of a run differ from its first as no learning does, or None.

    "silent": less than half as many answers parse. "alike": answers to one clip are less than a twentieth as far apart,
    so that all earn the same and nothing more is learned.
    """
    if len(history) < 2 * WINDOW:
        return None
    first, last = history.head(WINDOW).mean(numeric_only=True), history.tail(WINDOW).mean(numeric_only=True)
    if last["parse_rate"] < first["parse_rate"] / 2:
        return "silent"
    return "alike" if last["diversity"] < first["diversity"] / 20 else None


def _history(log: Sequence[dict[str, Any]]) -> pd.DataFrame:
    parts = [part.name for part in fields(RewardWeights)]
    names = {"reward": "reward"} | {f"rewards/{part}_reward/mean": part for part in parts}
    names |= {
        "rewards/diversity/mean": "diversity", "kl": "kl", "entropy": "entropy", "completions/mean_length": "length",
        "completions/clipped_ratio": "clipped", "frac_reward_zero_std": "tied",
    }  # fmt: skip
    if not any("kl" in entry for entry in log):  # trl works it out only for a penalty
        del names["kl"]
    table = history(log, names)
    table.insert(2, "parse_rate", table["format"])
    table["kl"] = table.get("kl", math.nan)
    return table


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
