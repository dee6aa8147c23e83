"""Makes cagrad.json: directions of conflict-averse gradient descent by its authors' own code, which the tests compare
ours with.

    pip install torch numpy scipy
    git clone https://github.com/Cranial-XIX/CAGrad CHECKOUT
    python make_cagrad.py CHECKOUT > cagrad.json

Nothing of that code is here: the functions of three programs are taken from the checkout's text, in 64-bit floats.
Their minimiser has an absolute tolerance, and gives up where numbers are large, which they do not notice. So gradients
are about ten long, as they see them.
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
from scipy.optimize import minimize, minimize_scalar

TOY, IMAGES, ROBOTS = "toy.py", "nyuv2/utils.py", "mtrl/mtrl_files/cagrad.py"
SIZE = 6


def published(checkout, file, name):
    """A function, without the imports of its file."""
    tree = ast.parse((pathlib.Path(checkout) / file).read_text())
    (function,) = (node for node in ast.walk(tree) if getattr(node, "name", None) == name)
    found = {"torch": torch, "np": np, "minimize": minimize, "minimize_scalar": minimize_scalar}
    # Types are not looked up.
    flags = __future__.annotations.compiler_flag
    exec(compile(ast.Module([function], []), file, "exec", flags), found)
    return found[name]


def main():
    checkout = sys.argv[1]
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(16)
    toy = published(checkout, TOY, "cagrad")
    images = published(checkout, IMAGES, "cagrad")
    robots = published(checkout, ROBOTS, "cagrad_exact")
    programs = {
        # d/(1 + c), for two gradients.
        "toy": (2, 10, lambda gradients, c: toy(gradients.t(), c)),
        # d itself, for three.
        "images": (3, 10, lambda gradients, c: images(gradients.t(), c, rescale=0)),
        # d/(1 + c ‖g_0‖/‖g_p‖), for any number, which it divides by 100.
        "robots": (5, 1000, lambda gradients, c: robots(SimpleNamespace(cagrad_c=c), gradients, len(gradients))),
    }
    cases = []
    for program, (n, length, function) in programs.items():
        for _ in range(6):
            # Lengths that differ, and a part in common in half of the cases.
            gradients = torch.randn(n, SIZE) * torch.linspace(0.5, 2.0, n)[:, None]
            gradients += (len(cases) % 2) * torch.randn(SIZE)
            gradients = torch.round(length * gradients, decimals=3)
            for correction in (0.2, 0.5, 0.9):
                direction = function(gradients, correction)
                cases.append(
                    {
                        "program": program,
                        "correction": correction,
                        "gradients": gradients.tolist(),
                        "direction": [round(x, 6) for x in direction.tolist()],
                    }
                )
    commit = subprocess.check_output(["git", "-C", checkout, "rev-parse", "HEAD"], text=True)
    print(json.dumps({"commit": commit.strip(), "cases": cases}, indent=1))


if __name__ == "__main__":
    main()
