//! `mopo serve` as a process: a tiny run over HTTP, signals, and what it refuses to start with.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{fail, mopo, succeed, tiny};

struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(run: &Path, more: &[&str]) -> Self {
        let mut command = mopo(&["serve"]);
        command.arg(run).args(["--port", "0"]).args(more);
        command.env_remove("MOPO_API_KEY").env_remove("MOPO_LOG");
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned();
        Self { process, address }
    }

    /// Status and body.
    fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.send("POST", path, &body.to_string());
        assert_eq!(status, 200, "{body}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// A greedy answer.
    fn ask(&self, more: &Value) -> String {
        let mut body = json!({
            "messages": [{ "role": "user", "content": "How do I boil eggs?" }],
            "temperature": 0, "max_tokens": 12,
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.post("/v1/chat/completions", &body);
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn end(&mut self) -> (ExitStatus, String) {
        let status = self.process.wait().unwrap();
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Every file of a directory with its bytes.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.display().to_string(), std::fs::read(&path).unwrap())),
        }
    }
    found
}

#[test]
fn a_run_is_served_as_the_other_commands_answer() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("demo-run");
    succeed(&mut tiny(&run));
    let before = files(&run);
    let mut server = Server::start(&run, &[]);

    // The corner of the weights is the head, bit for bit, and both are what `mopo chat` says.
    for (k, name) in ["helpful", "harmless", "humor"].into_iter().enumerate() {
        let head = server.ask(&json!({ "model": format!("demo-run:{name}") }));
        let corner = server.ask(&json!({ "preference_weights": { name: 1 } }));
        assert_eq!(head, corner, "{name}");
        if k == 0 {
            assert_eq!(server.ask(&json!({})), head, "the first policy is the default");
        }
        assert_eq!(head, chat(&run, &["--policy", name]), "{name}");
    }
    let thirds = json!({ "helpful": 1, "harmless": 1, "humor": 1 });
    let mixed = server.ask(&json!({ "preference_weights": thirds, "normalize_weights": true }));
    let named = "demo-run@helpful=0.3334,harmless=0.3333,humor=0.3333";
    assert_eq!(mixed, server.ask(&json!({ "model": named })));
    assert_eq!(mixed, chat(&run, &["--weights", "0.33333334,0.33333333,0.33333333"]));
    assert_eq!(server.ask(&json!({ "model": "demo-run:sft" })), chat(&run, &["--policy", "sft"]));
    let forward = json!({ "preference_weights": thirds, "normalize_weights": true, "divergence": "forward_kl" });
    server.ask(&forward);

    // A stop string, several samples, and a seed that repeats them.
    let sampled = json!({
        "messages": [{ "role": "user", "content": "How do I boil eggs?" }],
        "n": 3, "seed": 5, "max_tokens": 12, "temperature": 1,
    });
    let texts = |answer: &Value| {
        let of = |choice: &Value| choice["message"]["content"].as_str().unwrap().to_owned();
        answer["choices"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let first = texts(&server.post("/v1/chat/completions", &sampled));
    assert_eq!(first, texts(&server.post("/v1/chat/completions", &sampled)));
    assert!(first[0] != first[1] || first[1] != first[2], "{first:?}");
    let best = json!({ "n": 1, "best_of": 4, "model": "demo-run:harmless" });
    server.ask(&best);

    let prompt = "\n\nHuman: How do I boil eggs?\n\nAssistant:";
    let completion = json!({ "prompt": prompt, "temperature": 0, "max_tokens": 12 });
    let text = server.post("/v1/completions", &completion)["choices"][0]["text"].clone();
    assert_eq!(text.as_str().unwrap().trim(), server.ask(&json!({})));

    let scored = json!({ "input": [{ "prompt": "How do I boil eggs?", "response": "In water." }] });
    let scores = server.post("/v1/scores", &scored);
    assert_eq!(scores["rewards"], json!(["helpful", "harmless", "humor"]));
    assert!(scores["data"][0]["scores"]["harmless"].is_number());

    // There is no front yet; once there is, it shows without a new start.
    assert_eq!(server.send("GET", "/api/front", "").0, 404);
    succeed(mopo(&["pareto"]).arg(&run));
    let (status, front) = server.send("GET", "/api/front", "");
    let front: Value = serde_json::from_str(&front).unwrap();
    assert_eq!(status, 200);
    assert_eq!(front["steps"], 2);
    let mixtures = front["points"].as_array().unwrap().iter().filter(|p| p["group"] == "mixture");
    assert_eq!(mixtures.filter(|p| p["weights"].is_array()).count(), 3);

    // Wrong requests end as such, with the reason.
    for (more, status, code) in [
        (json!({ "max_tokens": 2000 }), 400, "context_length_exceeded"),
        (json!({ "max_tokens": 2000, "stream": true }), 400, "context_length_exceeded"),
        (json!({ "min_p": 1.5 }), 400, "invalid_value"),
        (json!({ "messages": [{ "role": "assistant", "content": "x" }] }), 400, "invalid_value"),
        (json!({ "model": "demo-run@helpful=2" }), 400, "invalid_value"),
    ] {
        let mut body = json!({ "messages": [{ "role": "user", "content": "secret question" }] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (found, text) = server.send("POST", "/v1/chat/completions", &body.to_string());
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (found, error["error"]["code"].as_str()),
            (status, Some(code)),
            "{more}: {text}"
        );
    }

    server.signal("-TERM");
    let (status, said) = server.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("POST \"/v1/chat/completions\" 200"), "{said}");
    assert!(!said.contains("eggs") && !said.contains("secret question"), "{said}");

    // Nothing of the run is lost or left behind, even by the hardest end.
    let mut server = Server::start(&run, &["--log-requests"]);
    server.ask(&json!({}));
    server.signal("-KILL");
    let (_, said) = server.end();
    assert!(said.contains("How do I boil eggs?"), "{said}");
    let mut after = files(&run);
    after.retain(|name, _| !name.contains("/pareto/"));
    assert_eq!(before, after);
}

/// What `mopo chat` answers.
fn chat(run: &Path, more: &[&str]) -> String {
    let mut command = mopo(&["chat"]);
    command.arg(run).args(["--temperature", "0", "--max-new-tokens", "12"]).args(more);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(b"How do I boil eggs?\n").unwrap();
    let output = process.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
}

#[test]
fn a_plain_model_is_served_and_a_second_signal_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("demo-run");
    succeed(&mut tiny(&run));
    let model = dir.path().join("plain");
    std::fs::create_dir(&model).unwrap();
    for (from, name) in [
        ("warm_start", "config.json"),
        ("warm_start", "model.safetensors"),
        (".", "tokenizer.json"),
    ] {
        std::fs::copy(run.join(from).join(name), model.join(name)).unwrap();
    }
    let mut server = Server::start(&model, &["--name", "other", "--max-new-tokens", "9"]);
    let (_, models) = server.send("GET", "/v1/models", "");
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!(models["data"].as_array().unwrap().len(), 1);
    assert_eq!(models["data"][0]["id"], "other");
    let answer = server.post("/v1/completions", &json!({ "prompt": "Hello", "model": "other" }));
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() <= 9);
    let scored = json!({ "input": [{ "prompt": "a", "response": "b" }] });
    assert_eq!(server.send("POST", "/v1/scores", &scored.to_string()).0, 400);
    assert_eq!(server.send("GET", "/", "").0, 200);

    // A request whose body never comes keeps the server for a while; the second signal does not wait.
    let mut hanging = TcpStream::connect(&server.address).unwrap();
    hanging
        .write_all(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n")
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.signal("-INT");
    std::thread::sleep(Duration::from_millis(300));
    assert!(server.process.try_wait().unwrap().is_none(), "it waits for the request");
    let began = Instant::now();
    server.signal("-TERM");
    let (status, _) = server.end();
    assert_eq!(status.code(), Some(128 + 15));
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn what_must_not_start_is_refused_before_a_model_is_loaded() {
    for (args, words) in [
        (&["nowhere"][..], "nowhere"),
        (&["nowhere", "--host", "0.0.0.0"], "--api-key"),
        (&["nowhere", "--api-key", " x"], "--api-key"),
    ] {
        let mut command = mopo(&["serve"]);
        command.args(args).env_remove("MOPO_API_KEY");
        let said = fail(&mut command);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    // With a key in the environment it would.
    let mut command = mopo(&["serve", "nowhere", "--host", "0.0.0.0"]);
    let said = fail(command.env("MOPO_API_KEY", "secret"));
    assert!(
        said.contains("nowhere") && !said.contains("--host") && !said.contains("secret"),
        "{said}"
    );
}
