//! "Did you mean …": the known name that is closest to an unknown one.

/// The candidates that `given` may have meant, the closest first, at most three. `given` and the
/// candidates are dotted paths or plain names.
pub(crate) fn nearest<'a>(
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Vec<&'a str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
    let similarity = |a: &str, b: &str| strsim::normalized_damerau_levenshtein(a, b);
    let mut scored: Vec<(f64, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let whole = similarity(given, candidate);
            let name = similarity(&last(given), &last(candidate));
            // The right name in the wrong section, or nearly the right name.
            (name >= 0.6).then_some((whole + name, candidate))
        })
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let best = scored.first().map_or(0.0, |(score, _)| *score);
    scored.into_iter().filter(|(score, _)| *score >= best - 0.3).take(3).map(|(_, c)| c).collect()
}

/// "; did you mean `a` or `b`?", or nothing.
pub(crate) fn did_you_mean<'a>(
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    let names: Vec<String> =
        nearest(given, candidates).into_iter().map(|name| format!("`{name}`")).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("; did you mean {}?", names.join(" or ")),
    }
}

/// A deserializer's message, with what it expected in words.
fn in_words(message: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for (i, part) in message.split("expected ").enumerate() {
        let word = part.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let (name, meant) = match word {
            "usize" | "u64" | "u32" | "u16" | "u8" => (word.len(), "a whole number of at least 0"),
            "i64" | "i32" => (word.len(), "a whole number"),
            "f64" | "f32" => (word.len(), "a number"),
            "struct" => {
                let name = part.split_whitespace().nth(1).unwrap_or_default();
                (word.len() + 1 + name.len(), "a table")
            }
            _ => (0, ""),
        };
        let rest = if i > 0 { format!("{meant}{}", &part[name..]) } else { part.to_string() };
        words.push(rest);
    }
    words.join("expected ")
}

/// A deserializer's message in words; about an unknown field or variant, with a suggestion from those that it lists and
/// those in `known`.
pub(crate) fn with_suggestion(message: &str, known: &[&str]) -> String {
    let message = in_words(message.trim_end());
    let Some(at) =
        ["unknown field `", "unknown variant `"].iter().find_map(|start| message.find(start))
    else {
        return message;
    };
    let mut names = message[at..].split('`').skip(1).step_by(2);
    let Some(given) = names.next() else { return message };
    format!("{message}{}", did_you_mean(given, names.chain(known.iter().copied())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_names_come_first() {
        let keys = ["mopo.tau", "training.steps", "sft.steps", "training.learning_rate"];
        assert_eq!(nearest("mopo.tua", keys), ["mopo.tau"]);
        assert_eq!(nearest("tau", keys), ["mopo.tau"]);
        assert_eq!(nearest("training.learning_rte", keys), ["training.learning_rate"]);
        assert_eq!(nearest("trianing.steps", keys)[0], "training.steps");
        assert_eq!(nearest("mopo.steps", keys).len(), 2);
        assert!(nearest("wholly_different", keys).is_empty());
    }

    #[test]
    fn messages_of_serde_get_a_suggestion() {
        let message = "unknown field `tua`, expected one of `tau`, `ball`\n";
        assert_eq!(
            with_suggestion(message, &[]),
            "unknown field `tua`, expected one of `tau`, `ball`; did you mean `tau`?"
        );
        let unknown = with_suggestion("unknown field `tua`", &["tau", "ball"]);
        assert_eq!(unknown, "unknown field `tua`; did you mean `tau`?");
        assert_eq!(with_suggestion("missing field `tau`", &[]), "missing field `tau`");
        for (message, words) in [
            (
                "integer `-1`, expected usize\nin `a`",
                "integer `-1`, expected a whole number of at least 0\nin `a`",
            ),
            ("string \"x\", expected f64", "string \"x\", expected a number"),
            ("integer `1`, expected struct DataConfig\n", "integer `1`, expected a table"),
            ("integer `1`, expected a string", "integer `1`, expected a string"),
        ] {
            assert_eq!(with_suggestion(message, &[]), words);
        }
    }
}
