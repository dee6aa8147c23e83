"""Writes fixtures/tokenizers.json: changes to the tokenizers of the other fixtures, key by key, and the ids
that transformers then gives for some texts.

    python3 -m venv venv
    venv/bin/pip install -r crates/mopo-eval/tests/reward/requirements.txt
    venv/bin/python crates/mopo-eval/tests/reward/make_tokenizers.py
"""

import json
import pathlib
import shutil
import tempfile

from transformers import AutoTokenizer

FIXTURES = pathlib.Path(__file__).parent / "fixtures"

# Text, and the second one of a pair.
TEXTS = [
    ("Dog ate it, Naïve Café 日本語", None),
    (" a space in front", "and a Second text"),
    ("the special <|endoftext|> </s> [SEP] as text", None),
    ("a <mask> b [MASK] c", "x [PAD]dog"),
    ("two  spaces\tand dog, dogs", ""),
]

CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"


def token(content, **flags):
    base = dict(content=content, lstrip=False, rstrip=False, normalized=False, single_word=False, special=True)
    return dict(base, **flags)


def config(base, **keys):
    return dict(base=base, files={CONFIG: keys})


def part(base, keys, **parts):
    """Changes to parts of tokenizer.json, besides settings."""
    return dict(base=base, files={CONFIG: keys}, json=parts)


BYTES = ["gpt2", "gpt2-shards", "bart"]
WORDS = ["distilbert", "distilbert-bin"]
PIECE = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
BEGIN = {"type": "TemplateProcessing",
         "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
         "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [300], "tokens": ["<|endoftext|>"]}}}

VARIANTS = [
    *(dict(base=base, files={CONFIG: None}) for base in BYTES + WORDS),
    *(config(base, add_prefix_space=flag) for base in BYTES for flag in (True, False)),
    *(config(base, add_bos_token=a, add_eos_token=b) for base in BYTES + WORDS for a in (True, False) for b in (True, False)),
    config("gpt2-shards", add_bos_token=True, bos_token="dog", eos_token="a"),
    *(config(base, do_lower_case=flag) for base in WORDS for flag in (True, False)),
    *(config(base, do_lower_case=False, strip_accents=flag) for base in WORDS for flag in (True, False, None)),
    *(config(base, do_lower_case=True, strip_accents=flag) for base in WORDS for flag in (True, False, None)),
    *(config(base, tokenize_chinese_chars=flag) for base in WORDS for flag in (True, False)),
    *(config(base, split_special_tokens=flag) for base in BYTES + WORDS for flag in (True, False)),
    *(config(base, tokenizer_class=name) for base in BYTES for name in ("GPT2Tokenizer", "GPT2TokenizerFast")),
    *(config(base, tokenizer_class=name) for base in ("bart",) for name in ("BartTokenizer", "RobertaTokenizerFast")),
    *(config(base, tokenizer_class=name, do_lower_case=False) for base in WORDS
      for name in ("BertTokenizer", "DistilBertTokenizerFast")),
    *(config(base, tokenizer_class=name) for base in ("gpt2", "distilbert")
      for name in ("PreTrainedTokenizerFast", "TokenizersBackend")),
    *(config(base, additional_special_tokens=["dog", "a"]) for base in BYTES + WORDS),
    *(config(base, extra_special_tokens=["space"]) for base in BYTES + WORDS),
    *(config(base, pad_token="dog") for base in BYTES + WORDS),
    config("distilbert", cls_token="[MASK]", sep_token="[UNK]"),
    config("distilbert-bin", cls_token="[MASK]", unk_token="[PAD]"),
    config("bart", cls_token="</s>", sep_token="<mask>", trim_offsets=False),
    config("bart", mask_token={"__type": "AddedToken", **{k: v for k, v in token("<mask>", lstrip=True).items()}}),
    config("gpt2", added_tokens_decoder={"300": token("<|endoftext|>", lstrip=True)}),
    config("distilbert", added_tokens_decoder={str(i): token(t) for i, t in
                                               enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}),
    config("gpt2", model_max_length=7, padding_side="left", clean_up_tokenization_spaces=True, errors="ignore"),
    *(dict(base=base, files={SPECIAL: {"pad_token": "dog", "unk_token": "a"}}) for base in BYTES),
    *(dict(base=base, files={ADDED: {"dogs": n}}) for base, n in
      (("gpt2", 301), ("gpt2-shards", 301), ("bart", 301), ("distilbert-bin", 220))),
    part("gpt2", {}, pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}),
    part("gpt2", {"tokenizer_class": "PreTrainedTokenizerFast"},
         pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}),
    part("gpt2", {"tokenizer_class": "PreTrainedTokenizerFast"}, normalizer={"type": "Lowercase"}),
    part("gpt2", {"add_bos_token": False}, post_processor=BEGIN),
    part("gpt2", {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False}, post_processor=BEGIN),
    part("distilbert", {"do_lower_case": True}, normalizer=dict(PIECE, lowercase=False)),
    part("distilbert", {"do_lower_case": False}, normalizer=dict(PIECE, lowercase=True)),
    part("distilbert", {}, normalizer=dict(PIECE, lowercase=False)),
    part("distilbert", {"tokenizer_class": "PreTrainedTokenizerFast"}, normalizer=dict(PIECE, lowercase=True)),
    part("distilbert", {"do_lower_case": False}, normalizer=dict(PIECE, lowercase=False, clean_text=False)),
    part("distilbert", {"do_lower_case": False}, post_processor=None),
]


def files_of(base):
    names = ["config.json", "tokenizer.json", CONFIG, "vocab.json", "merges.txt", "vocab.txt"]
    return [FIXTURES / base / name for name in names if (FIXTURES / base / name).exists()]


def main():
    out = []
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for file in files_of(variant["base"]):
                shutil.copy(file, folder)
            for name, content in variant["files"].items():
                if content is None:
                    (folder / name).unlink(missing_ok=True)
                else:
                    (folder / name).write_text(json.dumps(content))
            if "json" in variant:
                whole = json.loads((folder / "tokenizer.json").read_text())
                whole.update(variant["json"])
                (folder / "tokenizer.json").write_text(json.dumps(whole))
            tokenizer = AutoTokenizer.from_pretrained(folder)
            ids = [tokenizer(text, pair or None)["input_ids"] for text, pair in TEXTS]
        out.append(dict(variant, ids=ids))
    lines = ",\n".join(json.dumps(variant, ensure_ascii=False) for variant in out)
    texts = json.dumps(TEXTS, ensure_ascii=False)
    (FIXTURES / "tokenizers.json").write_text(f'{{"texts": {texts},\n"variants": [\n{lines}\n]}}\n')
    print(len(out), "variants")


main()
