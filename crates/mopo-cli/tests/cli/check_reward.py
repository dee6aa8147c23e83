"""Scores the responses of a labelled set with a reward model that `mopo reward train` wrote, with
transformers' AutoModelForSequenceClassification, and compares them with the set's scores.

    python check_reward.py MODEL_DIR LABELLED_SET OBJECTIVE
"""

import json
import pathlib
import sys
import tomllib

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model_dir, labelled, objective = sys.argv[1:]
settings = tomllib.loads((pathlib.Path(model_dir) / "reward.toml").read_text())
tokenizer = AutoTokenizer.from_pretrained(model_dir)
model, info = AutoModelForSequenceClassification.from_pretrained(
    model_dir, output_loading_info=True
)
model.eval()
for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    assert not info[key], f"{key}: {info[key]}"
assert model.config.id2label[settings["label"]] == objective, model.config.id2label

header, *records = map(json.loads, open(labelled, encoding="utf-8"))
place = header["objectives"].index(objective)
texts, ours = [], []
for record in records:
    for side in ("first", "second"):
        text = settings["text"].replace("{prompt}", record["prompt"])
        texts.append(text.replace("{response}", record[side]))
        ours.append(record["scores"][side][place])
ours = torch.tensor(ours)

theirs = []
for start in range(0, len(texts), 7):  # padded batches
    batch = tokenizer(
        texts[start : start + 7],
        padding=True,
        truncation=True,
        max_length=settings["max_length"],
        return_tensors="pt",
    )
    with torch.no_grad():
        theirs.append(model(**batch).logits[:, settings["label"]])
theirs = torch.cat(theirs)
scale = theirs.abs().max()
difference = ((ours - theirs).abs().max() / scale).item()
assert ours.std() > 0, "all scores are equal"
assert difference < 1e-4, f"scores differ by {difference} of the largest"
print(f"{len(texts)} texts, largest difference {difference:.1e} of the largest score")
