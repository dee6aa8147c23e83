"""Greedy generation of llama.cpp on the first prompt of `mopo bench generate`, from the same GGUF file.

    python generate_llama.py FILE.gguf PAIRS.jsonl [--new-tokens 64 --repeats 4 --threads 2]

Prints one JSON line with the median time after the first call (prompt and new tokens) and the new token
ids. No row ends early. One row only: llama-cpp-python decodes no batch. Needs llama-cpp-python.
"""
import argparse, json, resource, statistics, time
import llama_cpp

p = argparse.ArgumentParser()
p.add_argument("model")
p.add_argument("pairs")
for name, value in {"new-tokens": 64, "repeats": 4, "threads": 2}.items():
    p.add_argument(f"--{name}", type=int, default=value)
a = p.parse_args()
prompt = json.loads(open(a.pairs, encoding="utf-8").readline())["prompt"]
llm = llama_cpp.Llama(a.model, n_threads=a.threads, n_threads_batch=a.threads, n_ctx=1024, verbose=False)
ids = llm.tokenize(prompt.encode(), add_bos=True, special=True)

times = []
for _ in range(a.repeats):
    t = time.perf_counter()
    llm.reset()
    llm.eval(ids)
    new = []
    for i in range(a.new_tokens):
        if i:
            llm.eval([new[-1]])
        new.append(llm.sample(temp=0.0))
    times.append(time.perf_counter() - t)
s = statistics.median(times[1:] or times)
print(json.dumps(dict(peer="llama.cpp", llama_cpp_python=llama_cpp.__version__, threads=a.threads, batch=1,
                      new_tokens=a.new_tokens, prompt_tokens=[len(ids)], seconds_per_call=round(s, 4),
                      tokens_per_second=round(a.new_tokens / s, 2),
                      peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                      seconds=[round(x, 4) for x in times], ids=[new])))
