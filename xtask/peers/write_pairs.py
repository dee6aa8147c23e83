"""Writes the benchmark's pairs as JSON lines, for programs not written in Python.

    python write_pairs.py PEERS_DIR OUT.jsonl --rows 192

PEERS_DIR is the folder with hh_pairs.py, whose `pairs` is called: in file order, all pairs.
Needs the standard library only.
"""
import argparse, json, pathlib, sys

p = argparse.ArgumentParser()
p.add_argument("peers", type=pathlib.Path)
p.add_argument("out", type=pathlib.Path)
p.add_argument("--rows", type=int, required=True)
a = p.parse_args()
sys.path.insert(0, str(a.peers.resolve()))
from hh_pairs import pairs

part = a.out.with_suffix(".part")
with open(part, "w", encoding="utf-8") as f:
    for row in pairs(a.rows):
        f.write(json.dumps({k: row[k] for k in ("prompt", "chosen", "rejected")}) + "\n")
part.replace(a.out)
