"""Token ids of llama.cpp for the lines of standard input, as JSON lists. Each line is a JSON list:
a text, and whether the names of control tokens in it are those tokens.

    python reference.py MODEL.gguf < texts.jsonl > ids.jsonl
"""

import json
import sys

from llama_cpp import Llama

model = Llama(sys.argv[1], vocab_only=True, verbose=False)
for line in sys.stdin:
    text, special = json.loads(line)
    ids = model.tokenize(text.encode(), add_bos=False, special=special)
    print(json.dumps(ids))
