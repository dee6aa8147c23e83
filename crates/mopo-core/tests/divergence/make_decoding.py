"""Makes decoding.json: what multi-objective decoding (MOD) chooses tokens by, and the rewards of the policies that it
mixes, on fixed numbers by its authors' own code, which the tests compare ours with.

    pip install torch numpy
    git clone https://github.com/srzer/MOD CHECKOUT
    python make_decoding.py CHECKOUT > decoding.json

Nothing of that code is here: functions are taken from the checkout's text and run on stand-ins for their classes, in
64-bit floats. The order of its α-divergence counts as ours does.
"""

import __future__
import ast
import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import torch

DECODING = "experiment-DPO/src/utils/util_decode.py", "FusionModel", "f_value"
TRAINING = "experiment-DPO/src/trainer/dpo_trainer.py", "f_DPOTrainer", "dpo_loss"
N = 8
# Ours and theirs. Their program mixes policies of the Jensen–Shannon divergence as those of reverse KL.
MIXED = {
    "reverse_kl": "reverse_kl",
    "forward_kl": "forward_kl",
    "alpha:0.3": "0.3-divergence",
    "alpha:0.8": "0.8-divergence",
}
REWARDED = MIXED | {"jensen_shannon": "jsd"}


def published(checkout, file, owner, name):
    """A class's function and the functions beside the class, without the imports of their file."""
    tree = ast.parse((pathlib.Path(checkout) / file).read_text())
    (owner,) = (node for node in tree.body if getattr(node, "name", None) == owner)
    (method,) = (node for node in owner.body if getattr(node, "name", None) == name)
    helpers = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    found = {"torch": torch, "np": np, "F": torch.nn.functional}
    # Types are not looked up.
    flags = __future__.annotations.compiler_flag
    exec(compile(ast.Module([*helpers, method], []), file, "exec", flags), found)
    return found[name]


def mixed(function, policies, reference, name, weights):
    model = SimpleNamespace(f_type=MIXED[name], weights=weights, num_models=len(weights) + 1)
    scores = function(model, [*policies[: len(weights)], reference])
    return {"divergence": name, "weights": weights, "scores": scores.tolist()}


def rewards(function, log_ratios, name, beta):
    trainer = SimpleNamespace(divergence_type=REWARDED[name], beta=beta, loss_type="sigmoid")
    nothing = torch.zeros_like(log_ratios)
    found = function(trainer, log_ratios, nothing, nothing, nothing)[1]
    return {"divergence": name, "beta": beta, "rewards": found.tolist()}


def main():
    checkout = sys.argv[1]
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(16)
    logits = torch.round(2 * torch.randn(4, N), decimals=4)
    *policies, reference = torch.log_softmax(logits, dim=-1)
    log_ratios = torch.round(torch.linspace(-4, 4, 9) + 0.3 * torch.randn(9), decimals=4)
    decoding, training = published(checkout, *DECODING), published(checkout, *TRAINING)
    commit = subprocess.check_output(["git", "-C", checkout, "rev-parse", "HEAD"], text=True)
    print(
        json.dumps(
            {
                "commit": commit.strip(),
                "policies": [policy.tolist() for policy in policies],
                "reference": reference.tolist(),
                "mixed": [
                    mixed(decoding, policies, reference, name, weights)
                    for name in MIXED
                    for weights in ([0.5, 0.5], [0.9, 0.1], [0.0, 1.0], [0.2, 0.5, 0.3], [0.6, 0.0, 0.4])
                ],
                "log_ratios": log_ratios.tolist(),
                "rewards": [rewards(training, log_ratios, name, beta) for name in REWARDED for beta in (0.1, 2.0)],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
