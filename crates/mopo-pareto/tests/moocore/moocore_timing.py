"""Times moocore for `cargo xtask bench pareto`, as examples/pareto_timing.rs times mopo-pareto.

    python3 moocore_timing.py sets FOLDER    writes the point sets, to be minimised, and lists them
    python3 moocore_timing.py serve FOLDER   a request per line: operation, points, second set;
                                             an answer per line: seconds per call, then the values

The arrays are contiguous float64 before timing starts, everything is minimised (no copies for
negation), and each measurement covers many calls.
"""

import pathlib
import sys
import time

import moocore
import numpy as np

SEED = 20261123
SHORTEST = 0.02  # seconds that the calls for one answer take
SIZES = {2: (100, 1000), 3: (100, 1000), 4: (100, 1000), 5: (50, 200), 6: (30, 100)}
SHAPES = {"sphere": "concave-sphere", "convex": "convex-sphere", "cloud": None}


def write_sets(folder):
    folder.mkdir(parents=True, exist_ok=True)

    def write(name, points):
        rows = (" ".join(repr(float(v)) for v in row) for row in points)
        (folder / name).write_text("\n".join(rows) + "\n")

    for d, sizes in SIZES.items():
        for n in sizes:
            # On the simplex, neither below nor above all of the other sets.
            front = moocore.generate_ndset(n, d, "simplex", seed=SEED + 1)
            write(f"front-{d}-{n}", front)
            for name, method in SHAPES.items():
                rng = np.random.default_rng(SEED)
                if method is None:
                    points = rng.random((n, d))
                else:
                    points = moocore.generate_ndset(n, d, method, seed=rng)
                write(f"{name}-{d}-{n}", points)
                print(name, d, n, f"{name}-{d}-{n}", f"front-{d}-{n}")


def read(path):
    return np.ascontiguousarray(np.loadtxt(path, dtype=np.float64, ndmin=2))


def call(operation, points, front):
    """The operation as a function without arguments, and a function that turns its result into a list."""
    ref = np.full(points.shape[1], 1.1)
    scalar = lambda result: [result]
    operations = {
        "hypervolume": (lambda: moocore.hypervolume(points, ref=ref), scalar),
        "contributions": (
            lambda: moocore.hv_contributions(points, ref=ref, ignore_dominated=False),
            list,
        ),
        # The same result if no point dominates another, and faster.
        "contributions_of_front": (lambda: moocore.hv_contributions(points, ref=ref), list),
        "igd_plus": (lambda: moocore.igd_plus(points, ref=front), scalar),
        "epsilon_additive": (lambda: moocore.epsilon_additive(points, ref=front), scalar),
        "non_dominated": (
            lambda: moocore.is_nondominated(points, keep_weakly=True),
            np.flatnonzero,
        ),
        "layers": (lambda: moocore.pareto_rank(points), list),
    }
    return operations[operation]


def serve(folder):
    sets = {}
    for line in sys.stdin:
        operation, *names = line.split()
        for name in names:
            if name not in sets:
                sets[name] = read(folder / name)
        run, values = call(operation, *(sets[name] for name in names))
        result = run()  # warms up
        calls, passed = 0, 0.0
        while passed < SHORTEST:
            batch = max(calls, 1)
            start = time.perf_counter()
            for _ in range(batch):
                run()
            passed += time.perf_counter() - start
            calls += batch
        print(passed / calls, *(repr(float(v)) for v in values(result)), flush=True)


if __name__ == "__main__":
    {"sets": write_sets, "serve": serve}[sys.argv[1]](pathlib.Path(sys.argv[2]))
