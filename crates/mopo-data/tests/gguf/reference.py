"""Token ids of llama.cpp for the lines of standard input, each a JSON string, as JSON lists.

    python reference.py MODEL.gguf < texts.jsonl > ids.jsonl
"""

import json
import sys

from llama_cpp import Llama

model = Llama(sys.argv[1], vocab_only=True, verbose=False)
for line in sys.stdin:
    ids = model.tokenize(json.loads(line).encode(), add_bos=False, special=False)
    print(json.dumps(ids))
