"""Greedy generation of transformers with its cache, on the prompts of `mopo bench generate`.

    python generate.py MODEL_DIR|FILE.gguf PAIRS.jsonl [--batch 1 --new-tokens 64 --max-len 512 --repeats 4 --threads 2]

Prints one JSON line with the median time after the first call and the new token ids. A row ends at the
last id of the vocabulary, which occurs in no text, so that no row ends early; `mopo bench generate`
does the same. Rows are padded on the left. A GGUF file is read as f32. Needs torch and transformers, and
gguf for such a file.
"""
import argparse, json, resource, statistics, time
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from inputs import fitting_rows, model_source

p = argparse.ArgumentParser()
p.add_argument("model")
p.add_argument("pairs")
for name, value in {"batch": 1, "new-tokens": 64, "max-len": 512, "repeats": 4, "threads": 2}.items():
    p.add_argument(f"--{name}", type=int, default=value)
p.add_argument("--device", default="cpu")
a = p.parse_args()
torch.set_num_threads(a.threads)
source = model_source(a.model)
tok = AutoTokenizer.from_pretrained(**source)
model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, attn_implementation="sdpa").eval().to(a.device)

prompts = [tok(r["prompt"]).input_ids for r in fitting_rows(a.pairs, tok, a.max_len, a.batch)]
end = model.config.vocab_size - 1
width = max(map(len, prompts))
ids = torch.full((a.batch, width), end)
mask = torch.zeros((a.batch, width), dtype=torch.long)
for i, prompt in enumerate(prompts):
    ids[i, width - len(prompt):] = torch.tensor(prompt)
    mask[i, width - len(prompt):] = 1

ids, mask = ids.to(a.device), mask.to(a.device)
times = []
with torch.no_grad():
    for _ in range(a.repeats):
        t = time.perf_counter()
        out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, use_cache=True,
                             max_new_tokens=a.new_tokens, eos_token_id=end, pad_token_id=end)
        times.append(time.perf_counter() - t)
new = out[:, width:].tolist()
s = statistics.median(times[1:] or times)
print(json.dumps(dict(peer="transformers", torch=torch.__version__, transformers=transformers.__version__,
                      device=a.device, threads=a.threads, batch=a.batch, new_tokens=a.new_tokens,
                      prompt_tokens=[len(x) for x in prompts], seconds_per_call=round(s, 4),
                      tokens_per_second=round(a.batch * a.new_tokens / s, 2),
                      peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                      seconds=[round(x, 4) for x in times], ids=new)))
