//! Readers of other texts: prompts, labelled texts, texts to score, answers, statistics, metrics, judges.

use mopo_data::{read_labelled, read_prompts};
use mopo_eval::judge::{AnswerCache, JudgePrompt, Question, read_verdict};
use mopo_eval::score::TextFile;
use mopo_report::{MetricsLog, read_statistics};

use super::files;
use crate::place::write;
use crate::{Form, Outcome, Place, Runner, Target};

pub(super) fn targets() -> Vec<Target> {
    let target = |name, reads, form, words, seeds, start, rate| Target {
        name,
        reads,
        form,
        words,
        seeds,
        start,
        rate,
    };
    const TEXT: Form = Form::Text;
    vec![
        target(
            "labelled",
            "labelled texts: CSV, JSON, Parquet",
            Form::Rows,
            &["text", "label", "\"\"", ",", "\n", "\"", "1", "0", "true"],
            || {
                vec![
                    b"text,label\nfine day,1\n\"a, \"\"b\"\"\nc\",0\nx,0\ny,1\n".to_vec(),
                    b"id,text,label\r\n1,one,true\r\n2,\"two\",false\r\n".to_vec(),
                    b"{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\"label\":0}\n".to_vec(),
                ]
            },
            |place| {
                let path = place.path().join("texts");
                Box::new(move |bytes| {
                    write(&path, bytes);
                    // A column may have changed its name.
                    let read = read_labelled(&path, "text", "label", "1", false);
                    read.or_else(|_| read_labelled(&path, "text", "label", "true", false)).into()
                })
            },
            2.7,
        ),
        target(
            "prompts",
            "prompts to answer",
            Form::Rows,
            &["id", "source", "prompt", "reference"],
            || {
                vec![
                    b"{\"id\":\"a:1\",\"source\":\"a\",\"prompt\":\"Tea?\"}\n\
                      {\"id\":\"a:2\",\"source\":\"a\",\"prompt\":\"Caf\\u00e9?\",\"reference\":\"Yes.\"}\n"
                        .to_vec(),
                ]
            },
            |place| {
                let path = place.path().join("prompts.jsonl");
                Box::new(move |bytes| {
                    write(&path, bytes);
                    read_prompts(&path).into()
                })
            },
            7.0,
        ),
        target(
            "texts",
            "texts to score",
            TEXT,
            &["prompt", "response", "scores", "messages", "role", "content"],
            || {
                vec![
                    b"{\"prompt\":\"Tea?\",\"response\":\" Yes.\"}\n\n{\"response\":\"No\",\"scores\":{\"a\":1.5}}\n"
                        .to_vec(),
                ]
            },
            |place| {
                let (path, folder) = (place.path().join("texts.jsonl"), place.path().to_path_buf());
                Box::new(move |bytes| {
                    write(&path, bytes);
                    let file = TextFile::open(&path, &folder);
                    file.and_then(|file| file.for_each(&mut |_, _| Ok(()))).into()
                })
            },
            8.5,
        ),
        target(
            "answers",
            "a judge's answers on disk",
            TEXT,
            &["key", "model", "answer"],
            || {
                vec![b"{\"key\":\"a\",\"model\":\"m\",\"answer\":\"x\\nA\"}\n{\"key\":\"b\",\"model\":\"m\"".to_vec()]
            },
            |place| {
                let path = place.path().join("answers.jsonl");
                Box::new(move |bytes| {
                    write(&path, bytes);
                    AnswerCache::open(&path).into()
                })
            },
            10.0,
        ),
        target(
            "judge",
            "a judge's prompt, and its answers",
            TEXT,
            &["{prompt}", "{a}", "{b}", "{criterion}", "\nA", "\nTIE\n"],
            || vec![b"{criterion}\nQ: {prompt}\n1: {a}\n2: {b}\nSay A, B or TIE.\nA\n".to_vec()],
            |_| Box::new(judge),
            3.2,
        ),
        target(
            "metrics",
            "metrics of training",
            TEXT,
            &["step", "phase", "metrics", "loss", "kl/helpful", "lambda[a]"],
            || {
                vec![
                    b"{\"phase\":\"sft\",\"step\":1,\"metrics\":{\"loss\":2.5}}\n\
                      {\"phase\":\"training\",\"step\":2,\"loss\":1.0,\"kl/helpful\":0.25}\n"
                        .to_vec(),
                ]
            },
            |_| {
                Box::new(|bytes| {
                    let log = MetricsLog::parse(bytes);
                    // Unreadable lines are counted.
                    if log.rows.is_empty() && log.n_unreadable > 0 {
                        Outcome::Refused
                    } else {
                        Outcome::Accepted
                    }
                })
            },
            10.0,
        ),
        target(
            "statistics",
            "statistics for z-scores",
            TEXT,
            &["schema", "statistics", "objective", "mean", "std", "source", "helpful"],
            || {
                vec![
                    b"{\"schema\": 1, \"statistics\": [{\"objective\": \"helpful\", \"mean\": 0.5, \"std\": 2.0, \
                      \"source\": \"held-out pairs\"}]}"
                        .to_vec(),
                ]
            },
            |place| {
                let path = place.path().join("statistics.json");
                Box::new(move |bytes| {
                    write(&path, bytes);
                    read_statistics(&path, &["helpful".to_owned()]).into()
                })
            },
            10.0,
        ),
        target(
            "chat-template",
            "chat templates of models",
            TEXT,
            JINJA,
            || {
                files![
                    "mopo-data/tests/chat/templates/blocks.jinja",
                    "mopo-data/tests/chat/templates/gemma.jinja",
                    "mopo-data/tests/chat/templates/llama2.jinja",
                    "mopo-data/tests/chat/templates/llama3.jinja",
                    "mopo-data/tests/chat/templates/mistral.jinja",
                    "mopo-data/tests/chat/templates/phi3.jinja",
                    "mopo-data/tests/chat/templates/qwen2.jinja",
                    "mopo-data/tests/chat/templates/qwen3.jinja",
                    "mopo-data/tests/chat/templates/smollm.jinja",
                ]
            },
            chat_template,
            2.7,
        ),
    ]
}

const JINJA: &[&str] = &[
    "{% for m in messages %}",
    "{% endfor %}",
    "{% if true %}",
    "{% else %}",
    "{% elif loop.first %}",
    "{% endif %}",
    "{% set x = namespace(n=0) %}",
    "{% set x.n = x.n + 1 %}",
    "{% macro f(a, b=1) %}",
    "{% endmacro %}",
    "{{ f(f(f)) }}",
    "{{- messages -}}",
    "{{ messages | length }}",
    "{{ messages[0]['content'] * 1000 }}",
    "{{ range(1000000) | list }}",
    "{{ 'a' * 100000000 }}",
    "{{ messages | tojson(indent=4) }}",
    "| join('x')",
    "| replace('a', 'aa')",
    ".split('')",
    "[::-1]",
    "[1:-1]",
    "[-5:100:0]",
    "{{ 10 ** 100 ** 100 }}",
    "{{ 1 // 0 }}",
    "{{ 1 % 0 }}",
    "{{ -9223372036854775808 // -1 }}",
    "{% break %}",
    "{% continue %}",
    "{{ raise_exception('x') }}",
    "{{ strftime_now('%Y%9999999999d') }}",
    "{# ",
    " #}",
    "{% raw %}",
    "{% endraw %}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% filter upper %}",
    "{% endfilter %}",
    "{{ loop.index0 }}",
    "{{ self }}",
    "{{ namespace(a=namespace) }}",
    "{% for a, b in messages[0].items() recursive %}",
    "is defined",
    "is mapping",
    "not in",
    "~",
    "{{ x.y.z }}",
    "{{ cycler(1,2) }}",
    "{{ dict(a=1) | dictsort }}",
    "{{ messages | map(attribute='role') \
     | unique | list | sort | reverse }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ 'x' | indent(100000000) }}",
    "{{ '%s' | format(1) }}",
    "{{ 'x'.ljust(999999999) }}",
    "{{ 9223372036854775807 + 1 }}",
    "{{ [1] * 99999999 }}",
    "{{ (1, 2) + (3,) }}",
    "{{ messages | batch(0) }}",
    "{{ 'a' | urlencode }}",
    "{{ 'a'.strip('').title() }}",
    "{%- call f() -%}",
    "{%- endcall -%}",
    "{% with a=1 %}",
    "{% endwith %}",
];

fn judge(bytes: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(bytes);
    read_verdict(&text);
    let criterion = text.contains("{criterion}").then_some("Which is better?");
    let prompt = JudgePrompt::new(&text, criterion);
    let question = Question { prompt: "{a}", a: "one", b: "{prompt}" };
    prompt.map(|prompt| prompt.fill(&question)).into()
}

fn chat_template(_: &Place) -> Runner {
    let message = |role: &str, content: &str| mopo_data::Message {
        role: role.into(),
        content: content.into(),
    };
    let messages = [
        message("user", "Tea, or caf\u{e9}? "),
        message("assistant", "Tea."),
        message("user", ""),
        message("assistant", "x"),
    ];
    Box::new(move |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(template) = mopo_data::JinjaTemplate::new("template", &text) else {
            return Outcome::Refused;
        };
        let template =
            template.with_variable("bos_token", "<s>").with_variable("eos_token", "</s>");
        // The text may say when it was made.
        let template = template.with_time("2024-07-26T12:00:00").expect("a time");
        let whole = template.render(&messages[..3], true);
        match template.segments(&messages) {
            // What the parts are of.
            Ok(segments) => {
                let parts: String = segments.iter().map(|segment| segment.text.as_str()).collect();
                match template.render(&messages, false) {
                    Ok(whole) if whole != parts => {
                        Outcome::Wrong("the segments are not the text".into())
                    }
                    _ => Outcome::Accepted,
                }
            }
            Err(_) => whole.into(),
        }
    })
}
