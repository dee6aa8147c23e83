"""Makes modpo.json: MODPO's loss and its gradient on fixed numbers by its authors' own code, which the tests compare
ours with.

    pip install torch
    git clone https://github.com/ZHZisZZ/modpo CHECKOUT
    python make_modpo.py CHECKOUT > modpo.json

Nothing of that code is here: the loss is taken from the checkout's text and runs on a stand-in for its trainer, in
64-bit floats. Margins are numbers as they are ("scores"), or β times log-ratios, which is the implicit reward
("runs").
"""

import __future__
import ast
import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import torch

FILE, METHOD = "src/trainer/modpo_trainer.py", "modpo_loss"
N, OTHERS = 6, 2


def published_loss(checkout):
    """The loss as a function, without the imports of its file."""
    tree = ast.parse((pathlib.Path(checkout) / FILE).read_text())
    (method,) = (node for node in ast.walk(tree) if getattr(node, "name", None) == METHOD)
    found = {"torch": torch, "F": torch.nn.functional}
    # Types are not looked up.
    flags = __future__.annotations.compiler_flag
    exec(compile(ast.Module([method], []), FILE, "exec", flags), found)
    return found[METHOD]


def side():
    """Log-probs of responses under the policy and a reference, and numbers that margins are made of."""
    log_probs = -8 * torch.rand(N)
    numbers = {
        "log_probs": log_probs,
        "reference": log_probs - 1.5 * torch.randn(N),
        "others": 1.2 * torch.randn(N, OTHERS),
    }
    return {key: torch.round(value, decimals=6) for key, value in numbers.items()}


def case(loss, sides, beta, weights, margins):
    trainer = SimpleNamespace(beta=beta, w=torch.tensor(weights), loss_type="sigmoid")
    scale = {"scores": 1.0, "runs": beta}[margins]
    log_probs = [side["log_probs"].clone().requires_grad_() for side in sides]
    reference = [side["reference"] for side in sides]
    rewards = [scale * side["others"][:, : len(weights) - 1] for side in sides]
    value = loss(trainer, *log_probs, *reference, *rewards)[0].mean()
    value.backward()
    return {
        "beta": beta,
        "weights": weights,
        "margins": margins,
        "loss": round(value.item(), 9),
        "gradient": [[round(x, 9) for x in own.grad.tolist()] for own in log_probs],
    }


def main():
    checkout = sys.argv[1]
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(13)
    sides = [side(), side()]
    loss = published_loss(checkout)
    commit = subprocess.check_output(["git", "-C", checkout, "rev-parse", "HEAD"], text=True)
    print(
        json.dumps(
            {
                "commit": commit.strip(),
                "chosen": {key: value.tolist() for key, value in sides[0].items()},
                "rejected": {key: value.tolist() for key, value in sides[1].items()},
                "cases": [
                    case(loss, sides, beta, weights, margins)
                    for weights in ([0.5, 0.5], [0.8, 0.2], [0.05, 0.95], [0.4, 0.35, 0.25], [0.1, 0.6, 0.3])
                    for beta in (0.1, 0.5, 2.0)
                    for margins in ("scores", "runs")
                ],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
