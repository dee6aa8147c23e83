"""Writes fixtures/: tiny random phi models and adapters, and the results of transformers and PEFT.

    python3 -m venv venv
    venv/bin/pip install -r crates/mopo-lm/tests/parity/requirements.txt
    venv/bin/python crates/mopo-lm/tests/parity/make_fixtures.py

For each model: a directory in the layout of Hugging Face, NAME.json (token ids in, log-probabilities and greedy
continuations out) and NAME.safetensors (logits): see observe.py. make_families.py adds other families.

- half: published proportions (half of each head is rotated), F32, with two adapters of PEFT.
- shards: 0.4 of each head is rotated, another base of the frequencies, F32, split over files.
- brain: four heads, stored as BF16, computed in F32 from the rounded weights.
- pytorch: as `torch.save` writes it, in F16, with one matrix saved as a transposed view.
- pytorch_shards: the same over two files and an index.
"""

import json
import pathlib
import random
import shutil

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PhiConfig, PhiForCausalLM

from observe import observe, randomise, tune, write_json

SEED = 20261124
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


def main():
    OUT.mkdir(exist_ok=True)
    for name in [*SIZES, "pytorch_shards"]:
        shutil.rmtree(OUT / name, ignore_errors=True)
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
            tuned = tune(model, OUT / name / adapter, settings, generator)
            more, told[adapter] = observe(tuned, adapter, rng)
            logits |= more
        save_file(logits, OUT / f"{name}.safetensors")
        write_json(OUT / f"{name}.json", told)


if __name__ == "__main__":
    main()
