//! Degenerate sets of pairs.

use serde_json::{Value, json};

/// Their objectives, of which a set has the first ones.
pub(super) const OBJECTIVES: [&str; 5] = ["helpful", "harmless", "humor", "brief", "kind"];
/// What is odd about a set.
pub(super) const KINDS: &[&str] = &[
    "one pair",
    "two pairs",
    "one prompt",
    "all labels the first",
    "all labels ties",
    "labels of one objective missing",
    "all labels missing",
    "an empty response",
    "equal responses",
    "responses that differ in their end only",
    "very long texts",
    "very short texts",
    "soft labels",
    "labels without scores",
    "equal scores",
    "huge scores",
    "tiny scores",
    "control characters",
    "no pairs",
    "nothing odd",
];

/// A prepared set of a kind with so many objectives.
pub(super) fn set(kind: &str, n_objectives: usize) -> String {
    let n = match kind {
        "no pairs" => 0,
        "one pair" => 1,
        "two pairs" => 2,
        _ => 24,
    };
    let objectives = &OBJECTIVES[..n_objectives];
    let header = json!({ "format": "mopo-preferences", "schema": 1, "objectives": objectives, "records": n });
    let lines = (0..n).map(|i| format!("{}\n", record(kind, i, n_objectives)));
    format!("{header}\n{}", lines.collect::<String>())
}

fn record(kind: &str, i: usize, n_objectives: usize) -> Value {
    let mut prompt = match kind {
        "one prompt" => "\n\nHuman: Where is Oslo?\n\nAssistant:".to_string(),
        "very short texts" => format!("{i}"),
        _ => format!("\n\nHuman: Where is the town number {}?\n\nAssistant:", i / 2),
    };
    let mut first = format!(" In the north, on a fjord, {i} miles from here.");
    let mut second = format!(" I do not know{}.", " at all".repeat(i % 3));
    match kind {
        "an empty response" if i == 5 => second = String::new(),
        "equal responses" if i == 5 => second.clone_from(&first),
        "responses that differ in their end only" => {
            let long = " the same words again and again".repeat(40);
            (first, second) = (format!("{long} yes"), format!("{long} no"));
        }
        "very long texts" => {
            prompt = format!("{} {prompt}", "A long story. ".repeat(1500));
            first = " and so on".repeat(3000);
        }
        "very short texts" => (first, second) = ("a".into(), format!("b{i}")),
        "control characters" => {
            first = format!("\u{0}\u{1b}[31m \u{202e}{i} \u{fffd}\u{1f600}\u{300}");
            prompt = prompt.replace("town", "\u{7f}\u{200d}town");
        }
        _ => {}
    }
    let label = |k: usize| match kind {
        "all labels the first" => json!(1.0),
        "all labels ties" => json!(0.5),
        "labels of one objective missing" if k == n_objectives - 1 => Value::Null,
        "all labels missing" => Value::Null,
        "soft labels" => json!([0.001, 0.3, 0.999][(i + k) % 3]),
        _ => json!([1.0, 0.0, 0.5, 1.0, 0.0][(i * 3 + k) % 5]),
    };
    let score = |side: usize, k: usize| match kind {
        "equal scores" => 1.0,
        "huge scores" => [1e30, -1e30][(i + side + k) % 2],
        "tiny scores" => [1e-30, -1e-30][(i + side + k) % 2],
        _ => ((i * 7 + side * 3 + k * 5) % 11) as f64 / 3.0,
    };
    let scores = |side| (0..n_objectives).map(|k| json!(score(side, k))).collect::<Vec<_>>();
    let mut record = json!({
        "id": format!("set:{i}"), "source": "set", "prompt": prompt, "first": first, "second": second,
        "indicators": (0..n_objectives).map(label).collect::<Vec<_>>(),
    });
    if kind != "labels without scores" {
        record["scores"] = json!({ "first": scores(0), "second": scores(1) });
    }
    record
}

/// Rewards for so many objectives, as words of a command.
pub(super) fn rewards(n_objectives: usize) -> String {
    let reward = |(k, name): (usize, &&str)| {
        let reward = match k % 3 {
            0 => r#"{kind="length",prefer="shorter"}"#,
            1 => r#"{kind="word_list",words=["e","the","a","to"]}"#,
            _ => r#"{kind="length",prefer="longer"}"#,
        };
        format!(r#"{{name="{name}",ref_point=-30.0,reward={reward}}}"#)
    };
    let all: Vec<String> = OBJECTIVES[..n_objectives].iter().enumerate().map(reward).collect();
    format!("--set evaluation.rewards=[{}]", all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_as_many_records_as_their_header_says() {
        for kind in KINDS {
            for k in 1..=5 {
                let text = set(kind, k);
                let mut lines =
                    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
                let header = lines.next().unwrap();
                assert_eq!(header["objectives"].as_array().unwrap().len(), k);
                let records: Vec<Value> = lines.collect();
                assert_eq!(header["records"], records.len(), "{kind}");
                assert!(
                    records.iter().all(|r| r["indicators"].as_array().unwrap().len() == k),
                    "{kind}"
                );
            }
        }
        assert!(set("all labels missing", 2).contains("null"));
        assert!(!rewards(5).contains(' ') || rewards(5).split(' ').count() == 2);
    }
}
