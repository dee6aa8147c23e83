"""Makes raco.json: RACO's losses, mixtures of gradients and steps on fixed numbers by its authors' own code, which the
tests compare ours with.

    pip install torch
    git clone https://github.com/PeterLauLukChen/RACO CHECKOUT
    python make_raco.py CHECKOUT > raco.json

Nothing of that code is here: the step is taken from the checkout's text and runs on a stand-in for its trainer, in
64-bit floats. The policy's log-probs are linear in its parameters, so that a pair's features are its gradient.
"""

import __future__
import ast
import contextlib
import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import torch

FILE, METHOD = "trl/trl/trainer/dpo_trainer.py", "training_step"
OBJECTIVES = ["quality", "verbosity", "faithfulness"]
N, SIZE, BETA = 4, 4, 0.5
WEIGHTS = [[0.5, 0.5], [0.8, 0.2], [0.15, 0.85], [0.3, 0.45, 0.25], [0.1, 0.2, 0.7]]


def published_step(checkout):
    """The step as a function, without the imports of its file."""
    tree = ast.parse((pathlib.Path(checkout) / FILE).read_text())
    (method,) = (node for node in ast.walk(tree) if getattr(node, "name", None) == METHOD)
    helpers = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("_")]
    found = {"torch": torch, "F": torch.nn.functional, "nullcontext": contextlib.nullcontext}
    # Types are not looked up.
    flags = __future__.annotations.compiler_flag
    exec(compile(ast.Module([*helpers, method], []), FILE, "exec", flags), found)
    return found[METHOD]


def batch():
    """Features and reference log-probs of both responses of pairs, and which one each objective prefers."""
    sides = [
        {"features": 4 * torch.randn(N, SIZE), "reference": torch.randn(N)},
        {"features": 4 * torch.randn(N, SIZE), "reference": torch.randn(N)},
    ]
    return {
        "parameters": torch.round(0.3 * torch.randn(SIZE), decimals=4),
        "sides": [{key: torch.round(value, decimals=4) for key, value in side.items()} for side in sides],
        # Columns that differ, so that gradients do.
        "prefers_first": torch.stack([torch.randperm(N) < N // 2 + k % 2 for k in range(len(OBJECTIVES))]),
    }


def step(function, batch, weights, correction, clip):
    """The gradient that the step leaves behind, and what it reports."""
    parameters = torch.nn.Parameter(batch["parameters"].clone())
    first, second = batch["sides"]
    reported = {}
    trainer = SimpleNamespace(
        args=SimpleNamespace(raco=True, raco_weights=weights, raco_c=correction, raco_clip_lambda=clip),
        accelerator=SimpleNamespace(device=parameters.device),
        beta=BETA,
        reference_free=False,
        is_deepspeed_enabled=False,
        _peft_has_been_casted_to_bf16=False,
        _prepare_inputs=lambda inputs: inputs,
        concatenated_forward=lambda *_: {
            "chosen_logps": first["features"] @ parameters,
            "rejected_logps": second["features"] @ parameters,
        },
        store_metrics=lambda metrics, train_eval: reported.update(metrics),
    )
    model = SimpleNamespace(train=lambda: None, parameters=lambda: [parameters])
    inputs = {"ref_chosen_logps": first["reference"], "ref_rejected_logps": second["reference"]}
    for name, prefers_first in zip(OBJECTIVES, batch["prefers_first"]):
        inputs[f"raco_s_{name}"] = torch.where(prefers_first, 1.0, -1.0)
    function(trainer, model, inputs)
    return parameters.grad.tolist(), reported


def rounded(numbers):
    return [round(x, 9) for x in numbers]


def case(function, batch, weights, correction, clip):
    direction, reported = step(function, batch, weights, correction, clip)
    names = OBJECTIVES[: len(weights)]
    if len(weights) == 2:
        mixture = [reported["raco/lambda_raw"], 1 - reported["raco/lambda_raw"]]
    else:
        mixture = [reported[f"raco/p_raw_{name}"] for name in names]
    return {
        "weights": weights,
        "correction": correction,
        "clip": clip,
        "mixture": rounded(mixture),
        "clipped": rounded(reported[f"raco/p_mix_{name}"] for name in names),
        "direction": rounded(direction),
    }


def solved(function):
    numbers = batch()
    # With all weight on one objective and no correction the step is its gradient.
    single = [[float(i == k) for i in range(len(OBJECTIVES))] for k in range(len(OBJECTIVES))]
    reported = step(function, numbers, single[0], 0.0, False)[1]
    return {
        "parameters": numbers["parameters"].tolist(),
        "sides": [{key: value.tolist() for key, value in side.items()} for side in numbers["sides"]],
        "prefers_first": numbers["prefers_first"].tolist(),
        "losses": rounded(reported[f"raco/loss_{name}"] for name in OBJECTIVES),
        "gradients": [rounded(step(function, numbers, weights, 0.0, False)[0]) for weights in single],
        "cases": [
            case(function, numbers, weights, correction, clip)
            for weights in WEIGHTS
            for correction in (0.4, 0.9)
            for clip in (False, True)
        ],
    }


def main():
    checkout = sys.argv[1]
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(32)
    function = published_step(checkout)
    commit = subprocess.check_output(["git", "-C", checkout, "rev-parse", "HEAD"], text=True)
    batches = [solved(function) for _ in range(5)]
    print(json.dumps({"commit": commit.strip(), "beta": BETA, "batches": batches}, indent=1))


if __name__ == "__main__":
    main()
