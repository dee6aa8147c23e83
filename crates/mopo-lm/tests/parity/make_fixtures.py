"""Writes fixtures/: tiny random phi models and adapters, and the results of transformers and PEFT.

    python3 -m venv venv
    venv/bin/pip install -r crates/mopo-lm/tests/parity/requirements.txt
    venv/bin/python crates/mopo-lm/tests/parity/make_fixtures.py

For each model: a directory in the layout of Hugging Face, NAME.json (token ids in, log-probabilities and greedy
continuations out) and NAME.safetensors (logits). All values are computed in f32, one sequence at a
time, without padding, cache or packing; transformers' own generation (padded, with its cache) must
give the same. Prompts at which rounding could change a greedy choice are drawn again.

- half: published proportions (half of each head is rotated), F32, with two adapters of PEFT.
- shards: 0.4 of each head is rotated, another base of the frequencies, F32, split over files.
- brain: four heads, stored as BF16, computed in F32 from the rounded weights.
- pytorch: as `torch.save` writes it, in F16, with one matrix saved as a transposed view.
- pytorch_shards: the same over two files and an index.
"""

import json
import pathlib
import random
import re
import shutil

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PhiConfig, PhiForCausalLM

SEED = 20261124
N_NEW = 64
MARGIN = 1e-3
OUT = pathlib.Path(__file__).parent / "fixtures"
SIZES = {
    "half": dict(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
                 num_attention_heads=3, partial_rotary_factor=0.5),
    "shards": dict(vocab_size=101, hidden_size=20, intermediate_size=52, num_hidden_layers=3,
                   num_attention_heads=2, partial_rotary_factor=0.4, rope_theta=500.0),
    "brain": dict(vocab_size=89, hidden_size=32, intermediate_size=56, num_hidden_layers=1,
                  num_attention_heads=4, partial_rotary_factor=0.5, layer_norm_eps=1e-3),
    "pytorch": dict(vocab_size=83, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                    num_attention_heads=2, partial_rotary_factor=0.5),
}
ADAPTERS = {
    "adapter": dict(r=4, lora_alpha=8, lora_dropout=0.05,
                    target_modules=["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"]),
    "adapter_few": dict(r=3, lora_alpha=5, target_modules=["self_attn.v_proj", "fc2"]),
}


def randomise(module, generator):
    """Leaves no parameter at a value that hides its absence: biases, LayerNorms, LoRA's B."""
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "layernorm" in name and name.endswith("weight"):
                parameter.copy_(1.0 + 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            elif "embed_tokens" in name:
                parameter.copy_(noise)
            elif "lora_B" in name:  # together with A about half of the base's weights
                parameter.copy_(0.3 * noise / parameter.shape[1] ** 0.5)
            else:  # [outputs, inputs]
                parameter.copy_(1.6 * noise / parameter.shape[1] ** 0.5)


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


def as_pytorch_files(directory):
    """A directory with pytorch_model.bin instead of safetensors, and another with two shards."""
    state = {k: v.half() for k, v in load_file(directory / "model.safetensors").items()}
    strided = "model.layers.0.mlp.fc1.weight"
    state[strided] = state[strided].t().contiguous().t()
    assert not state[strided].is_contiguous()
    (directory / "model.safetensors").unlink()
    torch.save(state, directory / "pytorch_model.bin")
    shards = directory.with_name(directory.name + "_shards")
    shards.mkdir()
    shutil.copy(directory / "config.json", shards)
    names = sorted(state)
    files = {"pytorch_model-00001-of-00002.bin": names[:7], "pytorch_model-00002-of-00002.bin": names[7:]}
    for file, part in files.items():
        torch.save({name: state[name] for name in part}, shards / file)
    index = {"metadata": {}, "weight_map": {name: file for file in files for name in files[file]}}
    (shards / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")


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


def write_json(path, value):
    """Lists of numbers on one line."""
    text = json.dumps(value, indent=1, sort_keys=True)
    while (shorter := shorten(text)) != text:
        text = shorter
    path.write_text(text + "\n")


def shorten(text):
    return re.sub(r"\[\s*([-\d.e]+(?:,\s+[-\d.e]+)*)\s*\]",
                  lambda m: "[" + ", ".join(m.group(1).replace(",", " ").split()) + "]", text)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    for i, (name, sizes) in enumerate(SIZES.items()):
        torch.manual_seed(SEED + i)
        generator = torch.Generator().manual_seed(SEED + i)
        rng = random.Random(SEED + i)
        rope = {k: sizes[k] for k in ("partial_rotary_factor", "rope_theta") if k in sizes}
        config = PhiConfig(
            max_position_embeddings=96, bos_token_id=None, eos_token_id=None, pad_token_id=None,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, **rope},
            **{k: v for k, v in sizes.items() if k not in rope})
        model = PhiForCausalLM(config).eval()
        randomise(model, generator)
        if name == "brain":
            model.to(torch.bfloat16)
        shard = "20KB" if name == "shards" else "1GB"
        model.save_pretrained(OUT / name, max_shard_size=shard)
        (OUT / name / "generation_config.json").unlink(missing_ok=True)
        model = PhiForCausalLM.from_pretrained(
            OUT / name, dtype=torch.float32, attn_implementation="eager").eval()
        if name == "pytorch":
            as_pytorch_files(OUT / name)
            # transformers reads the same numbers from it that are asked for here.
            model = PhiForCausalLM.from_pretrained(
                OUT / name, dtype=torch.float32, attn_implementation="eager").eval()
        factor = model.model.rotary_emb.inv_freq.numel() * 2 / (
            config.hidden_size // config.num_attention_heads)
        assert factor == sizes["partial_rotary_factor"], f"{name}: {factor} of a head is rotated"

        logits, told = observe(model, "base", rng)
        told = {"transformers": transformers.__version__, "base": told}
        for adapter, settings in ADAPTERS.items() if name == "half" else ():
            model = PhiForCausalLM.from_pretrained(
                OUT / name, dtype=torch.float32, attn_implementation="eager").eval()
            tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
            lora = torch.nn.ModuleDict(
                {n.replace(".", "/"): m for n, m in tuned.named_modules()
                 if n.endswith(("lora_A.default", "lora_B.default"))})
            randomise(lora, generator)
            tuned.save_pretrained(OUT / name / adapter)
            (OUT / name / adapter / "README.md").unlink(missing_ok=True)
            path = OUT / name / adapter / "adapter_config.json"
            peft = json.loads(path.read_text())
            peft["target_modules"].sort()  # a set, in transformers
            peft["base_model_name_or_path"] = None
            path.write_text(json.dumps(peft, indent=1, sort_keys=True) + "\n")
            more, told[adapter] = observe(tuned, adapter, rng)
            logits |= more
        save_file(logits, OUT / f"{name}.safetensors")
        write_json(OUT / f"{name}.json", told)


if __name__ == "__main__":
    main()
