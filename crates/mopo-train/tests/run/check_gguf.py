"""What llama.cpp makes of GGUF files: for each a line of JSON on standard output.

    python check_gguf.py '{"texts": [...], "prompts": [[ids]], "new_tokens": 32}' MODEL.gguf...

`metadata` of the file, `ids` of the texts, and `continued`: greedy tokens after each prompt.
"""

import json
import sys

from llama_cpp import Llama

asked = json.loads(sys.argv[1])
most = max(map(len, asked["prompts"])) + asked["new_tokens"]
for file in sys.argv[2:]:
    # More threads would wait for each other.
    model = Llama(file, n_ctx=most + 1, n_threads=1, n_threads_batch=1, verbose=False)
    continued = []
    for prompt in asked["prompts"]:
        model.reset()
        model.eval(prompt)
        tokens = []
        for _ in range(asked["new_tokens"]):
            tokens.append(model.sample(temp=0.0))
            model.eval(tokens[-1:])
        continued.append(tokens)
    ids = [model.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]]
    print(json.dumps({"metadata": model.metadata, "ids": ids, "continued": continued}), flush=True)
