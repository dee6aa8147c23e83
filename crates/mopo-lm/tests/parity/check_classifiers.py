"""Loads classifiers that MOPO saved with transformers and compares their scores with those that it was told.

    python check_classifiers.py DIRECTORY TOLD.json [DIRECTORY TOLD.json ...]
"""

import json
import sys

import torch
from transformers import AutoModelForSequenceClassification


def main(arguments):
    for directory, told in zip(arguments[::2], arguments[1::2]):
        with open(told, encoding="utf-8") as file:
            told = json.load(file)
        model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)
        with torch.no_grad():
            found = torch.cat([model.eval()(input_ids=torch.tensor([ids])).logits for ids in told["sequences"]])
        expected = torch.tensor(told["scores"])
        largest = ((found - expected).abs() / expected.abs().clamp(min=0.1)).max().item()
        names = [model.config.id2label[i] for i in range(len(model.config.id2label))]
        print(f"{directory}: {type(model).__name__}, largest relative difference {largest:.1e}")
        assert names == told["labels"], names
        assert largest < 1e-4, directory


if __name__ == "__main__":
    main(sys.argv[1:])
