"""Makes a random GPT-2 classifier of one label for `cargo xtask bench score`, in the layout of
Hugging Face.

    python make_gpt2.py OUT_DIR --tokenizer DIR [--layers 12 --width 768 --heads 12]

DIR has a tokenizer.json with GPT-2's vocabulary. OUT_DIR gets config.json, model.safetensors, the
tokenizer, and reward.toml, the settings for scoring. Needs torch and transformers.
"""
import argparse
import pathlib
import shutil

import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

parser = argparse.ArgumentParser()
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
for name, value in {"layers": 12, "width": 768, "heads": 12}.items():
    parser.add_argument(f"--{name}", type=int, default=value)
args = parser.parse_args()

tokenizer = PreTrainedTokenizerFast(
    tokenizer_file=str(args.tokenizer / "tokenizer.json"), eos_token="<|endoftext|>",
    pad_token="<|endoftext|>", model_max_length=1024)
torch.manual_seed(0)
model = GPT2ForSequenceClassification(
    GPT2Config(vocab_size=len(tokenizer), n_positions=1024, n_embd=args.width, n_layer=args.layers,
               n_head=args.heads, num_labels=1, pad_token_id=tokenizer.pad_token_id,
               bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id))
model.save_pretrained(args.out)
tokenizer.save_pretrained(args.out)
shutil.copy(args.tokenizer / "tokenizer.json", args.out / "tokenizer.json")
(args.out / "reward.toml").write_text('''text = "{prompt}{response}"
pooling = "last_token"
label = 0
max_length = 1024
truncation_side = "right"
''')
print(sum(p.numel() for p in model.parameters()), "parameters in", args.out)
