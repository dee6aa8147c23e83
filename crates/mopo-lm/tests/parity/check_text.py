"""Compares the text that `mopo generate` and transformers generate from an export.

    venv/bin/python crates/mopo-lm/tests/parity/check_text.py target/debug/mopo EXPORT PROMPT...

EXPORT is a directory of `mopo export --policy`. Model and tokenizer are loaded only by
transformers' Auto classes; both continue each prompt greedily for 64 tokens.
"""

import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

program, directory, *prompts = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
tokenizer = AutoTokenizer.from_pretrained(directory)
print(f"{type(model).__name__} in {model.dtype}, {type(tokenizer).__name__}: {len(tokenizer)} tokens "
      f"for {model.config.vocab_size} rows, ends at {model.generation_config.eos_token_id}")
assert tokenizer.eos_token_id == model.generation_config.eos_token_id
for prompt in prompts:
    prompt = prompt.replace("\\n", "\n")
    ids = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**ids, do_sample=False, max_new_tokens=64)[0, ids.input_ids.shape[1]:]
    expected = tokenizer.decode(out, skip_special_tokens=True)
    said = subprocess.run(
        [program, "generate", directory, "--prompt", prompt, "--temperature", "0", "--max-new-tokens",
         "64"], check=True, capture_output=True, text=True).stdout
    found = said[len(prompt.strip()) + 2:-2]
    assert found == expected, f"{prompt!r}: {found!r} and {expected!r}"
    print(f"{prompt!r}: {len(out)} tokens, {found!r}")
