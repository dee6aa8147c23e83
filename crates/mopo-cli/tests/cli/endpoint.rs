//! Rewards that a server computes, alone and in ensembles: the example in `xtask/rewards`, in Python.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::common::{fail, mopo, succeed};

/// The example server, with a token, while this lives.
struct Server {
    process: Child,
    url: String,
}

const TOKEN: &str = "MOPO_TEST_TOKEN";

impl Server {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xtask/rewards/server.py");
        let mut process = Command::new("python3")
            .arg(script)
            .args(["--port", "0", "--token-env", TOKEN])
            .env(TOKEN, "open sesame")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { process, url: url.trim().into() }
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn with_token(command: &mut Command) -> &mut Command {
    command.env(TOKEN, "open sesame")
}

#[test]
fn texts_and_pairs_are_scored_by_the_example_server() {
    if Command::new("python3").arg("--version").output().is_err() {
        mopo_testkit::skip!("no python3");
    }
    let mut server = Server::start();
    assert!(server.url.starts_with("http://127.0.0.1:"), "{}", server.url);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let http = |name: &str| {
        format!(
            "kind = 'http', url = '{}', name = '{name}', token_env = '{TOKEN}', retries = 0, batch_size = 2",
            server.url
        )
    };
    let write = |file: &str, text: String| fs::write(at(file), text).unwrap();
    write("brief.toml", http("brief").replace(", ", "\n"));
    write("unknown.toml", http("unknown").replace(", ", "\n"));
    write(
        "both.toml",
        format!(
            "kind = 'ensemble'\ncombine = 'mean_minus_std'\ncoefficient = 0.5\nname = 'both'\n\
             [[rewards]]\nreward = {{ {} }}\nstatistics = {{ mean = -3, std = 2 }}\n\
             [[rewards]]\nkind = 'length_corrected'\nper_word = 0.25\nfrom = 2\nreward = {{ {} }}\n",
            http("brief"),
            http("polite")
        ),
    );
    let responses = ["yes", "Thanks, of course: thanks!", "no no no"];
    let lines = responses.map(|response| format!("{}\n", json!({ "response": response })));
    write("texts.jsonl", lines.concat());
    let score = |rewards: &[&str], out: &str| {
        let mut command = mopo(&["score", "texts.jsonl", "--out", out]);
        rewards.iter().for_each(|reward| _ = command.args(["--reward", reward]));
        command.current_dir(dir.path());
        command
    };

    succeed(with_token(&mut score(&["brief.toml", "both.toml"], "scores.jsonl")));
    let scores = fs::read_to_string(at("scores.jsonl")).unwrap();
    let scores: Vec<Value> = scores.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    // Members of `both`: (−words + 3) / 2, and polite words − (words − 2) / 4 where there are more than 2. The
    // standard deviation of two is half of what they differ by.
    let members = [(1.0, 0.0), (-0.5, 1.5), (0.0, -0.25)];
    for ((scores, words), (a, b)) in scores.iter().zip([1.0, 4.0, 3.0]).zip(members) {
        let (a, b): (f64, f64) = (a, b);
        let both = (a + b) / 2.0 - 0.5 * (a - b).abs() / 2.0;
        assert_eq!(scores["scores"], json!({ "brief": -words, "both": both }));
    }
    let record = fs::read_to_string(at("scores.jsonl.record.json")).unwrap();
    assert!(record.contains(&server.url) && !record.contains("sesame"), "{record}");
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["rewards"][1]["sha256"].as_str().unwrap().len(), 64);

    // Pairs, with labels by hand.
    write(
        "rewards.toml",
        format!(
            "[[objectives]]\nname = 'brief'\ntie_threshold = 0\nreward = {{ {} }}\n",
            http("brief")
        ),
    );
    let config = succeed(&mut mopo(&["config", "demo"]));
    write("demo.toml", config.replace("n_prompts = 1200", "n_prompts = 10"));
    succeed(
        mopo(&["prepare", "--config", "demo.toml", "--out", "set.jsonl"]).current_dir(dir.path()),
    );
    let mut label =
        mopo(&["label", "set.jsonl", "--rewards", "rewards.toml", "--out", "out.jsonl"]);
    succeed(with_token(&mut label).current_dir(dir.path()));
    let labelled = fs::read_to_string(at("out.jsonl")).unwrap();
    let mut n_pairs = 0;
    for line in labelled.lines().skip(1) {
        let pair: Value = serde_json::from_str(line).unwrap();
        let words = |side: &str| pair[side].as_str().unwrap().split_whitespace().count() as f64;
        let (first, second) = (words("first"), words("second"));
        assert_eq!(pair["scores"], json!({ "first": [-first], "second": [-second] }));
        let expected = if first == second { 0.5 } else { f64::from(first < second) };
        assert_eq!(pair["indicators"], json!([expected]));
        n_pairs += 1;
    }
    assert!(n_pairs >= 10, "{n_pairs}");

    // A wrong token, no token, a name that the server does not know, and no server.
    let said = fail(score(&["brief.toml"], "no.jsonl").env(TOKEN, "open barley"));
    assert!(said.contains("status 401") && said.contains("wrong one"), "{said}");
    assert!(!said.contains("barley"), "{said}");
    let said = fail(score(&["brief.toml"], "no.jsonl").env_remove(TOKEN));
    assert!(said.contains(&format!("`token_env` is `{TOKEN}`")), "{said}");
    let said = fail(with_token(&mut score(&["unknown.toml"], "no.jsonl")));
    assert!(said.contains("status 404") && said.contains("there are: brief, polite"), "{said}");
    let url = server.url.clone();
    server.stop();
    let said = fail(with_token(&mut score(&["both.toml"], "no.jsonl")));
    for part in [url.as_str(), "no connection", "expected status 200 and {\"scores\": [...]}"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!at("no.jsonl").exists());
}
