"""Writes fixtures/: tiny random classifiers with their own tokenizers, and the token ids and logits that
transformers gives for texts.

    python3 -m venv venv
    venv/bin/pip install -r crates/mopo-eval/tests/reward/requirements.txt
    venv/bin/python crates/mopo-eval/tests/reward/make_fixtures.py

For each model: a directory in the layout of Hugging Face, in one of the forms of published checkpoints,
and told.json: texts from a reward's template, with transformers' token ids and logits. Logits are
computed in f32, one text at a time, without padding; transformers' own padded batches must agree if it
can pad. The texts are made up.
"""

import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer, BertWordPieceTokenizer
from transformers import (AutoTokenizer, BartConfig, BartForSequenceClassification, DistilBertConfig,
                          DistilBertForSequenceClassification, GPT2Config,
                          GPT2ForSequenceClassification)

HERE = pathlib.Path(__file__).parent
OUT = HERE / "fixtures"

# Prompt and response.
TEXTS = [
    ("\n\nHuman: How do I boil an egg?\n\nAssistant:", " Ten minutes in boiling water."),
    ("\n\nHuman: Why is the sky blue?\n\nAssistant: Light.\n\nHuman: Say more.\n\nAssistant:",
     " Short waves are scattered more than long ones, so blue reaches you from everywhere."),
    ("A post about a dog that ate my homework, and what my teacher said of it.", "Dog ate it."),
    ("", "Only a response"),
    ("Ünïcode — “quotes”, 日本語, 🙂🙃", "naïve café, 100 % of it…\ttabs  and   spaces \n"),
    ("x", "y"),
    ("the special tokens <|endoftext|> </s> [SEP] as text", "one <|endoftext|>two <pad> three [PAD] four"),
    ("ends in its padding token", "so <|endoftext|>"),
    ("long " * 40, "and this is the end of it: " + "words, words, " * 12),
]


def corpus():
    return [prompt + " " + response for prompt, response in TEXTS] * 3


def randomise(model):
    """Gives every parameter a value of its own, so that a missing bias or factor shows."""
    torch.manual_seed(len(list(model.parameters())))
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.normal_(0, 0.25)
            if "norm" in name.lower() or ".ln_" in name:
                parameter.mul_(0.4)
                if name.endswith("weight"):
                    parameter.add_(1)
    return model.float().eval()


def vocab_of_bytes(directory, special, last=()):
    """Writes vocab.json and merges.txt in the format of GPT-2 and BART."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(corpus(), vocab_size=300, min_frequency=2, special_tokens=special,
                                  show_progress=False)
    tokenizer.save_model(str(directory))
    path = directory / "vocab.json"
    vocab = json.loads(path.read_text())
    for token in last:
        vocab[token] = len(vocab)
    path.write_text(json.dumps(vocab, ensure_ascii=False))
    return len(vocab)


def fill(template, prompt, response):
    return None if template is None else template.replace("{prompt}", prompt).replace("{response}", response)


def tell(directory, model, settings, texts=TEXTS):
    """What transformers says of texts, loaded from the directory in the usual way."""
    # Files that this crate must not need.
    tokenizer = AutoTokenizer.from_pretrained(directory, truncation_side=settings["truncation_side"])
    loaded, info = type(model).from_pretrained(directory, output_loading_info=True,
                                               attn_implementation="eager")
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    loaded.eval()
    cases = []
    for prompt, response in texts:
        text = fill(settings["text"], prompt, response)
        pair = fill(settings.get("pair"), prompt, response)
        encoded = tokenizer(text, pair, truncation="longest_first", max_length=settings["max_length"],
                            return_tensors="pt")
        encoded.pop("token_type_ids", None)
        ids = encoded.input_ids[0].tolist()
        if not ids:
            continue
        with torch.no_grad():
            logits = loaded(**encoded).logits[0]
            own = model(**encoded).logits[0]
        assert torch.allclose(logits, own, rtol=1e-5, atol=1e-6), (directory, logits, own)
        case = dict(prompt=prompt, response=response, ids=ids, logits=logits.tolist())
        if isinstance(model, GPT2ForSequenceClassification):
            case["by_rule"] = by_rule(model, encoded.input_ids)
        cases.append(case)
    if loaded.config.pad_token_id is not None:
        check_padded(loaded, tokenizer, cases)
    return dict(settings=settings, cases=cases)


def check_padded(model, tokenizer, cases):
    """transformers' own padded batch must give the same."""
    pad = model.config.pad_token_id
    # BART refuses texts with different numbers of this token in one batch.
    ends = [case["ids"].count(model.config.eos_token_id) for case in cases]
    if isinstance(model, BartForSequenceClassification):
        cases = [case for case, n in zip(cases, ends) if n == ends[0]]
    width = max(len(case["ids"]) for case in cases)
    ids = torch.tensor([case["ids"] + [pad] * (width - len(case["ids"])) for case in cases])
    mask = torch.tensor([[1] * len(case["ids"]) + [0] * (width - len(case["ids"])) for case in cases])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(logits, torch.tensor([c["logits"] for c in cases]), rtol=1e-4, atol=1e-5)


def by_rule(model, ids):
    """Logits at the position of each rule that transformers has had, in its own code."""
    with torch.no_grad():
        logits = model.score(model.transformer(input_ids=ids).last_hidden_state)[0]
    rules = {"last_token": -1}  # without a padding token
    pad = model.config.pad_token_id
    if pad is not None:
        # Up to 4.30.
        rules["non_pad_count"] = int(torch.ne(ids, pad).sum(-1) - 1)
        # From 4.31: without padding `argmax` is 0, so this is −1.
        first = torch.eq(ids, pad).int().argmax(-1) - 1
        rules["before_first_pad"] = int(first % ids.shape[-1])
        # Now.
        positions = torch.arange(ids.shape[-1])
        rules["last_non_pad"] = int((positions * (ids != pad).int()).argmax(-1))
    return {rule: logits[at].tolist() for rule, at in rules.items()}


def fresh(name):
    directory = OUT / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def edit_config(directory, **changes):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    path.write_text(json.dumps(config, indent=2) + "\n")


def finish(directory, told):
    # In the order of the file, odd on purpose: ids matter, not order.
    (directory / "told.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    sizes = sum(f.stat().st_size for f in directory.iterdir())
    print(f"{directory.name}: {sizes // 1024} KiB, {sum(len(t['cases']) for t in told)} texts")


def gpt2_one_file():
    """Like the HH models: one label, no padding token, tokenizer.json, one safetensors file."""
    directory = fresh("gpt2")
    vocab = vocab_of_bytes(directory, [], ["<|endoftext|>"])
    model = randomise(GPT2ForSequenceClassification(GPT2Config(
        vocab_size=vocab, n_positions=128, n_embd=24, n_layer=2, n_head=4, num_labels=1,
        bos_token_id=vocab - 1, eos_token_id=vocab - 1)))
    model.save_pretrained(directory)
    assert "pad_token_id" not in json.loads((directory / "config.json").read_text()) or \
        model.config.pad_token_id is None
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.save_pretrained(directory)
    for name in ["vocab.json", "merges.txt"]:
        (directory / name).unlink(missing_ok=True)
    settings = dict(text="{prompt}{response}", pooling="last_token", label=0, max_length=128)
    finish(directory, [
        tell(directory, model, dict(settings, truncation_side="right")),
        tell(directory, model, dict(settings, max_length=24, truncation_side="left")),
        tell(directory, model, dict(settings, max_length=24, truncation_side="right")),
    ])


def gpt2_shards():
    """Like the TL;DR model: padding is the end of text, vocab.json and merges.txt, constants of an older
    release among the weights; in shards. Also has rarely used settings of GPT-2."""
    directory = fresh("gpt2-shards")
    vocab = vocab_of_bytes(directory, [], ["<|endoftext|>"])
    model = randomise(GPT2ForSequenceClassification(GPT2Config(
        vocab_size=vocab, n_positions=160, n_embd=20, n_layer=3, n_head=5, n_inner=36, num_labels=1,
        activation_function="gelu_pytorch_tanh", scale_attn_by_inverse_layer_idx=True,
        layer_norm_epsilon=1e-3, bos_token_id=vocab - 1, eos_token_id=vocab - 1,
        pad_token_id=vocab - 1)))
    model.save_pretrained(directory)
    (directory / "model.safetensors").unlink()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    for i in range(3):
        state[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
        state[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    shard_up(directory, state, "model-{:05}-of-00003.safetensors", "model.safetensors.index.json",
             lambda part, path: save_file(part, path, metadata={"format": "pt"}))
    settings = dict(text="{response} <|endoftext|> {prompt}", label=0, max_length=160,
                    truncation_side="right")
    settings["pooling"] = "last_non_pad"
    finish(directory, [
        tell(directory, model, settings),
        tell(directory, model, dict(settings, text="{prompt}{response}")),
    ])


def shard_up(directory, state, pattern, index, save):
    names = sorted(state)
    parts = [names[i::3] for i in range(3)]
    weight_map = {}
    for i, part in enumerate(parts):
        file = pattern.format(i + 1)
        save({name: state[name].clone() for name in part}, directory / file)
        weight_map.update({name: file for name in part})
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}, indent=1)
    (directory / index).write_text(text + "\n")


def distilbert():
    """Like the humor model, but with only pytorch_model.bin and vocab.txt; labels in an odd order."""
    directory = fresh("distilbert-bin")
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(corpus(), vocab_size=220, min_frequency=2, show_progress=False)
    tokenizer.save_model(str(directory))
    vocab = tokenizer.get_vocab_size()
    model = randomise(DistilBertForSequenceClassification(DistilBertConfig(
        vocab_size=vocab, max_position_embeddings=96, dim=24, n_layers=2, n_heads=3, hidden_dim=52,
        sinusoidal_pos_embds=False, pad_token_id=0, id2label={0: "NO_HUMOR", 1: "HUMOR"},
        label2id={"NO_HUMOR": 0, "HUMOR": 1})))
    model.save_pretrained(directory)
    (directory / "model.safetensors").unlink()
    state = dict(model.state_dict())
    state["distilbert.embeddings.position_ids"] = torch.arange(96)[None]
    torch.save(state, directory / "pytorch_model.bin")
    edit_config(directory, id2label={"1": "HUMOR", "0": "NO_HUMOR"}, num_labels=None)
    (directory / "tokenizer_config.json").write_text(json.dumps(
        {"do_lower_case": True, "model_max_length": 96, "tokenizer_class": "DistilBertTokenizer"}))
    settings = dict(text="{response}", pooling="cls", label="HUMOR", max_length=96)
    finish(directory, [
        tell(directory, model, dict(settings, truncation_side="right")),
        tell(directory, model, dict(settings, max_length=16, truncation_side="left")),
        tell(directory, model, dict(settings, max_length=16, truncation_side="right")),
    ])


def distilbert_cased():
    """Another shape: ReLU, half precision in the file, no prefix, tokenizer.json, three labels."""
    directory = fresh("distilbert")
    tokenizer = BertWordPieceTokenizer(lowercase=False)
    tokenizer.train_from_iterator(corpus(), vocab_size=240, min_frequency=2, show_progress=False)
    tokenizer.save_model(str(directory))
    vocab = tokenizer.get_vocab_size()
    (directory / "tokenizer_config.json").write_text(json.dumps(
        {"do_lower_case": False, "tokenizer_class": "DistilBertTokenizer"}))
    model = randomise(DistilBertForSequenceClassification(DistilBertConfig(
        vocab_size=vocab, max_position_embeddings=96, dim=16, n_layers=1, n_heads=4, hidden_dim=40,
        activation="relu", sinusoidal_pos_embds=True, pad_token_id=0, num_labels=3)))
    model = model.half().float()
    model.save_pretrained(directory)
    state = {name: value.half() for name, value in model.state_dict().items()}
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(directory).save_pretrained(directory)
    (directory / "vocab.txt").unlink(missing_ok=True)
    edit_config(directory, id2label=None, label2id=None, num_labels=3, dtype="float32")
    settings = dict(text="{prompt} {response}", pooling="cls", label=2, max_length=96,
                    truncation_side="right")
    finish(directory, [tell(directory, model, settings)])


def bart(name, shards, **config):
    directory = fresh(name)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = vocab_of_bytes(directory, special, ["<mask>"])
    model = randomise(BartForSequenceClassification(BartConfig(
        vocab_size=vocab, max_position_embeddings=160, d_model=24, bos_token_id=0, pad_token_id=1,
        eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2, **config)))
    model.save_pretrained(directory)
    settings = dict(text="{response}", pair="{prompt}", pooling="last_eos", label=1, max_length=160)
    if shards:
        # As older releases wrote it: every copy of the one embedding, and leftovers of a language model.
        (directory / "model.safetensors").unlink()
        state = dict(model.state_dict())
        for side in ["encoder", "decoder"]:
            state[f"model.{side}.embed_tokens.weight"] = state["model.shared.weight"]
        state["final_logits_bias"] = torch.zeros(1, vocab)
        shard_up(directory, state, "pytorch_model-{:05}-of-00003.bin", "pytorch_model.bin.index.json",
                 torch.save)
        edit_config(directory, id2label={"1": "FAITHFUL", "0": "HALLUCINATED"},
                    label2id={"HALLUCINATED": 0, "FAITHFUL": 1})
    told = [
        tell(directory, model, dict(settings, truncation_side="right")),
        tell(directory, model, dict(settings, max_length=32, truncation_side="right")),
        tell(directory, model, dict(settings, max_length=33, truncation_side="left")),
    ]
    single = {k: v for k, v in settings.items() if k != "pair"}
    told.append(tell(directory, model, dict(single, truncation_side="right")))
    finish(directory, told)


gpt2_one_file()
gpt2_shards()
distilbert()
distilbert_cased()
bart("bart", False, encoder_layers=2, decoder_layers=1, encoder_attention_heads=3,
     decoder_attention_heads=4, encoder_ffn_dim=40, decoder_ffn_dim=56, id2label={0: "A", 1: "B"},
     scale_embedding=True, activation_function="gelu")
bart("bart-bin-shards", True, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4,
     decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, id2label={0: "C", 1: "D"},
     scale_embedding=False, activation_function="relu")
