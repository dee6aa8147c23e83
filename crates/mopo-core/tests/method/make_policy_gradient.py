"""Makes policy_gradient.json: PPO and GRPO on fixed numbers by TRL's own code, which the tests compare ours with.

    pip install torch transformers trl==1.16.0
    pip download --no-deps trl==0.11.4
    python make_policy_gradient.py trl-0.11.4-py3-none-any.whl > policy_gradient.json

TRL 1.16 has no PPO any more: its last version with a token-by-token KL controller is 0.11.4, whose imports fail with
current transformers. So its functions are taken from the wheel's text. GRPO runs on a stand-in for TRL's trainer.
"""

import ast
import json
import sys
import zipfile
from typing import Optional
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch
import trl
from trl import GRPOTrainer
from trl.trainer.utils import nanstd

N, LENGTH, GROUP = 6, 7, 3
KEYS = ("log_probs", "old", "reference", "values", "old_values")


def batch():
    """Masks of answers of several lengths, and numbers for each of their tokens."""
    torch.manual_seed(11)
    lengths = [3, 7, 1, 5, 2, 6]
    mask = torch.tensor([[int(t < n) for t in range(LENGTH)] for n in lengths])
    old = -3 * torch.rand(N, LENGTH)
    # Ratios on both sides of the clip range, and distances from the reference of about a nat.
    numbers = {
        "old": old,
        "log_probs": old + 0.4 * torch.randn(N, LENGTH),
        "reference": old + 0.7 * torch.randn(N, LENGTH),
        "old_values": torch.randn(N, LENGTH),
    }
    numbers["values"] = numbers["old_values"] + 0.4 * torch.randn(N, LENGTH)
    scores = torch.randn(N, 2) * torch.tensor([1.0, 30.0]) + torch.tensor([0.5, -7.0])
    # One group on which the second reward says nothing.
    scores[GROUP:, 1] = 4.0
    return mask, numbers, scores


def old_functions(wheel):
    """Functions of TRL 0.11.4 by name, from the text of its files."""
    names = {"masked_mean", "masked_var", "masked_whiten", "clip_by_value", "compute_advantages", "loss"}
    names |= {"AdaptiveKLController"}
    found = {"torch": torch, "np": np, "Optional": Optional}
    # Only statistics need these.
    found |= {"entropy_from_logits": lambda logits: logits, "flatten_dict": lambda stats: stats}
    with zipfile.ZipFile(wheel) as files:
        for file in ("core.py", "trainer/utils.py", "trainer/ppo_trainer.py"):
            tree = ast.parse(files.read(f"trl/{file}"))
            of_classes = [node for c in tree.body if isinstance(c, ast.ClassDef) for node in c.body]
            for node in tree.body + of_classes:
                if getattr(node, "name", None) in names:
                    for part in ast.walk(node):
                        # Types that would have to be imported.
                        if isinstance(part, ast.arg):
                            part.annotation = None
                    module = ast.fix_missing_locations(ast.Module([node], []))
                    exec(compile(module, file, "exec"), found)
    return SimpleNamespace(**{name: found[name] for name in names})


def ppo(old, mask, numbers, scores, gamma, lam):
    config = SimpleNamespace(
        gamma=gamma,
        lam=lam,
        whiten_rewards=False,
        cliprange=0.2,
        cliprange_value=0.2,
        vf_coef=0.1,
        ratio_threshold=1e9,
    )
    trainer = SimpleNamespace(config=config)
    n = numbers
    rewards = -0.3 * (n["old"] - n["reference"])
    rewards[torch.arange(N), mask.sum(1) - 1] += scores
    values, advantages, returns = old.compute_advantages(trainer, n["old_values"], rewards, mask)
    policy, value, _ = old.loss(
        trainer,
        n["old"],
        values,
        torch.zeros(N, LENGTH),
        n["values"],
        n["log_probs"],
        mask,
        advantages,
        returns,
    )
    return {
        "gamma": gamma,
        "lambda": lam,
        "kl_coef": 0.3,
        "value_coef": 0.1,
        "advantages": rows(advantages, mask),
        "returns": rows(returns, mask),
        "policy_loss": policy.item(),
        "weighted_value_loss": value.item(),
    }


def controller(old, steps):
    kl = old.AdaptiveKLController(0.2, 3.0, 1000)
    values = []
    for found, n in steps:
        kl.update(found, n)
        values.append(float(kl.value))
    return {"coefficient": 0.2, "target": 3.0, "horizon": 1000, "steps": steps, "values": values}


def advantages(scores, weights):
    """What TRL computes with `multi_objective_aggregation="normalize_then_sum"`, before and after its second step."""
    grouped = scores.view(-1, GROUP, 2)
    mean = torch.nanmean(grouped, dim=1, keepdim=True)
    std = nanstd(grouped, dim=1, keepdim=True)
    each = ((grouped - mean) / (std + 1e-4)).view(-1, 2)
    sums = (each * torch.tensor(weights).unsqueeze(0)).nansum(dim=1)
    return sums, (sums - torch.nanmean(sums)) / (nanstd(sums) + 1e-4)


def grpo(mask, numbers, advantages, beta, loss_type):
    trainer = MagicMock()
    trainer.model.training = True
    trainer.args.use_bias_correction_kl = False
    trainer.args.delta = None
    trainer.args.steps_per_generation = 1
    trainer.current_gradient_accumulation_steps = 1
    trainer.accelerator.num_processes = 1
    trainer.accelerator.gather = trainer.accelerator.gather_for_metrics = lambda tensor: tensor
    trainer.accelerator.reduce = lambda tensor, **_: tensor
    trainer.top_entropy_quantile = 1.0
    trainer.off_policy_mask_threshold = None
    trainer.importance_sampling_level = "token"
    trainer.use_vllm = trainer.aux_loss_enabled = trainer._entropy_bonus_enabled = False
    trainer.beta, trainer.loss_type = beta, loss_type
    trainer.epsilon_low = trainer.epsilon_high = 0.2
    outputs = (numbers["log_probs"], torch.zeros(N, LENGTH), None)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: outputs
    inputs = {
        "prompt_ids": torch.zeros(N, 1, dtype=torch.long),
        "prompt_mask": torch.ones(N, 1, dtype=torch.long),
        "completion_ids": torch.zeros(N, LENGTH, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": numbers["old"],
        "ref_per_token_logps": numbers["reference"],
        "num_items_in_batch": mask.sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    return {"beta": beta, "loss_type": loss_type, "loss": loss.item()}


def rows(tensor, mask):
    """The numbers of each answer's tokens."""
    return [[round(x, 6) for x in row[: int(m.sum())].tolist()] for row, m in zip(tensor, mask)]


def main():
    mask, numbers, scores = batch()
    # Both sides see the same digits.
    numbers = {key: torch.round(value, decimals=6) for key, value in numbers.items()}
    scores = torch.round(scores, decimals=6)
    old = old_functions(sys.argv[1])
    weights = [0.3, 0.7]
    first, second = advantages(scores, weights)
    print(
        json.dumps(
            {
                "trl": [trl.__version__, "0.11.4"],
                "group_size": GROUP,
                **{key: rows(numbers[key], mask) for key in KEYS},
                "scores": [[round(x, 6) for x in row] for row in scores.tolist()],
                "ppo": [ppo(old, mask, numbers, scores[:, 0], g, l) for g, l in ((1.0, 0.95), (0.9, 0.5))],
                "controller": controller(old, [[2.0, 16], [9.0, 200], [3.1, 64], [-1.0, 500]]),
                "weights": weights,
                "advantages": first.tolist(),
                "normalized_advantages": second.tolist(),
                "grpo": [
                    grpo(mask, numbers, first, beta, loss_type)
                    for beta in (0.0, 0.04, 1.0)
                    for loss_type in ("dapo", "grpo")
                ],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
