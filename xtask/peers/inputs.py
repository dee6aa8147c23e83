"""The model and the pairs that peers of `mopo bench` read."""
import json, os


def model_source(model):
    """Where transformers finds a model: a directory, or a GGUF file in one."""
    folder, file = os.path.split(model)
    if file.endswith(".gguf"):
        return dict(pretrained_model_name_or_path=folder or ".", gguf_file=file)
    return dict(pretrained_model_name_or_path=model)


def fitting_rows(path, tok, max_len, n):
    """The first n pairs whose prompt with either response has fewer than max_len tokens."""
    rows = [json.loads(line) for line in open(path, encoding="utf-8")]
    rows = [r for r in rows if max(len(tok(r["prompt"] + r[k]).input_ids) for k in ("chosen", "rejected")) < max_len]
    assert len(rows) >= n, f"{path} has {len(rows)} pairs that fit, of {n}"
    return rows[:n]
