//! `mopo chat` with lines from a pipe.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::common::{mopo, stderr, succeed, tiny};

const GREEDY: [&str; 4] = ["--temperature", "0", "--max-new-tokens", "8"];

fn chat(run: &Path, extra: &[&str], lines: &str) -> Output {
    let mut command = mopo(&["chat"]);
    command.arg(run).args(GREEDY).args(extra);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(run: &Path, extra: &[&str], lines: &str) -> String {
    let output = chat(run, extra, lines);
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The answer to one prompt in HH-RLHF's form.
fn answer(run: &Path, prompt: &str, extra: &[&str]) -> String {
    let mut command = mopo(&["generate"]);
    command.arg(run).args(["--prompt", prompt]).args(GREEDY).args(extra);
    succeed(&mut command).split_once('→').unwrap().1.trim().to_string()
}

#[test]
fn answers_follow_from_the_whole_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // Longer than the others', so that there is something to say.
    let more =
        ["sft.steps=60", "data.max_prompt_tokens=100", "model.scratch.max_position_embeddings=256"];
    succeed(tiny(&run).args(more.iter().flat_map(|set| ["--set", set])));

    let first = answer(&run, "What is tea?", &[]);
    assert!(!first.is_empty());
    let both =
        format!("\n\nHuman: What is tea?\n\nAssistant: {first}\n\nHuman: And milk?\n\nAssistant:");
    let second = answer(&run, &both, &["--policy", "humor"]);
    let third = answer(&run, "And milk?", &["--weights", "helpful=0.5,humor=0.5"]);
    let lines = "What is tea?\n\n/policy humor\nAnd milk?\n/reset\n/weights helpful=0.5,humor=0.5\n\
                 And milk?\n/exit\nMore?\n";
    assert_eq!(said(&run, &[], lines), format!("{first}\n{second}\n{third}\n"));
    assert_eq!(third, answer(&run, "And milk?", &["--weights", "0.5,0,0.5"]));

    // A system message comes before the first turn; the input may end anywhere.
    let after = |system: &str| answer(&run, &format!("{system}\n\nHuman: Tea?\n\nAssistant:"), &[]);
    let (brief, rude) = (after("Be brief."), after("Be rude."));
    for (system, expected) in [("Be brief.", &brief), ("Be rude.", &rude)] {
        assert_eq!(&answer(&run, "Tea?", &["--system", system]), expected);
    }
    let lines = "Tea?\n/system Be rude.\nTea?";
    assert_eq!(said(&run, &["--system", "Be brief."], lines), format!("{brief}\n{rude}\n"));

    let long = "tea ".repeat(2000);
    for (lines, extra, words) in [
        ("/polcy humor\n", &[][..], "unknown command `/polcy humor`"),
        ("/policy kind\n", &[], "the policies are helpful, harmless, humor"),
        ("/weights 0.5,x\n", &[], "`x` is not a weight"),
        ("/weights helpful=1,helpful=0\n", &[], "two weights"),
        ("/weights 0.5,0.1,0.1\n", &[], "their sum is"),
        ("Tea?\n", &["--system", &long], "/reset"),
    ] {
        let output = chat(&run, extra, lines);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{lines}: {error}");
        assert!(error.contains("error:") && error.contains(words), "{lines}: {error}");
    }
}
