"""What transformers predicts with the dequantised weights of a GGUF file.

    python check_real.py MODEL.gguf OUT

OUT gets told.json (`prompts`, ids of 50 texts; `greedy`, 64 tokens after the first two of them) and
log_probs.safetensors (for each prompt, by its number, log-probabilities of the next token), all in f32.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SUBJECTS = ["the river", "a kettle", "my neighbour", "this proof", "the old clock", "our garden", "bread", "winter",
            "the captain", "an honest answer"]
FORMS = ["Write a sentence about {}.", "What should one know about {}? First of all,",
         "\n\nHuman: Tell me about {}.\n\nAssistant:", "def describe():\n    \"\"\"Say something about {}.\"\"\"\n    return",
         "{} – 1, 2, 3; später, naïve, 茶: "]
N_GREEDY, NEW_TOKENS = 2, 64

file, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
model = AutoModelForCausalLM.from_pretrained(
    file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager").eval()
prompts = [tokenizer(form.format(subject))["input_ids"] for form in FORMS for subject in SUBJECTS]
log_probs, greedy = {}, []
with torch.no_grad():
    for i, ids in enumerate(prompts):
        log_probs[str(i)] = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1).contiguous()
    for ids in prompts[:N_GREEDY]:
        given = torch.tensor([ids])
        # No token ends a continuation.
        all_ids = model.generate(input_ids=given, attention_mask=torch.ones_like(given), do_sample=False,
                                 max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, eos_token_id=-1, pad_token_id=0)
        greedy.append(all_ids[0, len(ids):].tolist())
save_file(log_probs, out / "log_probs.safetensors")
(out / "told.json").write_text(json.dumps(dict(prompts=prompts, greedy=greedy)))
