"""Loads models saved by mopo-eval with transformers, and compares logits.

    venv/bin/python crates/mopo-eval/tests/reward/check_saved.py DIRECTORY...

A directory holds a saved model and told.json, written by make_fixtures.py for the same model.
"""

import json
import pathlib
import sys

import torch
from transformers import AutoModelForSequenceClassification

for argument in sys.argv[1:]:
    directory = pathlib.Path(argument)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        directory, output_loading_info=True, attn_implementation="eager")
    for kind, names in info.items():
        assert not names, f"{directory}: {kind}: {names}"
    model.eval()
    largest = 0
    for case in json.loads((directory / "told.json").read_text())[0]["cases"]:
        with torch.no_grad():
            found = model(input_ids=torch.tensor([case["ids"]])).logits[0]
        expected = torch.tensor(case["logits"])
        relative = ((found - expected).abs() / expected.abs().clamp(min=0.1)).max().item()
        largest = max(largest, relative)
    print(f"{directory.name}: {type(model).__name__}, labels {model.config.id2label}, largest relative "
          f"difference {largest:.1e}")
    assert largest < 1e-4, directory
