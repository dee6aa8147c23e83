"""Writes rendered.json: conversations under the templates beside this file, as transformers renders them.

    python3 -m venv venv
    venv/bin/pip install -r crates/mopo-data/tests/chat/requirements.txt
    venv/bin/python crates/mopo-data/tests/chat/make_fixtures.py

The templates are ours. Each has the constructs and control tokens of a family; `blocks` has what is left of the
language. `expressions` are short templates, one for each filter, method or test. What transformers refuses is
recorded as null.
"""

import datetime
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
NOW = "2024-07-26T09:05:03"


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(NOW)


chat_template_utils.datetime = FixedTime

VARIABLES = {
    "llama2": {"bos_token": "<s>", "eos_token": "</s>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "smollm": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "qwen2": {"eos_token": "<|im_end|>"},
    "qwen3": {"eos_token": "<|im_end|>", "enable_thinking": False},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>"},
    "phi3": {"bos_token": "<s>", "eos_token": "<|endoftext|>"},
    "blocks": {},
}


def talk(*turns):
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[role], "content": content} for role, content in turns]


CONVERSATIONS = [
    talk(("u", "Hi")),
    talk(("s", "Be brief."), ("u", "Tea or coffee?")),
    talk(("u", "Hi"), ("a", "Hello.")),
    talk(("s", "Be brief."), ("u", "Hi"), ("a", "Hello."), ("u", "Tea?"), ("a", "Yes."), ("u", "Why?")),
    talk(("u", "Hi"), ("a", "Hello."), ("u", "Tea?"), ("a", "Yes.")),
    # White space at either end, and only white space.
    talk(("s", " \n rules\t "), ("u", "\n\n  spaced  \n"), ("a", "\u00a0\u3000both\u2003\r\n"), ("u", " \t\n")),
    talk(("u", "\x1c\x1dseparators of ASCII\x1e\x1f"), ("a", "\x85next line\u2028\u2029")),
    talk(("u", "\ufeff\u200bno space\u200b"), ("a", "\u180emongolian")),
    # Nothing said.
    talk(("u", "")),
    talk(("s", ""), ("u", "Hi"), ("a", ""), ("u", "")),
    # Unicode.
    talk(("u", "Zażółć gęślą jaźń 日本語 👩‍👩‍👧 e\u0301 \U0010ffff"), ("a", "ﷺ ＡＢＣ ß İ ŉ \u0000 \u007f")),
    talk(("s", "قواعد"), ("u", "نص من اليمين"), ("a", "\u202eمرحبا\u202c")),
    # What looks like a template or like control tokens.
    talk(("u", "{{ bos_token }}{% raw %} {# no #} \\n 'quoted' \"twice\" <b>&amp;</b>"), ("a", "</s><|im_end|>\n<|im_start|>user\n[INST]")),
    # Thoughts.
    talk(("u", "2+2?"), ("a", "<think>\n\nTwo and two.\n\n</think>\n\n4"), ("u", "3+3?"), ("a", "<think>Three</think>6")),
    talk(("u", "2+2?"), ("a", "first"), ("a", "second")),
    # Roles that some templates refuse.
    talk(("a", "I begin.")),
    talk(("u", "one"), ("u", "two")),
    talk(("u", "Hi"), ("s", "Late rules."), ("u", "Tea?")),
    talk(("u", "call"), ("t", "4"), ("t", "5"), ("a", "9")),
    talk(("u", "<tool_response>x</tool_response>"), ("a", "y")),
    talk(("s", "Only rules.")),
    [],
    talk(*[("ua"[i % 2], f"turn {i}") for i in range(12)]),
]

EXPRESSIONS = [
    "{{ ' a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcab'.lstrip('ab') }}|{{ 'abcab'.rstrip('ba') }}",
    "{{ '\\x1c a\\x1f'.strip() }}|{{ '\\x1c a\\x1f' | trim }}|{{ 'xax' | trim('x') }}",
    "{{ ' a  b c '.split() | join(',') }}|{{ 'a,b,c'.split(',', 1) | join('/') }}|{{ ' a b  c '.split(none, 1) | join('/') }}",
    "{{ 'a,b,c'.rsplit(',', 1) | join('/') }}|{{ ' a b  c '.rsplit(none, 1) | join('/') }}|{{ ''.split() | length }}|{{ ''.split(',') | length }}",
    "{{ 'a,b,c'.split(sep=',', maxsplit=1) | join('/') }}|{{ 'abc'.split('b')[-1] }}|{{ 'a b'.split(' ')[0] }}",
    "{{ 'a\\nb\\r\\nc\\x0bd\\u2028e'.splitlines() | join('/') }}|{{ 'a\\nb'.splitlines(true) | length }}",
    "{{ 'a-b-c'.partition('-') | join('/') }}|{{ 'a-b-c'.rpartition('-')[0] }}|{{ 'abc'.partition('-') | join('/') }}",
    "{{ 'unhappy'.removeprefix('un') }}|{{ 'a.txt'.removesuffix('.txt') }}|{{ 'abc'.find('c') }}|{{ '日本'.find('本') }}|{{ 'abc'.rfind('x') }}|{{ 'abc'.index('b') }}",
    "{{ 'abc'.startswith('ab') }}|{{ 'abc'.startswith(('x', 'a')) }}|{{ 'abc'.endswith('bc') }}|{{ 'aXa'.replace('a', 'b') }}|{{ 'aaa'.replace('a', 'b', 2) }}",
    "{{ 'Straße ǆ'.upper() }}|{{ 'ABC İ'.lower() }}|{{ 'hello world'.title() }}|{{ 'hELLO'.capitalize() }}|{{ 'hELLO' | capitalize }}",
    "{{ 'abcabc'.count('bc') }}|{{ '12'.isdigit() }}|{{ 'ab'.isalpha() }}|{{ ' '.isspace() }}|{{ 'a1'.isalnum() }}|{{ 'AB'.isupper() }}",
    "{{ ', '.join(['a', 'b']) }}|{{ ['a', 1, none, true] | join('-') }}|{{ messages | map(attribute='role') | join(' ') }}|{{ messages | join(', ', attribute='role') }}",
    "{{ 'abcdef'[1:3] }}|{{ 'abcdef'[:-1] }}|{{ 'abcdef'[::-1] }}|{{ 'abcdef'[-2:] }}|{{ 'abcdef'[::2] }}|{{ 'abc'[5:] }}|{{ 'abc'[1] }}|{{ 'abc'[-1] }}",
    "{{ [1, 2, 3][1:] }}|{{ [1, 2, 3][::-1] }}|{{ [1, 2, 3][-1] }}|{{ [] }}|{{ (1, 2) }}|{{ (1,)[0] }}|{{ {'a': 1, 'b': [true, none]} }}",
    "{{ true }}|{{ false }}|{{ none }}|{{ 1.0 }}|{{ 0.5 }}|{{ -3 }}|{{ True and None }}|{{ nothing }}|{{ nothing is defined }}",
    "{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 7 / 2 }}|{{ 2 ** 10 }}|{{ 'ab' * 3 }}|{{ 2 * (3 + 4) * 'x' }}|{{ 1 ~ 2 }}",
    "{{ 'a' in 'abc' }}|{{ 'x' not in 'abc' }}|{{ 1 in [1, 2] }}|{{ 'a' in {'a': 1} }}|{{ 1 < 2 < 3 }}|{{ 'a' < 'b' }}|{{ not '' }}",
    "{{ 'a' is string }}|{{ 1 is number }}|{{ 1 is integer }}|{{ 1.5 is float }}|{{ [] is iterable }}|{{ 'a' is iterable }}|{{ {} is mapping }}|{{ 'a' is sequence }}|{{ {} is sequence }}|{{ 1 is sequence }}",
    "{{ true is boolean }}|{{ true is true }}|{{ 1 is true }}|{{ none is none }}|{{ 3 is odd }}|{{ 4 is divisibleby(2) }}|{{ 'a' is in ['a'] }}|{{ 1 is eq 1 }}|{{ true is sameas true }}|{{ strftime_now is callable }}",
    "{{ none is iterable }}|{{ tools is iterable }}|{{ nothing is iterable }}|{{ none is sequence }}|{{ range(2) is iterable }}",
    "{{ messages is iterable }}|{{ messages is sequence }}|{{ messages[0] is iterable }}|{{ messages is mapping }}|{{ namespace(a=1) is mapping }}|{{ documents is none }}",
    "{{ {'b': 1, 'a': [1, 2.5, none, true, 'é\\n\"<&>']} | tojson }}|{{ {} | tojson }}|{{ [] | tojson(indent=2) }}",
    "{{ {'b': {'c': [], 'd': {}}, 'a': [1, [2]]} | tojson(indent=4) }}",
    "{{ {'b': 1, 'a': 'é😀\\x7f'} | tojson(ensure_ascii=true, sort_keys=true) }}|{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }}",
    "{{ [1e20, 1e-7, 0.1, 1.0, 123456789.125, 1e16, 1.5e300, 0.0001] | tojson }}|{{ {1: 2, none: 3} | tojson }}|{{ messages[0] | tojson }}",
    "{{ strftime_now('%Y-%m-%d %H:%M:%S %B %b %d %-d %A %j %%') }}",
    "{{ dict(a=1, b=2) | tojson }}|{{ {'a': 1}.get('b', 'none') }}|{{ {'a': 1}.get('b') }}|{{ {'z': 1, 'a': 2}.keys() | list }}|{{ {'z': 1, 'a': 2}.values() | list }}|{{ {'z': 1, 'a': 2} | items | list }}",
    "{% for k, v in {'z': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}|{% for k, v in {'z': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}",
    "{{ [3, 1, 2] | sort | join }}|{{ [3, 1, 2] | reverse | join }}|{{ [1, 2] | first }}|{{ [1, 2] | last }}|{{ [1, 1, 2] | unique | list }}|{{ 'abc' | length }}|{{ [1, 2] | max }}|{{ 'abc' | reverse }}|{{ 'abc' | list }}",
    "{{ nothing | default('d') }}|{{ '' | default('d', true) }}|{{ 'a' | default('d') }}|{{ '3' | int + 1 }}|{{ 3.7 | int }}|{{ 2.5 | round }}|{{ 1 | string + 'a' }}|{{ 'a b' | title }}|{{ 'ab' | replace('a', 'c') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='content') | list }}|{{ ['a', ''] | select | list }}",
    "{{ 'a\\nb' | indent(2) }}|{{ 'a\\nb' | indent(2, first=true) }}|{{ '<a>' | e }}|{{ '<a>' | safe }}|{{ 'x' | upper | lower }}",
    "{% set ns = namespace(n=0, list=[]) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.list = ns.list + [m.role] %}{% endfor %}{{ ns.n }}{{ ns.list | join(',') }}",
    "{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(5, 1, -2) %}{{ i }}{% endfor %}{% for a, b in [(1, 2), (3, 4)] %}{{ a * b }}{% endfor %}",
    "{% for m in messages %}{{ loop.index }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.previtem.role if loop.previtem is defined }}{{ loop.changed(m.role) }}{% endfor %}",
    "{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, b=3) }}{{ f(a='x') | upper }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1 if a == 2 else 3 %}{{ c }}{% set d = 'x' if false %}{{ d }}{% if messages %}m{% elif a %}e{% endif %}",
    "{% generation %}{% set inner = 1 %}{{ inner }}{% endgeneration %}{{ inner is defined }}",
    "{{ \"it's\" }}{{ 'tab\\there' }}{{ 'a\\\\b' }}{{ '\\u00e9' }}{{ '\\d' }}{{ 'a' 'b' }}",
    "{%- if true -%}  a  {%- endif -%}\n\n b \n",
    "a\r\nb\r{{ 'c\r\nd' }}\n\n",
    "   {% if true %}\n  x\n   {% endif %}\n  {{ 1 }}\n  {# c #}\n y",
    "  {%+ if true %}x{%+ endif %} {% if true +%}\n z{% endif %}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.role }}{% if loop.index0 == 2 %}{% break %}{% endif %}{% endfor %}",
    "{{ messages[0]['role'] }}{{ messages[0].nothing }}{{ messages[0]['nothing'] is defined }}{{ messages[-1].role }}{{ messages[0].content.upper() }}",
    "{{ messages[9] }}", "{{ messages[0].a.b }}", "{{ nothing.a }}", "{{ nothing() }}", "{{ 'a' + 1 }}", "{{ 1 + none }}", "{{ messages[0].append(1) }}",
    "{{ 'a'.nothing() }}", "{{ 'a' | nothing }}", "{{ 'a' is nothing }}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}",
    "{{ 'a'.split('') }}", "{{ 'a'.index('b') }}", "{% for i in 5 %}{% endfor %}", "{{ [].append(1) }}",
    "{% nothing %}", "{{ (1 }}", "{% if true %}", "{{ 'a }}", "{% endfor %}",
]


def render(template, messages, add_generation_prompt, variables):
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=add_generation_prompt, **variables
        )
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, ZeroDivisionError, AttributeError, IndexError):
        return None
    return rendered[0]


def main():
    cases = {}
    for name, variables in VARIABLES.items():
        # As transformers reads the file: with the line breaks of any system as `\n`.
        template = (HERE / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
        cases[name] = {
            "variables": variables,
            "texts": [[render(template, talk, prompt, variables) for prompt in (False, True)] for talk in CONVERSATIONS],
        }
    asked = CONVERSATIONS[3]
    fixture = {
        "transformers": transformers.__version__,
        "jinja2": jinja2.__version__,
        "now": NOW,
        "conversations": CONVERSATIONS,
        "templates": cases,
        "asked": asked,
        "expressions": [{"template": text, "text": render(text, asked, False, {})} for text in EXPRESSIONS],
    }
    path = HERE / "rendered.json"
    path.write_text(json.dumps(fixture, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    refused = sum(text is None for case in cases.values() for pair in case["texts"] for text in pair)
    print(f"{path.name}: {len(cases)} templates, {len(CONVERSATIONS)} conversations ({refused} refused), "
          f"{len(EXPRESSIONS)} expressions")


if __name__ == "__main__":
    main()
