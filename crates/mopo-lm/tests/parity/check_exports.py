"""Loads files written by mopo-lm with transformers and PEFT, and compares logits.

    venv/bin/python crates/mopo-lm/tests/parity/check_exports.py DIRECTORY...

A directory holds logits.json, written by the test next to this script: `base` and `policy` (the
directories of Decoder::save and save_policy), `ids`, `base_logits` (a list for each position), and
`policy_logits` (the same for each head). Both libraries must use every tensor and miss none.

There may also be hub/, the second policy as a plain model, and greedy.json, its greedy continuations of
prompts: transformers must generate the same, and the weights that PEFT merges must be those of hub/.
"""

import json
import pathlib
import sys

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def compare(what, model, ids, expected):
    with torch.no_grad():
        found = model(input_ids=torch.tensor([ids])).logits[0]
    expected = torch.tensor(expected)
    assert found.shape == expected.shape, f"{what}: {found.shape} and {expected.shape}"
    relative = ((found - expected).abs() / expected.abs().clamp(min=0.1)).max().item()
    print(f"{what}: {len(ids)} positions, largest relative difference {relative:.1e}")
    assert relative < TOLERANCE, what


def load(directory):
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for kind, names in info.items():
        assert not names, f"{directory}: {kind}: {names}"
    return model.eval()


def check_hub(directory, policy):
    """Checks the plain model of a policy: greedy continuations, and weights as PEFT merges them."""
    told = json.loads((directory / "greedy.json").read_text())
    hub = load(directory / "hub")
    assert hub.generation_config.eos_token_id == told["end"], hub.generation_config
    assert hub.config.dtype == torch.float32 and hub.config.eos_token_id == told["end"], hub.config
    for prompt, expected in zip(told["prompts"], told["continued"]):
        with torch.no_grad():  # as its own files set: greedy, and up to its own end
            out = hub.generate(input_ids=torch.tensor([prompt]), max_new_tokens=64)[0].tolist()
        out = out[len(prompt):]
        out = out[:out.index(told["end"])] if told["end"] in out else out
        assert out == expected, f"{directory.name}: {prompt}: {out} and {expected}"
    model = PeftModel.from_pretrained(load(directory / "base"), policy).merge_and_unload()
    merged, found = model.state_dict(), hub.state_dict()
    assert merged.keys() == found.keys(), merged.keys() ^ found.keys()
    largest = max((merged[name] - found[name]).abs().max().item()
                  for name in merged if not name.startswith("lm_head"))
    lengths = [len(row) for row in told["continued"]]
    print(f"{directory.name}: hub: continuations of {lengths} tokens are equal; "
          f"merged weights differ by {largest:.1e}")
    assert largest < 1e-6


def check(directory):
    told = json.loads((directory / "logits.json").read_text())
    base, policy = directory / told["base"], directory / told["policy"]
    model = load(base)
    compare(f"{directory.name}: base", model, told["ids"], told["base_logits"])

    model = PeftModel.from_pretrained(model, policy).eval()
    stored = load_file(policy / "adapter_model.safetensors")
    taken = get_peft_model_state_dict(model)
    assert stored.keys() == taken.keys(), stored.keys() ^ taken.keys()
    assert all(torch.equal(stored[name], taken[name]) for name in stored), "another value"
    heads = load_file(policy / "heads.safetensors")
    lm_head = model.get_output_embeddings()
    for k, expected in enumerate(told["policy_logits"]):
        # A new parameter: the old one may be the embedding, too.
        lm_head.weight = torch.nn.Parameter(heads[f"heads.{k}.weight"])
        assert (lm_head.bias is None) == (f"heads.{k}.bias" not in heads)
        if lm_head.bias is not None:
            lm_head.bias = torch.nn.Parameter(heads[f"heads.{k}.bias"])
        compare(f"{directory.name}: policy {k}", model, told["ids"], expected)
    if (directory / "hub").exists():
        check_hub(directory, policy)


for argument in sys.argv[1:]:
    directory = pathlib.Path(argument)
    check(directory)
