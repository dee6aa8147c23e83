//! Where templates are found, what errors say, and what no template can do.

use std::fs;

use super::*;
use proptest::prelude::*;

fn user(content: &str) -> Vec<Message> {
    vec![Message { role: "user".into(), content: content.into() }]
}

fn rendered(text: &str) -> Result<String> {
    JinjaTemplate::new("a.jinja", text)?.render(&user("Hi"), false)
}

fn error(text: &str) -> String {
    rendered(text).unwrap_err().to_string()
}

#[test]
fn the_file_goes_before_the_key_and_tokens_become_variables() {
    let dir = tempfile::tempdir().unwrap();
    let load = |name| JinjaTemplate::load(dir.path(), name);
    assert!(load(None).unwrap().is_none());

    let config = r#"{"bos_token": {"content": "<b>"}, "eos_token": "<e>", "add_bos_token": true, "pad_token": null,
        "chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token }}"}"#;
    fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    assert_eq!(load(None).unwrap().unwrap().render(&user("Hi"), false).unwrap(), "<b><e>");
    assert!(load(None).unwrap().unwrap().what().ends_with("tokenizer_config.json"));

    fs::write(dir.path().join("chat_template.jinja"), "file {{ bos_token }}\n").unwrap();
    let template = load(None).unwrap().unwrap();
    assert_eq!(template.render(&user("Hi"), false).unwrap(), "file <b>");
    assert!(template.what().ends_with("chat_template.jinja"));

    fs::create_dir(dir.path().join("chat_templates")).unwrap();
    fs::write(dir.path().join("chat_templates/tool_use.jinja"), "tools {{ eos_token }}").unwrap();
    assert_eq!(load(Some("tool_use")).unwrap().unwrap().render(&[], false).unwrap(), "tools <e>");
    let error = load(Some("../../tool_use")).unwrap_err().to_string();
    assert!(error.contains("no template has the name"), "{error}");
}

#[test]
fn one_of_several_templates_is_chosen_by_name() {
    for list in [
        r#"[{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]"#,
        r#"{"default": "d", "rag": "r"}"#,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let config = format!("{{\"chat_template\": {list}}}");
        fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        let load = |name| JinjaTemplate::load(dir.path(), name);
        for (name, text) in [(None, "d"), (Some("default"), "d"), (Some("rag"), "r")] {
            assert_eq!(load(name).unwrap().unwrap().render(&[], false).unwrap(), text);
        }
        let error = load(Some("none")).unwrap_err().to_string();
        assert!(error.contains("`rag`") && error.contains("choose one"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), r#"{"chat_template": 3}"#).unwrap();
    let error = JinjaTemplate::load(dir.path(), None).unwrap_err().to_string();
    assert!(
        error.contains("`chat_template` is 3") && error.contains("tokenizer_config.json"),
        "{error}"
    );
}

#[test]
fn errors_name_the_file_the_line_and_what_is_wrong() {
    for (text, parts) in [
        ("a\n{{ messages[0].nothing() }}", ["line 2", "unknown method", "correct the template"]),
        ("a\n\n{{ nothing(1) }}", ["line 3", "unknown function", "correct the template"]),
        ("{{ 'a' | nothing }}", ["line 1", "unknown filter", "correct the template"]),
        ("{{ nothing.a }}", ["line 1", "undefined", "correct the template"]),
        ("a\n{% if %}{% endif %}", ["line 2", "syntax error", "correct the template"]),
        ("{% set x = %}", ["line 1", "syntax error", "correct the template"]),
        ("a\nb\n{% if true %}", ["line 3", "syntax error", "correct the template"]),
        ("a\n{% include 'x' %}", ["line 2", "`include` is not supported", "correct the template"]),
        (
            "a\n{{ raise_exception('No ' + 'tools.') }}",
            ["line 2", "it says: No tools.", "change the messages"],
        ),
        ("{{ strftime_now('%Q') }}", ["line 1", "`%Q`", "correct the template"]),
    ] {
        let error = error(text);
        assert!(error.contains("chat template a.jinja"), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let long = format!("{{# {} #}}", "a".repeat(MAX_TEMPLATE));
    assert!(error(&long).contains("bytes, more than"));
}

#[test]
fn a_response_needs_the_assistant() {
    let template =
        JinjaTemplate::new("a.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}")
            .unwrap();
    for messages in [vec![], user("Hi")] {
        let error = template.last_response(&messages).unwrap_err().to_string();
        assert!(error.contains("not the assistant's"), "{error}");
    }
    assert!(template.segments(&[]).unwrap().is_empty());
    assert!(template.with_time("tomorrow").unwrap_err().to_string().contains("`time` is tomorrow"));
}

#[test]
fn a_response_that_does_not_begin_with_the_generation_prompt_is_named() {
    let template = JinjaTemplate::new(
        "a.jinja",
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if \
         add_generation_prompt %}<assistant><think>{% endif %}",
    )
    .unwrap();
    let mut messages = user("Hi");
    messages.push(Message { role: "assistant".into(), content: "Yes".into() });
    for error in [template.segments(&messages).err(), template.last_response(&messages).err()] {
        let error = error.unwrap().to_string();
        assert!(error.contains("generation prompt") && error.contains("message 1"), "{error}");
    }
}

#[test]
fn a_template_that_never_ends_is_an_error() {
    let forever =
        "{% for a in range(100000) %}{% for b in range(100000) %}BODY{% endfor %}{% endfor %}";
    for (body, part) in [
        ("", "steps"),
        (&"0123456789abcdef".repeat(100), "more than 16 MiB"),
        ("{% set c = [a, b] %}", "steps"),
    ] {
        let error = error(&forever.replace("BODY", body));
        assert!(error.contains(part) && error.contains("shorten the conversation"), "{error}");
    }
    let error = error("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}");
    assert!(error.contains("recursion"), "{error}");
}

/// Each of these would take all memory, all stack or all time.
#[test]
fn values_do_not_grow_without_bounds() {
    let grow = |start: &str, step: &str, then: &str| {
        format!(
            "{{% set n = namespace(x={start}) %}}{{% for i in range(1000) %}}{{% set n.x = {step} %}}{{% endfor %}}{then}"
        )
    };
    for (start, step) in [
        ("1", "[n.x]"),
        ("1", "[n.x, n.x]"),
        ("1", "(n.x, n.x)"),
        ("1", "n.x, n.x"),
        ("1", "{'a': n.x, 'b': n.x}"),
        ("[1]", "n.x + n.x"),
        ("'a'", "n.x + n.x"),
        ("'a'", "n.x ~ n.x"),
        ("'ab'", "n.x.replace('a', n.x)"),
        ("'ab'", "n.x | replace('a', n.x)"),
        ("'a'", "n.x.join([n.x, n.x])"),
        ("[1]", "[1, 2] | map(attribute='a', default=n.x) | list"),
        ("[1]", "n.x * 2"),
        ("[1]", "2 * n.x"),
        ("1", "namespace(a=n.x, b=n.x)"),
        ("1", "dict(a=n.x, b=n.x)"),
        ("1", "n"),
        ("1", "[n]"),
    ] {
        for then in [
            "{{ n.x }}",
            "{{ n.x == n.x | list }}",
            "{{ n.x | string }}",
            "{{ {n.x: 1} }}",
            "{{ n.x | tojson }}",
        ] {
            let error = error(&grow(start, step, then));
            assert!(
                ["too deep", "too large", "steps", "namespace", "multiplied"]
                    .iter()
                    .any(|part| error.contains(part)),
                "{step}: {error}"
            );
        }
    }
    for text in [
        "{% macro f(x) %}{{ f(x + x) }}{% endmacro %}{{ f([1]) }}".into(),
        "{% macro f(x) %}{{ f([x, x]) }}{% endmacro %}{{ f([1]) }}".into(),
        format!("{{% set x = 1 %}}{}{{{{ x }}}}", "{% set x = [x, x] %}".repeat(100)),
        format!("{}{{{{ x }}}}{}", "{% with x = x + x %}".repeat(60), "{% endwith %}".repeat(60)),
        format!(
            "{{{{ {}1{} }}}}",
            "[1, 2] | map(attribute='a', default=".repeat(30),
            ")".repeat(30)
        ),
        "{{ ('ab' * 1000000).split('a') | join('x' * 1000000) }}".into(),
        "{% set a %}{{ 'x' * 100000 }}{% endset %}{{ a }}".into(),
        "{{ '{:>999999999}'.format(1) }}".into(),
        "{{ '%999999999s' % 1 }}".into(),
        "{{ '%999999999s' | format(1) }}".into(),
        "{{ 'a' | indent(999999999999) }}".into(),
        "{{ range(9223372036854775807, -9223372036854775807, -1) | list }}".into(),
        format!("{{{{ {}1{} }}}}", "[".repeat(1000), "]".repeat(1000)),
        format!("{{% if a %}}{}{{% endif %}}{{{{ nothing() }}}}", "{% elif a %}".repeat(20_000)),
    ] {
        let text: String = text;
        assert!(rendered(&text).is_err(), "{}", text.chars().take(80).collect::<String>());
    }
}

#[test]
fn a_long_conversation_is_within_the_limits() {
    let template = JinjaTemplate::new(
        "a.jinja",
        "{% set turns = messages[1:] %}{% set n = namespace(all=[]) %}{% for m in turns[::-1] %}{% if '</t>' in \
         m.content %}{% set c = m.content.split('</t>')[-1].strip() %}{{ c }}{% else %}{{ m.content | trim \
         }}{% endif %}{% endfor %}",
    )
    .unwrap();
    let turn = |i: usize| Message {
        role: ["user", "assistant"][i % 2].into(),
        content: "word ".repeat(200),
    };
    let messages: Vec<Message> = (0..3000).map(turn).collect();
    assert_eq!(template.render(&messages, false).unwrap().len(), 2999 * 999);
}

#[test]
fn nothing_of_this_crate_can_be_named_in_a_template() {
    assert_eq!(rendered("{{ debug is defined }}{{ now is defined }}").unwrap(), "FalseFalse");
    let error = error("{{ {} | mopo_bounded_x }}");
    assert!(error.contains("unknown filter"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(parts in prop::collection::vec(prop::sample::select(vec![
        "{{", "}}", "{%", "%}", "{#", "#}", "-", "+", "*", "~", "|", ".", ",", "(", ")", "[", "]", "{", "}", ":", "'",
        "\"", "\\", "\n", " ", "a", "1", "é", "for", "in", "if", "else", "elif", "endif", "endfor", "set", "=", "raw",
        "endraw", "macro", "endmacro", "with", "endwith", "generation", "endgeneration", "messages", "namespace",
        "loop", "not", "is", "defined", "trim", "map", "tojson", "range", "strip", "split", "recursive", "9223372036854775807",
    ]), 0..40), spaced in any::<bool>()) {
        let text = parts.join(if spaced { " " } else { "" });
        let _ = rendered(&text);
        let _ = rendered(&format!("{{{{ {text} }}}}"));
        let _ = rendered(&format!("{{% {text} %}}"));
    }

    #[test]
    fn contents_are_never_part_of_the_template(content in ".*") {
        let template = JinjaTemplate::new("a.jinja", "<{{ messages[0].content }}>").unwrap();
        prop_assert_eq!(template.render(&user(&content), false).unwrap(), format!("<{content}>"));
    }
}
