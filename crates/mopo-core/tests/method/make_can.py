"""Makes can.json: CAN's dual on fixed scores, its gradient and its minimum, and labels of pairs by its authors' own code,
which tests of `dual::one_shot` and of mopo-train's `can` compare ours with.

    pip install torch numpy scipy
    git clone https://github.com/shuoli90/CAN CHECKOUT
    python make_can.py CHECKOUT > can.json

Nothing of that code is here: a class and a function are taken from the checkout's text, without the rest of their
files.
"""

import ast
import contextlib
import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import torch
from scipy.special import softmax

DUAL, CLASS = "safe_rlhf/trainers/model_based.py", "DualOptimizer"
LABELS, FUNCTION = "safe_rlhf/algorithms/cdpo/dpo.py", "return_prompt_and_responses"
PROMPTS, RESPONSES = 6, 5


def published(checkout, file, name, **names):
    tree = ast.parse((pathlib.Path(checkout) / file).read_text())
    # Of two functions of this name the later one labels by scores.
    *_, found = (node for node in ast.walk(tree) if getattr(node, "name", None) == name)
    exec(compile(ast.Module([found], []), file, "exec"), names)
    return names[name]


def at(dual, multiplier):
    """The dual, its gradient and the mean of the first score at a multiplier: before the first step from there."""
    logits = (dual.helpfulness_scores + (dual.safety_scores - dual.thresholds) * multiplier) / dual.kl_coeff
    _, _, gradient, level, _ = dual.solve(lam_init=multiplier, num_iters=1)
    return {
        "multiplier": multiplier,
        "dual": dual.kl_coeff * dual.log_mean_Z_values(logits).mean(),
        "gradient": gradient[0],
        "level": level[0],
    }


def case(solver, scores, beta, threshold):
    dual = solver(scores[..., 0], scores[..., 1], threshold, beta)
    # Far below the default, which is 1e-5.
    dual.solve(lr=0.2 * beta, num_iters=200_000, err=1e-13, set_optimum=True)
    return {
        "beta": beta,
        "threshold": threshold,
        "minimum": dual.lam_star,
        "values": [at(dual, multiplier) for multiplier in (0.0, 0.3, 1.0, 4.0)],
    }


def labels(checkout, pairs, multiplier):
    """The probability of each pair that its second response is labelled as the better one."""
    drawn = []
    stand_in = {
        "torch": SimpleNamespace(
            tensor=torch.tensor,
            sigmoid=torch.sigmoid,
            bernoulli=lambda probability: drawn.extend(probability.tolist()) or torch.zeros_like(probability),
        ),
        "model": SimpleNamespace(device="cpu"),
        "tokenizer": SimpleNamespace(decode=lambda tokens, skip_special_tokens: tokens),
        "script_args": SimpleNamespace(lamb=multiplier),
    }
    texts = [None] * len(pairs)
    samples = {"prompt_ids": texts, "response_0_ids": texts, "response_1_ids": texts}
    for response in range(2):
        samples[f"reward_scores_{response}"] = pairs[:, response, 0].tolist()
        samples[f"cost_scores_{response}"] = (-pairs[:, response, 1]).tolist()
    published(checkout, LABELS, FUNCTION, **stand_in)(samples)
    return {"multiplier": multiplier, "second_is_better": drawn}


def main():
    checkout = sys.argv[1]
    torch.set_default_dtype(torch.float64)
    solver = published(checkout, DUAL, CLASS, np=np, softmax=softmax)
    scores = np.random.default_rng(16).normal(size=(PROMPTS, RESPONSES, 2))
    # What helps does harm.
    scores[..., 1] -= 0.5 * scores[..., 0]
    # Also exact in 32 bits.
    scores = np.round(64 * scores) / 64
    commit = subprocess.check_output(["git", "-C", checkout, "rev-parse", "HEAD"], text=True)
    # The class prints where it does not converge.
    with contextlib.redirect_stdout(sys.stderr):
        cases = [case(solver, scores, beta, threshold) for beta in (0.1, 0.5, 2.0) for threshold in (-2.0, 0.2, 0.6)]
    print(
        json.dumps(
            {
                "commit": commit.strip(),
                "scores": scores.tolist(),
                "cases": cases,
                # Of the first two responses to each prompt.
                "labels": [labels(checkout, scores[:, :2], multiplier) for multiplier in (0.0, 0.7, 3.0)],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
