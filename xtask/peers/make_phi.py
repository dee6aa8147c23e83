"""Makes a random model of phi-1.5's size in bfloat16, in the layout of Hugging Face.

    python make_phi.py OUT_DIR --tokenizer DIR [--layers 24 --hidden 2048 --heads 32 --ffn 8192]

OUT_DIR gets config.json, model.safetensors (2.8 GB) and the tokenizer's files from DIR. Needs 4 GB
of memory; torch and transformers as in requirements.txt.
"""
import argparse
import pathlib
import shutil

import torch
from transformers import PhiConfig, PhiForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
for name, value in {"layers": 24, "hidden": 2048, "heads": 32, "ffn": 8192}.items():
    parser.add_argument(f"--{name}", type=int, default=value)
args = parser.parse_args()

torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
model = PhiForCausalLM(
    PhiConfig(
        vocab_size=51200,
        hidden_size=args.hidden,
        intermediate_size=args.ffn,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        partial_rotary_factor=0.5,
        max_position_embeddings=2048,
        hidden_act="gelu_new",
        tie_word_embeddings=False,
        bos_token_id=50256,
        eos_token_id=50256,
    )
)
model.save_pretrained(args.out)
# DIR may be a model's directory, whose own configuration is another one.
for file in args.tokenizer.glob("*.json"):
    if not (args.out / file.name).exists():
        shutil.copy(file, args.out / file.name)
print(sum(p.numel() for p in model.parameters()), "parameters in", args.out)
