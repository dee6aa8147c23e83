//! Random requests: every answer is well-formed and in time, and the server goes on.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use crate::client::{ask, connect, read, request};
use crate::double::Served;

/// `MOPO_FUZZ_REQUESTS` sets another number: 100000 takes some minutes.
const REQUESTS: usize = 4000;
const THREADS: usize = 4;

/// Every field that any endpoint knows, and some that none does.
const FIELDS: [&str; 38] = [
    "model",
    "messages",
    "prompt",
    "input",
    "preference_weights",
    "normalize_weights",
    "divergence",
    "stream",
    "stream_options",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "user",
    "tools",
    "tool_choice",
    "response_format",
    "echo",
    "suffix",
    "metadata",
    "audio",
    "modalities",
    "functions",
    "",
    "\u{0}",
    "__proto__",
];

fn text(rng: &mut impl Rng) -> String {
    let n = *[0, 1, 3, 20, 300].choose(rng).unwrap();
    let chars = [
        'a', ' ', '\n', '"', '\\', '\0', 'é', '\u{fffd}', '😀', '<', '{', '\u{202e}', '=', '@',
        ':', ',',
    ];
    (0..n).map(|_| *chars.choose(rng).unwrap()).collect()
}

fn value(rng: &mut impl Rng, depth: usize) -> Value {
    match rng.random_range(0..if depth == 0 { 12 } else { 15 }) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!(rng.random_range(-3..4)),
        3 => json!(rng.random::<i64>()),
        4 => json!(rng.random::<u64>()),
        5 => json!(rng.random_range(-1.5..1.5)),
        6 => json!(*[1e308, -1e308, 1e-320, 0.1].choose(rng).unwrap()),
        7 | 8 => json!(text(rng)),
        9 => json!(
            *["run", "run:helpful", "run:sft", "run@helpful=1", "run@helpful=nan", "run@", "gpt-4"]
                .choose(rng)
                .unwrap()
        ),
        10 => {
            json!([{ "role": *["user", "system", "assistant", "tool"].choose(rng).unwrap(), "content": text(rng) }])
        }
        11 => json!({ "helpful": rng.random_range(0.0..1.0), "harmless": 0.5 }),
        12 => {
            let n = rng.random_range(0..4);
            (0..n).map(|_| value(rng, depth - 1)).collect()
        }
        _ => {
            let n = rng.random_range(0..4);
            let entries = (0..n).map(|_| {
                let name = *FIELDS.choose(rng).unwrap();
                let name = if rng.random_bool(0.2) { text(rng) } else { name.to_owned() };
                (name, value(rng, depth - 1))
            });
            Value::Object(entries.collect::<Map<_, _>>())
        }
    }
}

/// A valid request with some fields changed.
fn body(rng: &mut impl Rng, path: &str) -> Vec<u8> {
    let mut valid = match path {
        "/v1/completions" => json!({ "prompt": "hi", "max_tokens": 5 }),
        "/v1/scores" => json!({ "input": [{ "prompt": "hi", "response": "you" }] }),
        _ => json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 5 }),
    };
    for _ in 0..rng.random_range(0..4) {
        let name = *FIELDS.choose(rng).unwrap();
        valid[name] = value(rng, 3);
    }
    let mut bytes = valid.to_string().into_bytes();
    match rng.random_range(0..10) {
        // Broken bytes.
        0 if !bytes.is_empty() => {
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
        }
        1 => bytes.truncate(rng.random_range(0..bytes.len())),
        2 => bytes = vec![b'['; rng.random_range(1..20_000)],
        3 => bytes = (0..rng.random_range(0..300)).map(|_| rng.random()).collect(),
        _ => {}
    }
    bytes
}

fn bytes(rng: &mut impl Rng) -> Vec<u8> {
    let paths = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/scores",
        "/v1/models",
        "/v1/models/run",
        "/",
        "/metrics",
        "/health",
        "/api/info",
        "/x",
    ];
    let path = *paths[..if rng.random_bool(0.8) { 3 } else { paths.len() }].choose(rng).unwrap();
    let method = if rng.random_bool(0.9) {
        "POST"
    } else {
        *["GET", "PUT", "HEAD", "OPTIONS", "PATCH"].choose(rng).unwrap()
    };
    let body = body(rng, path);
    let kind = if rng.random_bool(0.95) { "application/json" } else { "text/plain" };
    let mut headers = vec![("Content-Type", kind)];
    let long = "x".repeat(rng.random_range(0..3000));
    if rng.random_bool(0.1) {
        headers.push(("X-Other", &long));
    }
    if rng.random_bool(0.05) {
        headers.push(("Authorization", "Bearer nobody"));
    }
    request(method, path, &headers, &body)
}

fn run(address: SocketAddr, seed: u64, n: usize) -> [usize; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut counts = [0; 2];
    for k in 0..n {
        let bytes = bytes(&mut rng);
        let what = || {
            format!(
                "seed {seed}, request {k}: {}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(600)])
            )
        };
        let is_head = bytes.starts_with(b"HEAD");
        let began = Instant::now();
        let mut stream = connect(address);
        let _ = stream.write_all(&bytes);
        if rng.random_bool(0.02) {
            // A client that does not wait.
            continue;
        }
        if is_head {
            continue;
        }
        let reply = read(stream).unwrap_or_else(|e| panic!("{e}: {}", what()));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}: {}", began.elapsed(), what());
        match reply.status {
            200 => {
                counts[0] += 1;
                if reply
                    .headers
                    .get("content-type")
                    .is_some_and(|kind| kind.contains("event-stream"))
                {
                    reply.events();
                } else if reply
                    .headers
                    .get("content-type")
                    .is_some_and(|kind| kind == "application/json")
                {
                    reply.json();
                }
            }
            400..=428 => {
                counts[1] += 1;
                reply.error();
            }
            status => panic!("status {status}: {}\n{}", reply.body, what()),
        }
    }
    counts
}

#[test]
fn random_requests_get_well_formed_answers() {
    let n =
        std::env::var("MOPO_FUZZ_REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(REQUESTS);
    let served = Served::start(|options| options.queue = 100_000);
    let address = served.address;
    let threads: Vec<_> = (0..THREADS)
        .map(|i| std::thread::spawn(move || run(address, i as u64, n.div_ceil(THREADS))))
        .collect();
    let counts = threads.into_iter().map(|thread| thread.join().unwrap());
    let [fine, refused] = counts.fold([0, 0], |a, b| [a[0] + b[0], a[1] + b[1]]);
    assert!(fine * 20 > n && refused * 20 > n, "both kinds occur: {fine} and {refused} of {n}");
    assert_eq!(ask(address, "hi", "").status, 200);
}
