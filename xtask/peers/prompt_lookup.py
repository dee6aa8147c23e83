"""What drafting tokens by prompt lookup would gain on the answers of `mopo pareto`.

    python prompt_lookup.py RUN/pareto/samples.jsonl RUN/tokenizer.json --eight-tokens 4.3

The last tokens are looked up in the prompt and the answer so far; what followed them there is a draft, which a
forward pass checks together with the next token. `--eight-tokens` is the time of a pass over eight tokens relative to
one over a single token; passes between are taken as linear. Needs `tokenizers`.
"""

import argparse
import json

from tokenizers import Tokenizer


def draft(ids, n, most):
    key = ids[-n:]
    for start in range(len(ids) - n - 1, -1, -1):
        if ids[start : start + n] == key:
            return ids[start + n : start + n + most]
    return []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samples")
    parser.add_argument("tokenizer")
    parser.add_argument("--eight-tokens", type=float, required=True)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(args.tokenizer)
    with open(args.samples) as file:
        rows = [json.loads(line) for line in file]
    texts = [(tokenizer.encode(row["prompt"]).ids, tokenizer.encode(row["response"]).ids) for row in rows]
    print("looked up  drafted  tokens per pass  speed-up")
    for n in (2, 3):
        for most in (2, 3, 4):
            tokens = passes = cost = 0
            for prompt, answer in texts:
                ids, done = list(prompt), 0
                while done < len(answer):
                    guess = draft(ids, n, most)
                    cost += 1 + (args.eight_tokens - 1) * len(guess) / 7
                    passes += 1
                    right = 0
                    while right < len(guess) and guess[right : right + 1] == answer[done + right : done + right + 1]:
                        right += 1
                    new = answer[done : done + right + 1]
                    ids += new
                    done += len(new)
                tokens += len(answer)
            print(f"{n:9}  {most:7}  {tokens / passes:15.2f}  {tokens / cost:8.2f}")


if __name__ == "__main__":
    main()
