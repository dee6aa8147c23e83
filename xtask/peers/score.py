"""Scores texts with transformers in the usual way: tokenize, pad, run in batches.

    python score.py MODEL_DIR TEXTS.jsonl [--batch 8 --sort --repeats 3 --threads 2]

A line of TEXTS.jsonl has `prompt` and `response`, which are concatenated. With --sort texts are sorted
by their number of tokens, so that little is padded. Prints one JSON line with the scores and the median
time, from text to score, after the first call. Needs torch and transformers.
"""
import argparse, json, resource, statistics, time
import torch, transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

p = argparse.ArgumentParser()
p.add_argument("model")
p.add_argument("texts")
for name, value in {"batch": 8, "repeats": 3, "threads": 2}.items():
    p.add_argument(f"--{name}", type=int, default=value)
p.add_argument("--sort", action="store_true")
a = p.parse_args()
torch.set_num_threads(a.threads)
tok = AutoTokenizer.from_pretrained(a.model, padding_side="right", truncation_side="right")
model = AutoModelForSequenceClassification.from_pretrained(
    a.model, dtype=torch.float32, attn_implementation="sdpa").eval()
rows = [json.loads(line) for line in open(a.texts, encoding="utf-8")]
texts = [row["prompt"] + row["response"] for row in rows]


def score():
    order, width = list(range(len(texts))), 0
    if a.sort:
        lengths = [len(ids) for ids in tok(texts, truncation=True, max_length=1024).input_ids]
        order.sort(key=lambda i: -lengths[i])
    scores = [0.0] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(order), a.batch):
            batch = order[start:start + a.batch]
            ids = tok([texts[i] for i in batch], padding=True, truncation=True, max_length=1024,
                      return_tensors="pt")
            width += ids.input_ids.numel()
            for i, logits in zip(batch, model(**ids).logits.tolist()):
                scores[i] = logits[0]
    return scores, width


times = []
for _ in range(a.repeats):
    t = time.perf_counter()
    scores, padded = score()
    times.append(time.perf_counter() - t)
tokens = sum(len(ids) for ids in tok(texts, truncation=True, max_length=1024).input_ids)
s = statistics.median(times[1:] or times)
print(json.dumps(dict(peer="transformers", torch=torch.__version__, transformers=transformers.__version__,
                      threads=a.threads, batch=a.batch, sorted=a.sort, texts=len(texts), tokens=tokens,
                      padded_tokens=padded, seconds_per_call=round(s, 4),
                      texts_per_second=round(len(texts) / s, 3), tokens_per_second=round(tokens / s, 1),
                      peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                      seconds=[round(x, 4) for x in times], scores=scores)))
