"""Writes tiny random models of other families than phi, adapters, and the results of transformers and PEFT.

    python3 -m venv venv
    venv/bin/pip install -r crates/mopo-lm/tests/parity/requirements.txt
    venv/bin/python crates/mopo-lm/tests/parity/make_families.py

Causal models go to fixtures/, in the layout that make_fixtures.py describes. Each has `adapter`, on all
linear modules but the output; llama3 has two more adapters. Sequence classifiers go to
fixtures_classifiers/: a directory in the layout of Hugging Face, and NAME.json with sequences and the
scores of all labels, computed one sequence at a time; a batch padded on the right must give the same.
All values are computed in f32, from the rounded weights where they are stored as BF16.

Each model uses what its family allows: groups of heads, heads of another width than hidden size / heads,
scaled rotary frequencies, windows, caps. `unlike` lists configurations that are wrong for its weights:
each must change the results by far more than the tests tolerate.

- llama3: biases, tied; all three bands of llama3's rotary scaling.
- llama2: no groups, linear scaling, stored as BF16 in two files.
- llama_yarn: one key/value head; frequencies on both sides of YaRN's ramp and on it.
- mistral: a window in every layer.
- qwen2: a window from the second layer on; no head_dim in config.json.
- qwen3: norms of queries and keys, tied.
- gemma2: caps of attention and of logits, a window in every other layer.
- phi3: joined layers, a part of each head rotated, a window in every layer.
- gemma3: layers in an order that no rule gives, two rotary bases, scaling in global layers only;
  stored as BF16, and computed with √width as it is in f32.
"""

import json
import pathlib
import random
import shutil

import torch
import transformers
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from observe import logits_of, observe, randomise, tune, write_json

SEED = 20261128
HERE = pathlib.Path(__file__).parent
OUT = HERE / "fixtures"
CLASSIFIERS_OUT = HERE / "fixtures_classifiers"
SLIDING, FULL = "sliding_attention", "full_attention"
# An embedding that is also the output must be small: greedy continuations repeat the token before if it
# is most of the last layer's result.
TIED = dict(embedding=0.15, gain=1.1)
# Gemma multiplies by 1 + w, and its embedding by √width.
GEMMA = dict(norm=0.0, embedding=0.08, gain=1.2)
# Larger matrices amplify rounding: see check_rounding.
GAIN = 1.0


def rope(rope_type, theta, **more):
    return dict(rope_type=rope_type, rope_theta=theta, **more)


LLAMA3_ROPE = rope("llama3", 100.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)
YARN_ROPE = rope("yarn", 50.0, factor=4.0, original_max_position_embeddings=24)
GLOBAL_ROPE = rope("linear", 5000.0, factor=2.0)
LOCAL_ROPE = rope("default", 100.0)

FAMILIES = {
    "llama3": dict(
        config=dict(model_type="llama", vocab_size=97, hidden_size=24, intermediate_size=40,
                    num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
                    rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True, attention_bias=True,
                    mlp_bias=True, rms_norm_eps=1e-3),
        values=TIED,
        unlike=[dict(rope_parameters=rope("default", 100.0)),
                dict(rope_parameters=rope("linear", 100.0, factor=4.0)),
                dict(rope_parameters=LLAMA3_ROPE | dict(low_freq_factor=2.0)),
                dict(rope_parameters=LLAMA3_ROPE | dict(high_freq_factor=6.0)),
                dict(rms_norm_eps=1e-6)]),
    "llama2": dict(
        config=dict(model_type="llama", vocab_size=89, hidden_size=32, intermediate_size=44,
                    num_hidden_layers=2, num_attention_heads=4,
                    rope_parameters=rope("linear", 10000.0, factor=2.0)),
        files=dict(dtype=torch.bfloat16, shard="35KB"),
        unlike=[dict(rope_parameters=rope("default", 10000.0))]),
    "llama_yarn": dict(
        config=dict(model_type="llama", vocab_size=83, hidden_size=24, intermediate_size=36,
                    num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, head_dim=12,
                    rope_parameters=YARN_ROPE),
        unlike=[dict(rope_parameters=rope("default", 50.0)),
                dict(rope_parameters=YARN_ROPE | dict(attention_factor=1.0)),
                dict(rope_parameters=YARN_ROPE | dict(truncate=False))]),
    "mistral": dict(
        config=dict(model_type="mistral", vocab_size=101, hidden_size=24, intermediate_size=40,
                    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                    rope_parameters=rope("default", 10000.0), sliding_window=5),
        unlike=[dict(sliding_window=None), dict(sliding_window=4), dict(sliding_window=6)]),
    "qwen2": dict(
        config=dict(model_type="qwen2", vocab_size=97, hidden_size=24, intermediate_size=36,
                    num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
                    rope_parameters=rope("default", 1000000.0), use_sliding_window=True,
                    sliding_window=6, max_window_layers=1),
        unlike=[dict(layer_types=[FULL] * 3), dict(layer_types=[SLIDING] * 3),
                dict(layer_types=[FULL, FULL, SLIDING]), dict(layer_types=[SLIDING, FULL, FULL]),
                dict(sliding_window=7)]),
    "qwen3": dict(
        config=dict(model_type="qwen3", vocab_size=89, hidden_size=24, intermediate_size=36,
                    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                    rope_parameters=rope("default", 1000.0), tie_word_embeddings=True,
                    attention_bias=False),
        values=TIED,
        unlike=[dict(rope_parameters=rope("default", 10000.0))]),
    "gemma2": dict(
        config=dict(model_type="gemma2", vocab_size=83, hidden_size=24, intermediate_size=36,
                    num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                    query_pre_attn_scalar=5, attn_logit_softcapping=3.0, final_logit_softcapping=2.0,
                    rope_parameters=rope("default", 10000.0), sliding_window=5),
        values=GEMMA,
        unlike=[dict(attn_logit_softcapping=None), dict(final_logit_softcapping=None),
                dict(query_pre_attn_scalar=8), dict(layer_types=[FULL, SLIDING, FULL]),
                dict(layer_types=[SLIDING] * 3), dict(sliding_window=6)]),
    "gemma3": dict(
        config=dict(model_type="gemma3_text", vocab_size=101, hidden_size=24, intermediate_size=36,
                    num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                    query_pre_attn_scalar=5, layer_types=[FULL, SLIDING, SLIDING, FULL],
                    rope_parameters={FULL: GLOBAL_ROPE, SLIDING: LOCAL_ROPE}, sliding_window=5),
        values=GEMMA, files=dict(dtype=torch.bfloat16),
        unlike=[dict(query_pre_attn_scalar=8), dict(layer_types=[SLIDING, SLIDING, SLIDING, FULL]),
                dict(sliding_window=6),
                dict(rope_parameters={FULL: GLOBAL_ROPE, SLIDING: GLOBAL_ROPE}),
                dict(rope_parameters={FULL: LOCAL_ROPE, SLIDING: LOCAL_ROPE}),
                dict(rope_parameters={FULL: rope("default", 5000.0), SLIDING: LOCAL_ROPE}),
                dict(rope_parameters={FULL: GLOBAL_ROPE, SLIDING: rope("linear", 100.0, factor=2.0)})]),
    "starcoder2": dict(
        config=dict(model_type="starcoder2", vocab_size=97, hidden_size=24, intermediate_size=40,
                    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    rope_parameters=rope("default", 10000.0), sliding_window=5, norm_epsilon=1e-3),
        values=dict(embedding=0.1, gain=1.6),
        unlike=[dict(sliding_window=None), dict(sliding_window=6), dict(norm_epsilon=1e-6)]),
    "phi3": dict(
        config=dict(model_type="phi3", vocab_size=89, hidden_size=32, intermediate_size=36,
                    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-3,
                    rope_parameters=rope("default", 10000.0, partial_rotary_factor=0.75), sliding_window=5),
        unlike=[dict(sliding_window=None), dict(sliding_window=6), dict(rms_norm_eps=1e-6),
                dict(rope_parameters=rope("default", 10000.0, partial_rotary_factor=1.0))]),
}

ALL_LINEAR = dict(r=4, lora_alpha=8, target_modules="all-linear")
LLAMA3_ADAPTERS = {
    # PEFT takes the first pattern that matches the end of a module's name. It saves them sorted, and
    # two match some modules here: in layer 2, v_proj has rank 5 and down_proj has rank 3.
    "adapter_patterns": dict(
        r=4, lora_alpha=3, use_rslora=True,
        target_modules=["q_proj", "self_attn.v_proj", "self_attn.o_proj", "layers.1.mlp.gate_proj",
                        "mlp.down_proj"],
        rank_pattern={"down_proj": 3, r"layers\.2\..*_proj": 5, "self_attn.v_proj": 6},
        alpha_pattern={r"layers\.[01]\.self_attn\.(q|v)_proj": 5, "mlp.down_proj": 2, "o_proj": 4}),
    "adapter_regex": dict(r=4, lora_alpha=8, target_modules=r".*layers\.(0|2)\.self_attn\.(q|v)_proj"),
}

CLASSIFIERS = {
    "llama": dict(
        config=dict(model_type="llama", vocab_size=83, hidden_size=24, intermediate_size=32,
                    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
                    rope_parameters=LLAMA3_ROPE, pad_token_id=82),
        labels=["helpful", "harmless", "humorous"]),
    "qwen2": dict(
        config=dict(model_type="qwen2", vocab_size=89, hidden_size=24, intermediate_size=32,
                    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    rope_parameters=rope("default", 1000000.0), use_sliding_window=True,
                    sliding_window=6, max_window_layers=1, pad_token_id=3),
        labels=["reward"]),
    "qwen3": dict(
        config=dict(model_type="qwen3", vocab_size=83, hidden_size=24, intermediate_size=32,
                    num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
                    rope_parameters=rope("default", 1000.0), tie_word_embeddings=True, pad_token_id=1),
        labels=["rejected", "chosen"]),
    # Scores are not capped: only logits of tokens are.
    "gemma2": dict(
        config=dict(model_type="gemma2", vocab_size=89, hidden_size=24, intermediate_size=32,
                    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                    query_pre_attn_scalar=5, attn_logit_softcapping=3.0, final_logit_softcapping=2.0,
                    rope_parameters=rope("default", 10000.0), sliding_window=5, pad_token_id=0),
        values=GEMMA, labels=["safe", "unsafe"]),
    "gemma3": dict(
        config=dict(model_type="gemma3_text", vocab_size=83, hidden_size=24, intermediate_size=32,
                    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                    query_pre_attn_scalar=5, layer_types=[SLIDING, FULL],
                    rope_parameters={FULL: GLOBAL_ROPE, SLIDING: LOCAL_ROPE}, sliding_window=5, pad_token_id=0),
        values=GEMMA, labels=["dull", "funny"]),
    "starcoder2": dict(
        config=dict(model_type="starcoder2", vocab_size=83, hidden_size=24, intermediate_size=32,
                    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    rope_parameters=rope("default", 10000.0), sliding_window=5, pad_token_id=4),
        labels=["clean", "secure"]),
    "phi3": dict(
        config=dict(model_type="phi3", vocab_size=83, hidden_size=32, intermediate_size=36,
                    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    rope_parameters=rope("default", 10000.0, partial_rotary_factor=0.75), sliding_window=5,
                    pad_token_id=4),
        labels=["polite"]),
}


def create(kind, directory, settings, generator, dtype=torch.float32, shard="1GB", **more):
    """A random model, saved as transformers saves it."""
    values = dict(settings["config"], max_position_embeddings=96, bos_token_id=None, eos_token_id=None, **more)
    values.setdefault("pad_token_id", None)
    model = kind.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    randomise(model, generator, **(dict(gain=GAIN) | settings.get("values", {})))
    shutil.rmtree(directory, ignore_errors=True)
    model.to(dtype).save_pretrained(directory, max_shard_size=shard)
    (directory / "generation_config.json").unlink(missing_ok=True)


def load(kind, directory, **changes):
    """In f32, with the attention that knows caps; `changes` are keys of another configuration."""
    stored = json.loads((directory / "config.json").read_text())
    config = AutoConfig.for_model(stored.pop("model_type"), **(stored | changes))
    model, info = kind.from_pretrained(directory, config=config, dtype=torch.float32,
                                       attn_implementation="eager", output_loading_info=True)
    assert not any(info.values()), f"{directory}: {info}"
    assert model.model.config._attn_implementation == "eager"
    return model.eval()


def difference(found, expected):
    """The largest, relative, as the tests measure it."""
    return ((found - expected).abs() / expected.abs().clamp(min=0.1)).max().item()


def check_features(name, model, settings, ids):
    """No part of the configuration is without effect."""
    logits = logits_of(model, ids)
    for changes in settings["unlike"]:
        other = logits_of(load(AutoModelForCausalLM, OUT / name, **changes), ids)
        changed = difference(other, logits)
        print(f"{name}: {changes} changes logits by {changed:.1e}")
        assert changed > 1e-2, f"{name}: {changes}"


def check_bands(name, model):
    """Scaled rotary frequencies: some are kept, some divided by the factor, some between."""
    rotary = model.model.rotary_emb
    kept = rotary.compute_default_rope_parameters(model.config)[0] / rotary.inv_freq
    factor = model.config.rope_parameters["factor"]
    print(f"{name}: frequencies are divided by {kept.tolist()}, cos and sin times {rotary.attention_scaling}")
    for band in (kept < 1.001, (kept > 1.1) & (kept < factor - 0.1), kept > factor - 0.001):
        assert band.any(), name


def check_rounding(name, model, logits, sequences):
    """Rounding of the weights changes logits by less than the tests tolerate."""
    generator = torch.Generator().manual_seed(0)
    values = [parameter.detach().clone() for parameter in model.parameters()]
    changed = 0.0
    for _ in range(4):
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), values):
                parameter.copy_(value * (1 + 1e-7 * torch.randn(value.shape, generator=generator)))
        changed = max(changed, *(difference(logits_of(model, ids), expected)
                                 for ids, expected in zip(sequences, logits)))
    print(f"{name}: rounding changes logits by {changed:.1e}")
    assert changed < 8e-5, name


def make_causal(name, settings, seed):
    torch.manual_seed(seed)  # PEFT's own values, all replaced
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    create(AutoModelForCausalLM, OUT / name, settings, generator, **settings.get("files", {}))
    shards = len(list((OUT / name).glob("*.safetensors")))
    assert shards == (2 if name == "llama2" else 1), f"{name}: {shards} files"
    model = load(AutoModelForCausalLM, OUT / name)
    if name in ("llama3", "llama_yarn"):
        check_bands(name, model)
    if name.startswith("gemma"):
        assert model.model.embed_tokens.embed_scale == torch.tensor(model.config.hidden_size**0.5), name
    logits, told = observe(model, "base", rng)
    check_features(name, model, settings, told["sequences"][2])
    check_rounding(f"{name}, base", model, logits.values(), told["sequences"])
    told = {"transformers": transformers.__version__, "base": told}
    adapters = {"adapter": ALL_LINEAR} | (LLAMA3_ADAPTERS if name == "llama3" else {})
    for adapter, peft in adapters.items():
        directory = OUT / name / adapter
        tuned = tune(load(AutoModelForCausalLM, OUT / name), directory, peft, generator, GAIN)
        # A copy that only the files determine.
        loaded = PeftModel.from_pretrained(load(AutoModelForCausalLM, OUT / name), directory).eval()
        more, told[adapter] = observe(loaded, adapter, rng)
        sequences = told[adapter]["sequences"]
        for ids, expected in zip(sequences, more.values()):
            assert torch.equal(logits_of(tuned, ids), expected), f"{name}, {adapter}"
        check_rounding(f"{name}, {adapter}", loaded, more.values(), sequences)
        logits |= more
    save_file(logits, OUT / f"{name}.safetensors")
    write_json(OUT / f"{name}.json", told)


def scores_of(model, ids, mask=None):
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids), attention_mask=mask, use_cache=False).logits


def make_classifier(name, settings, seed):
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    labels = settings["labels"]
    create(AutoModelForSequenceClassification, CLASSIFIERS_OUT / name, settings, generator,
           dtype=torch.bfloat16, id2label=dict(enumerate(labels)),
           label2id={label: i for i, label in enumerate(labels)})
    model = load(AutoModelForSequenceClassification, CLASSIFIERS_OUT / name)
    pad = model.config.pad_token_id
    tokens = [token for token in range(model.config.vocab_size) if token != pad]
    sequences = [[rng.choice(tokens) for _ in range(n)] for n in (1, 20, 2, 13, 7, 5, 17, 9)]
    # The padding token is also a token of the text: between others it changes nothing; at the end, the
    # score is that of the last token before it.
    sequences[6][8] = pad
    sequences[7][-2:] = [pad, pad]
    scores = torch.cat([scores_of(model, [ids]) for ids in sequences])
    width = max(map(len, sequences))
    padded = [ids + [pad] * (width - len(ids)) for ids in sequences]
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences])
    largest = (scores - scores_of(model, padded, mask)).abs().max().item()
    print(f"classifier {name}: {type(model).__name__}, padding changes scores by {largest:.1e}")
    assert largest < 1e-5, name
    assert torch.allclose(scores[7], scores_of(model, [sequences[7][:-2]])[0], atol=1e-5), name
    if cap := getattr(model.config, "final_logit_softcapping", None):
        assert scores.abs().max() > cap, f"{name}: a cap of the scores would not show"
    write_json(CLASSIFIERS_OUT / f"{name}.json",
               {"transformers": transformers.__version__, "labels": labels, "sequences": sequences,
                "scores": scores.tolist()})


def main():
    torch.set_num_threads(1)  # tiny matrices; and sums in one order
    OUT.mkdir(exist_ok=True)
    CLASSIFIERS_OUT.mkdir(exist_ok=True)
    for i, (name, settings) in enumerate(FAMILIES.items()):
        make_causal(name, settings, SEED + i)
    for i, (name, settings) in enumerate(CLASSIFIERS.items()):
        make_classifier(name, settings, SEED + 100 + i)


if __name__ == "__main__":
    main()
