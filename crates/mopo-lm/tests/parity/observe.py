"""What transformers computes on a model, and how the scripts beside it make models and adapters.

All values are computed in f32, one sequence at a time, without padding, cache or packing;
transformers' own generation (padded, with its cache) must give the same. Prompts at which rounding
could change a greedy choice are drawn again.
"""

import json
import re

import torch
from peft import LoraConfig, get_peft_model

N_NEW = 64
MARGIN = 1e-3


def randomise(module, generator, norm=1.0, embedding=1.0, gain=1.6):
    """Leaves no parameter at a value that hides its absence: biases, norms, LoRA's B.

    Norms' weights are around `norm`; `embedding` is the deviation of the embedding's; a matrix with
    `gain` 1 keeps the size of its inputs.
    """
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(norm + 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            elif "embed_tokens" in name:
                parameter.copy_(embedding * noise)
            elif "lora_B" in name:  # together with A about half of the base's weights
                parameter.copy_(0.3 * noise / parameter.shape[1] ** 0.5)
            else:  # [outputs, inputs]
                parameter.copy_(gain * noise / parameter.shape[1] ** 0.5)


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def greedy(model, prompt):
    """Each token from a whole forward pass; None if two tokens were almost equally likely."""
    ids = list(prompt)
    for _ in range(N_NEW):
        two = logits_of(model, ids)[-1].topk(2)
        if two.values[0] - two.values[1] < MARGIN:
            return None
        ids.append(int(two.indices[0]))
    return ids[len(prompt):]


def generate(model, prompts, end):
    """transformers' own generation: one batch, padded on the left, with the cache; until `end`."""
    width = max(map(len, prompts))
    pad = [[0] * (width - len(p)) for p in prompts]
    ids = torch.tensor([a + b for a, b in zip(pad, prompts)])
    mask = torch.tensor([[0] * len(a) + [1] * len(b) for a, b in zip(pad, prompts)])
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, use_cache=True,
                             max_new_tokens=N_NEW, eos_token_id=end, pad_token_id=0)
    rows = [row[width:].tolist() for row in out]
    return [row[:row.index(end)] if end in row else row for row in rows]


def log_probs(model, prompt, response):
    """The log-probability of each token of a response, computed in a separate row."""
    lines = logits_of(model, prompt + response).log_softmax(-1)[len(prompt) - 1:-1]
    return [float(line[token]) for line, token in zip(lines, response)]


def observe(model, name, rng):
    vocab = model.config.vocab_size
    tokens = lambda n: [rng.randrange(vocab) for _ in range(n)]
    sequences = [tokens(n) for n in (11, 1, 17, 6)]
    prompts, continued = [], []
    for n in (3, 14, 1, 8):
        while (row := greedy(model, prompt := tokens(n))) is None:
            pass
        prompts.append(prompt)
        continued.append(row)
    distinct = {t for row in continued for t in row}
    assert len(distinct) > 12, "continuations that only repeat themselves prove little"
    unused = min(set(range(vocab)) - {t for row in continued for t in row})
    assert generate(model, prompts, unused) == continued, "padding and cache change the library"
    end = continued[1][20]  # some rows stop in the middle
    stopped = generate(model, prompts, end)
    pairs = []
    for sizes in ((5, 7, 4), (9, 1, 12), (1, 6, 6)):
        prompt, first, second = map(tokens, sizes)
        pairs.append(dict(prompt=prompt, first=first, second=second,
                          first_log_probs=log_probs(model, prompt, first),
                          second_log_probs=log_probs(model, prompt, second)))
    logits = {f"{name}.{i}": logits_of(model, ids).contiguous() for i, ids in enumerate(sequences)}
    return logits, dict(sequences=sequences, pairs=pairs, prompts=prompts, unused=unused,
                        continued=continued, end=end, stopped=stopped)


def tune(model, directory, settings, generator, gain=1.6):
    """A random adapter on the model, saved as PEFT saves it but for what changes from run to run."""
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    lora = torch.nn.ModuleDict(
        {n.replace(".", "/"): m for n, m in tuned.named_modules()
         if n.endswith(("lora_A.default", "lora_B.default"))})
    randomise(lora, generator, gain=gain)
    tuned.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    peft = json.loads(path.read_text())
    if isinstance(peft["target_modules"], list):
        peft["target_modules"].sort()  # a set, in PEFT
    peft["base_model_name_or_path"] = None
    path.write_text(json.dumps(peft, indent=1, sort_keys=True) + "\n")
    return tuned


def write_json(path, value):
    """Lists of numbers on one line."""
    text = json.dumps(value, indent=1, sort_keys=True)
    while (shorter := shorten(text)) != text:
        text = shorter
    path.write_text(text + "\n")


def shorten(text):
    return re.sub(r"\[\s*([-\d.e]+(?:,\s+[-\d.e]+)*)\s*\]",
                  lambda m: "[" + ", ".join(m.group(1).replace(",", " ").split()) + "]", text)
