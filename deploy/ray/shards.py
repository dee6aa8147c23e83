"""Runs the shards of a command as Ray tasks, and merges them:

    python shards.py 8 mopo label pairs.jsonl --rewards rewards.toml --out labelled.jsonl

All nodes must see the same files. A shard whose node died is started again on another one, and goes on where it was.
"""

import subprocess
import sys

import ray

n, *command = sys.argv[1:]
at = command.index("--out") + 1
out, n = command[at], int(n)
sharded = command[:at] + [out + ".{shard}"] + command[at + 1 :]


@ray.remote(num_cpus=1, max_retries=3, retry_exceptions=[subprocess.CalledProcessError])
def shard(i):
    # The shard ends with its task: another one would find its lock.
    tied = ["setpriv", "--pdeathsig", "KILL", *sharded]
    subprocess.run(tied + ["--shard", f"{i}/{n}"], check=True)
    return ray.get_runtime_context().get_node_id()


ray.init(address="auto")
for i, node in enumerate(ray.get([shard.remote(i) for i in range(1, n + 1)]), 1):
    print(f"shard {i}/{n} on node {node}")
parts = [f"{out}.{i}-of-{n}" for i in range(1, n + 1)]
# The shards of labels have the pairs with them.
is_label = "label" in command[:at]
words = [command[0], "label", "--out", out] if is_label else command
subprocess.run(words + ["--merge", *parts], check=True)
