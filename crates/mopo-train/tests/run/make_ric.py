"""Makes ric.json: the scores that RiC asks for, by its authors' own code, which a test of `conditioned` compares ours
with.

    pip install numpy
    git clone https://github.com/YangRui2015/RiC CHECKOUT
    python make_ric.py CHECKOUT > ric.json

Nothing of that code is here: the function is taken from the checkout's text, without the imports of its file. It
rounds to one decimal, so the scores here are in thousandths of a standard deviation.
"""

import ast
import json
import pathlib
import subprocess
import sys

import numpy as np

FILE, FUNCTION = "ric/utils.py", "map_rewards_from_preference"
WEIGHTS = [[i / 10, 1 - i / 10] for i in range(11)]
WEIGHTS += [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.4, 0.4, 0.2]]
WEIGHTS += [[0.1, 0.1, 0.8], [0.2, 0.6, 0.2], [0.35, 0.25, 0.4], [0.05, 0.3, 0.65]]


def published_map(checkout):
    tree = ast.parse((pathlib.Path(checkout) / FILE).read_text())
    (function,) = (node for node in tree.body if getattr(node, "name", None) == FUNCTION)
    found = {"np": np}
    exec(compile(ast.Module([function], []), FILE, "exec"), found)
    return found[FUNCTION]


def main():
    checkout = sys.argv[1]
    function = published_map(checkout)
    scores = np.round(1000 * np.random.default_rng(17).normal(size=(3, 500)), 3)
    commit = subprocess.check_output(["git", "-C", checkout, "rev-parse", "HEAD"], text=True)
    print(
        json.dumps(
            {
                "commit": commit.strip(),
                "range": [[row.min(), row.max()] for row in scores],
                "cases": [
                    {
                        "map": name,
                        "weights": weights,
                        "targets": function(list(scores[: len(weights)]), np.array(weights), name).tolist(),
                    }
                    for name in ("linf", "l2", "linear")
                    for weights in WEIGHTS
                ],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
