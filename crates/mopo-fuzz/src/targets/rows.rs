//! Readers of preference data: JSON Lines, JSON arrays, gzip and Parquet of each source, and the prepared format.

use std::path::Path;

use mopo_core::Objectives;
use mopo_data::helpsteer::read_helpsteer;
use mopo_data::reddit::{TldrOptions, read_tldr, read_tldr_axes, read_tldr_prompts};
use mopo_data::safe_rlhf::{read_beavertails, read_safe_rlhf};
use mopo_data::summeval::read_summeval_op;
use mopo_data::trl::read_trl;
use mopo_data::ultrafeedback::read_ultrafeedback;
use mopo_data::{
    ChatTemplate, PairOptions, PreferenceRecord, PreparedReader, ReadOptions, Result, Sink,
    SourceRead, read_hh,
};

use super::files;
use crate::place::write;
use crate::{Form, Outcome, Place, Runner, Target};

const WORDS: &[&str] = &[
    "prompt",
    "chosen",
    "rejected",
    "content",
    "role",
    "user",
    "assistant",
    "system",
    "tool",
    "\\n\\nHuman: ",
    "\\n\\nAssistant: ",
    "response_0",
    "response_1",
    "is_response_0_safe",
    "better_response_id",
    "safer_response_id",
    "is_safe",
    "category",
    "completions",
    "instruction",
    "overall_score",
    "fine-grained_score",
    "annotations",
    "Rating",
    "N/A",
    "helpfulness",
    "correctness",
    "coherence",
    "verbosity",
    "info",
    "post",
    "summaries",
    "text",
    "choice",
    "split",
    "train",
    "valid1",
    "extra",
    "confidence",
    "axes",
    "accuracy",
    "overall",
    "coverage",
    "input_text",
    "candidate_0",
    "candidate_1",
    "completion",
    "label",
    "model_summary",
    "reference",
    "id",
    "source",
    "indicators",
    "scores",
    "first",
    "second",
    "messages",
    "mopo-preferences",
    "schema",
    "objectives",
    "records",
    "sources",
    "sha256",
    "rows",
    "notes",
    "tie_threshold",
];

const ROWS: Form = Form::Rows;

type Read = fn(&Path, &ReadOptions, &mut Sink<'_>) -> Result<SourceRead>;

pub(super) fn targets() -> Vec<Target> {
    let target = super::alike(ROWS, WORDS);
    vec![
        target("hh", "HH-RLHF: rows of two dialogues", hh_seeds, |place| rows(place, hh), 6.2),
        target(
            "tldr",
            "TL;DR comparisons, in both layouts",
            || {
                files![
                    "mopo-data/tests/fixtures/tldr-comparisons.jsonl",
                    "mopo-data/tests/fixtures/tldr-converted.jsonl",
                    "mopo-data/tests/fixtures/tldr-comparisons.parquet",
                ]
            },
            |place| rows(place, |path, read, sink| read_tldr(path, 0, 1, &tldr(read), sink)),
            3.3,
        ),
        target(
            "tldr-axes",
            "TL;DR judgements by axis",
            || {
                files![
                    "mopo-data/tests/fixtures/tldr-axes.jsonl",
                    "mopo-data/tests/fixtures/tldr-axes.parquet"
                ]
            },
            |place| {
                rows(place, |path, read, sink| read_tldr_axes(path, &tldr(read), &pairs(), sink))
            },
            1.5,
        ),
        target(
            "tldr-prompts",
            "TL;DR posts",
            || {
                files![
                    "mopo-data/tests/fixtures/tldr-comparisons.jsonl",
                    "mopo-data/tests/fixtures/tldr-axes.jsonl",
                    "mopo-data/tests/fixtures/tldr-dove.jsonl",
                    "mopo-data/tests/fixtures/tldr-dove.parquet",
                ]
            },
            |place| {
                let (path, options) = (place.path().join("rows"), options(place));
                Box::new(move |bytes| {
                    write(&path, bytes);
                    read_tldr_prompts(&path, &tldr(&options))
                        .and_then(|read| read.prompts.into_memory())
                        .into()
                })
            },
            2.8,
        ),
        target(
            "summeval-op",
            "SummEval-OP: summaries and their scores",
            || {
                files![
                    "mopo-data/tests/fixtures/summeval-op.jsonl",
                    "mopo-data/tests/fixtures/summeval-op.parquet"
                ]
            },
            |place| rows(place, |path, read, sink| read_summeval_op(path, read, &pairs(), sink)),
            1.7,
        ),
        target(
            "trl",
            "TRL's types: explicit and implicit prompts, texts and messages",
            || {
                files![
                    "mopo-data/tests/fixtures/trl-explicit.jsonl",
                    "mopo-data/tests/fixtures/trl-implicit.jsonl",
                    "mopo-data/tests/fixtures/trl-messages.jsonl",
                    "mopo-data/tests/fixtures/trl-messages-implicit.jsonl",
                    "mopo-data/tests/fixtures/trl-messages.parquet",
                ]
            },
            |place| {
                rows(place, |path, read, sink| {
                    read_trl(path, 0, 1, read, ChatTemplate::Dialogue, &mut *sink)?;
                    read_trl(path, 0, 1, read, ChatTemplate::Chatml, sink)
                })
            },
            3.3,
        ),
        target(
            "safe-rlhf",
            "PKU-SafeRLHF",
            || {
                files![
                    "mopo-data/tests/fixtures/safe-rlhf.jsonl",
                    "mopo-data/tests/fixtures/safe-rlhf.parquet"
                ]
            },
            |place| {
                rows(place, |path, read, sink| {
                    read_safe_rlhf(path, read, ChatTemplate::Dialogue, sink)
                })
            },
            3.2,
        ),
        target(
            "beavertails",
            "BeaverTails",
            || {
                files![
                    "mopo-data/tests/fixtures/beavertails.jsonl",
                    "mopo-data/tests/fixtures/beavertails.parquet"
                ]
            },
            |place| {
                rows(place, |path, read, sink| {
                    read_beavertails(path, read, ChatTemplate::Chatml, &pairs(), sink)
                })
            },
            3.4,
        ),
        target(
            "ultrafeedback",
            "UltraFeedback",
            || {
                files![
                    "mopo-data/tests/fixtures/ultrafeedback.jsonl",
                    "mopo-data/tests/fixtures/ultrafeedback.parquet",
                ]
            },
            |place| {
                rows(place, |path, read, sink| {
                    read_ultrafeedback(path, read, ChatTemplate::Plain, &pairs(), sink)
                })
            },
            2.3,
        ),
        target(
            "helpsteer",
            "HelpSteer",
            || {
                files![
                    "mopo-data/tests/fixtures/helpsteer.jsonl",
                    "mopo-data/tests/fixtures/helpsteer.parquet"
                ]
            },
            |place| {
                rows(place, |path, read, sink| {
                    read_helpsteer(path, read, ChatTemplate::Dialogue, &pairs(), sink)
                })
            },
            1.8,
        ),
        target("prepared", "the prepared format", prepared_seeds, prepared, 9.1),
    ]
}

fn options(place: &Place) -> ReadOptions {
    ReadOptions { seed: 1, scratch: Some(place.path().into()), ..ReadOptions::default() }
}

fn tldr(read: &ReadOptions) -> TldrOptions {
    TldrOptions { read: read.clone(), ..TldrOptions::default() }
}

fn pairs() -> PairOptions {
    PairOptions { tie_threshold: 0.5, pairs_per_prompt: Some(3) }
}

fn hh(path: &Path, options: &ReadOptions, sink: &mut Sink<'_>) -> Result<SourceRead> {
    read_hh(path, 1, 2, options, sink)
}

/// Reads rows, and checks that each record can be stored and read again.
fn rows(place: &Place, read: Read) -> Runner {
    let (path, options) = (place.path().join("rows"), options(place));
    Box::new(move |bytes| {
        write(&path, bytes);
        let mut wrong = None;
        let mut check = |record: PreferenceRecord| {
            let n = record.indicators.len();
            let all = Objectives::new((0..n).map(|i| format!("o{i}"))).expect("names");
            if let Err(e) = record.check(&all) {
                wrong = Some(format!("a reader made a record that cannot be stored: {e}"));
            }
            Ok(())
        };
        let outcome = read(&path, &options, &mut check).into();
        wrong.map_or(outcome, Outcome::Wrong)
    })
}

fn prepared(place: &Place) -> Runner {
    let path = place.path().join("set.jsonl");
    Box::new(move |bytes| {
        write(&path, bytes);
        PreparedReader::open(&path)
            .and_then(|mut reader| reader.try_for_each(|record| record.map(drop)))
            .into()
    })
}

fn hh_seeds() -> Vec<Vec<u8>> {
    let row = |chosen: &str, rejected: &str| {
        let dialogue = |end: &str| {
            format!(
                "\n\nHuman: How do I boil an egg?\n\nAssistant: In water.\n\nHuman: How long?\n\nAssistant: {end}"
            )
        };
        serde_json::json!({ "chosen": dialogue(chosen), "rejected": dialogue(rejected) })
            .to_string()
    };
    let lines = [
        row("Eight minutes.", "No idea."),
        row("Ask \u{e9}ve.", "An hour"),
        row("", "x"),
        row("y", "y"),
    ];
    vec![(lines.join("\n") + "\n").into_bytes(), lines[0].clone().into_bytes()]
}

/// A small part of the demo world.
fn prepared_seeds() -> Vec<Vec<u8>> {
    let config = mopo_data::demo::DemoConfig { n_prompts: 4, ..Default::default() };
    let set = mopo_data::demo::generate(&config).expect("the demo world");
    let place = Place::new().expect("a folder");
    let path = place.path().join("set.jsonl");
    set.write(&path).expect("a folder that can be written");
    vec![std::fs::read(path).expect("what was written")]
}
