"""Writes fixtures.json: point sets and moocore's results for them.

    python3 -m venv venv
    venv/bin/pip install -r crates/mopo-pareto/tests/moocore/requirements.txt
    venv/bin/python crates/mopo-pareto/tests/moocore/make_fixtures.py

The same version of moocore and numpy writes the same file. moocore shares no code with mopo-pareto.
Its definitions differ from ours as follows:

- hv_contributions ignores dominated points unless ignore_dominated=False, which is the definition
  that mopo-pareto follows: hypervolume of all less hypervolume of all but one. Copies contribute 0
  each in both. moocore also returns 0 for a contribution below the root of the machine epsilon,
  1.5e-8; no contribution here is that small.
- is_nondominated keeps only the first of several equal points, unless keep_weakly=True; mopo-pareto
  keeps all.
- pareto_rank gives each point the number of its layer, from 0; equal points share it. mopo-pareto
  returns the layers as lists of indices.
- `ref` is a reference point for hypervolumes, a reference set for IGD+ and epsilon.
"""

import json
import pathlib

import moocore
import numpy as np

SEED = 20261123
KINDS = ["front", "cloud", "grid", "copies", "digits", "one"]


def points_of(kind, d, rng):
    """One set of points, to be minimised unless a column is negated later."""
    if kind == "front":  # no point dominates another
        return np.round(moocore.generate_ndset(24, d, "concave-sphere", seed=rng), 3)
    if kind == "cloud":  # most are dominated, some miss the reference point
        return np.round(rng.uniform(0.0, 1.3, (24, d)), 3)
    if kind == "grid":  # ties in every objective, copies, points on the reference point's planes
        return rng.integers(0, 5, (28, d)).astype(float)
    if kind == "copies":  # a front in which every third point occurs twice
        front = np.round(moocore.generate_ndset(15, d, "simplex", seed=rng), 3)
        return np.concatenate([front, front[::3], front[:1]])
    if kind == "digits":  # all digits of a number
        return moocore.generate_ndset(12, d, "convex-sphere", seed=rng)
    return np.round(rng.uniform(0.0, 1.0, (1, d)), 3)


def case(kind, d, rng):
    points = points_of(kind, d, rng)
    front = moocore.generate_ndset(10, d, "simplex", seed=rng)
    front = np.round(front * 4 if kind == "grid" else front, 0 if kind == "grid" else 3)
    front = np.concatenate([front, front[:2]])  # copies count twice in IGD+
    ref_point = np.full(d, 4.0 if kind == "grid" else 1.1)
    maximise = np.zeros(d, dtype=bool) if kind == "front" else rng.random(d) < 0.5
    if kind == "cloud":
        maximise[:] = True
    for values in (points, front, ref_point):
        values[..., maximise] *= -1.0
    points += 0.0  # no negative zeros
    front += 0.0
    sides = {"maximise": maximise}
    return {
        "kind": kind,
        "maximise": maximise.tolist(),
        "ref_point": ref_point.tolist(),
        "points": points.tolist(),
        "reference_front": front.tolist(),
        "hypervolume": float(moocore.hypervolume(points, ref=ref_point, **sides)),
        "contributions": moocore.hv_contributions(
            points, ref=ref_point, ignore_dominated=False, **sides
        ).tolist(),
        "igd_plus": float(moocore.igd_plus(points, ref=front, **sides)),
        "epsilon_additive": float(moocore.epsilon_additive(points, ref=front, **sides)),
        "non_dominated": np.flatnonzero(
            moocore.is_nondominated(points, keep_weakly=True, **sides)
        ).tolist(),
        "ranks": moocore.pareto_rank(points, **sides).tolist(),
    }


def main():
    cases = [
        case(kind, d, np.random.default_rng([SEED, d, i]))
        for d in range(2, 9)
        for i, kind in enumerate(KINDS)
    ]
    head = {
        "generator": "crates/mopo-pareto/tests/moocore/make_fixtures.py",
        "moocore": moocore.__version__,
        "numpy": np.__version__,
        "seed": SEED,
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
    body = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    text = "{\n" + "".join(lines) + '"cases": [\n' + body + "\n]\n}\n"
    pathlib.Path(__file__).with_name("fixtures.json").write_text(text)


if __name__ == "__main__":
    main()
