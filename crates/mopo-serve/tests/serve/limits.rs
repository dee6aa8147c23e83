//! Wrong requests, limits, keys, clients that leave, and panics.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::client::{ask, chat, connect, get, post, read, request, send};
use crate::double::Served;

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Waits until a line is in the metrics.
fn wait_for(served: &Served, line: &str) {
    let began = Instant::now();
    loop {
        let metrics = get(served.address, "/metrics").body;
        if metrics.lines().any(|l| l == line) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "no `{line}` in\n{metrics}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn wrong_requests_are_refused_in_openais_shape() {
    let served = Served::start(|_| {});
    let path = "/v1/chat/completions";
    for (body, status, param, code) in [
        ("", 400, None, "invalid_json"),
        ("{", 400, None, "invalid_json"),
        ("[]", 400, None, "invalid_json"),
        (
            r#"{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}"#,
            400,
            None,
            "invalid_json",
        ),
        ("{}", 400, Some("messages"), "missing_required_parameter"),
    ] {
        let reply = post(served.address, path, body);
        let (_, kind, found, found_code) = reply.error();
        assert_eq!(
            (reply.status, found.as_deref(), found_code.as_deref()),
            (status, param, Some(code)),
            "{body}"
        );
        assert_eq!(kind, "invalid_request_error");
    }
    for (more, status, param, code) in [
        (r#", "model": "gpt-4""#, 404, "model", "model_not_found"),
        (r#", "temperature": "hot""#, 400, "temperature", "invalid_type"),
        (r#", "temperature": -1"#, 400, "temperature", "invalid_value"),
        (r#", "top_p": 0"#, 400, "top_p", "invalid_value"),
        (r#", "n": 0"#, 400, "n", "invalid_value"),
        (r#", "n": 1.5"#, 400, "n", "invalid_value"),
        (r#", "n": 17"#, 400, "n", "invalid_value"),
        (r#", "n": 3, "best_of": 2"#, 400, "best_of", "invalid_value"),
        (r#", "max_tokens": 0"#, 400, "max_tokens", "invalid_value"),
        (r#", "max_tokens": 1000000"#, 400, "max_tokens", "invalid_value"),
        (r#", "max_tokens": 3, "max_completion_tokens": 4"#, 400, "max_tokens", "invalid_value"),
        (r#", "max_tokens": 1000"#, 400, "messages", "context_length_exceeded"),
        (r#", "stop": ["a","b","c","d","e"]"#, 400, "stop", "invalid_value"),
        (r#", "stop": """#, 400, "stop", "invalid_value"),
        (r#", "seed": 1e30"#, 400, "seed", "invalid_value"),
        (r#", "stream": 1"#, 400, "stream", "invalid_type"),
        (r#", "stream_options": {}"#, 400, "stream_options", "invalid_value"),
        (
            r#", "stream": true, "stream_options": {"x": 1}"#,
            400,
            "stream_options.x",
            "unknown_parameter",
        ),
        (r#", "min_p": 0.5"#, 400, "min_p", "unsupported_parameter"),
        (r#", "min_p": 0.5, "stream": true"#, 400, "min_p", "unsupported_parameter"),
        (r#", "tools": [{}]"#, 400, "tools", "unsupported_parameter"),
        (r#", "logit_bias": {"1": 2}"#, 400, "logit_bias", "unsupported_parameter"),
        (r#", "frobnicate": 1"#, 400, "frobnicate", "unknown_parameter"),
        (r#", "preference_weights": {"helpful": 0.5}"#, 400, "preference_weights", "invalid_value"),
        (r#", "preference_weights": {"honest": 1}"#, 400, "preference_weights", "invalid_value"),
        (r#", "model": "run@helpful=nan""#, 400, "model", "invalid_value"),
    ] {
        let reply = ask(served.address, "hi", more);
        let (_, _, found, found_code) = reply.error();
        assert_eq!(
            (reply.status, found.as_deref(), found_code.as_deref()),
            (status, Some(param), Some(code)),
            "{more}"
        );
    }
    // What OpenAI's clients send without meaning anything by it is taken.
    let neutral = r#", "user": "me", "tools": null, "logit_bias": {}, "metadata": {"a": "b"}, "store": false, "n": null"#;
    assert_eq!(ask(served.address, "hi", neutral).status, 200);
}

#[test]
fn paths_methods_and_types_that_are_not_there_are_named() {
    let served = Served::start(|_| {});
    let body = chat("hi", "");
    for (method, path, headers, status, code) in [
        ("GET", "/v1/nothing", &[][..], 404, "not_found"),
        ("GET", "/assets/../Cargo.toml", &[], 404, "not_found"),
        ("GET", "/assets/%2e%2e%2fCargo.toml", &[], 404, "not_found"),
        ("GET", "/v1/chat/completions", &[], 405, "method_not_allowed"),
        ("DELETE", "/v1/models/run", &[], 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", &[], 415, "unsupported_media_type"),
        (
            "POST",
            "/v1/chat/completions",
            &[("Content-Type", "text/plain")],
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            "/v1/chat/completions",
            &[("Content-Type", "application/json; charset=utf-8")],
            200,
            "",
        ),
    ] {
        let body = if method == "POST" { body.as_bytes() } else { b"" };
        let reply = send(served.address, &request(method, path, headers, body));
        assert_eq!(reply.status, status, "{method} {path} {reply:?}");
        if status != 200 {
            assert_eq!(reply.error().3.as_deref(), Some(code), "{method} {path}");
        }
    }
}

#[test]
fn a_body_that_is_too_large_gets_an_answer_and_costs_no_memory() {
    let served = Served::start(|options| options.max_body_bytes = 1000);
    for length in [1001, 10 << 20] {
        let body = chat(&"x".repeat(length), "");
        let reply = post(served.address, "/v1/chat/completions", &body);
        assert_eq!((reply.status, reply.error().3.as_deref()), (413, Some("request_too_large")));
    }
    // A body that only claims to be huge is not waited for.
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n";
    assert_eq!(send(served.address, head.as_bytes()).status, 413);
    assert_eq!(ask(served.address, "hi", "").status, 200);
}

#[test]
fn prompts_and_answers_are_bounded() {
    let served = Served::start(|options| {
        options.max_prompt_tokens = 5;
        options.max_new_tokens = 7;
    });
    let reply = ask(served.address, "one two three four five six", "");
    assert_eq!((reply.status, reply.error().3.as_deref()), (400, Some("context_length_exceeded")));
    assert_eq!(
        ask(served.address, "hi", r#", "max_tokens": 8"#).error().2.as_deref(),
        Some("max_tokens")
    );
    assert_eq!(ask(served.address, "one two three four five", r#", "max_tokens": 7"#).status, 200);
    let many = format!("[{}\"x\"]", "\"x\",".repeat(16));
    let reply = post(served.address, "/v1/completions", &format!(r#"{{"prompt": {many}}}"#));
    assert_eq!((reply.status, reply.error().2.as_deref()), (400, Some("prompt")));
}

#[test]
fn a_full_queue_refuses_with_the_time_to_come_back() {
    let served = Served::start(|options| options.queue = 2);
    let open = |question: &str| {
        let mut stream = connect(served.address);
        let body = chat(question, r#", "max_tokens": 900"#);
        stream
            .write_all(&request("POST", "/v1/chat/completions", &[JSON], body.as_bytes()))
            .unwrap();
        stream
    };
    // The engine takes 8; the rest waits.
    let mut streams = vec![];
    for n in 1..=8 {
        streams.push(open("slow long"));
        wait_for(&served, &format!("mopo_requests_running {n}"));
    }
    streams.push(open("slow long"));
    streams.push(open("slow long"));
    wait_for(&served, "mopo_requests_waiting 2");
    let reply = ask(served.address, "hi", "");
    let (_, kind, _, code) = reply.error();
    assert_eq!(
        (reply.status, &*kind, code.as_deref()),
        (429, "rate_limit_error", Some("queue_full"))
    );
    assert!(reply.headers["retry-after"].parse::<u64>().unwrap() > 0);
    // A client that leaves the queue makes room within a second, and so does one that is being answered.
    drop(streams.pop());
    wait_for(&served, "mopo_requests_waiting 1");
    streams.clear();
    wait_for(&served, "mopo_requests_running 0");
    assert_eq!(ask(served.address, "hi", "").status, 200);
}

#[test]
fn a_client_that_leaves_is_forgotten_within_a_second() {
    let served = Served::start(|_| {});
    for (n, (question, stream)) in
        [("slow long", false), ("slow long", true), ("whole", false)].into_iter().enumerate()
    {
        let body = chat(question, &format!(r#", "max_tokens": 900, "stream": {stream}"#));
        let mut connection = connect(served.address);
        connection
            .write_all(&request("POST", "/v1/chat/completions", &[JSON], body.as_bytes()))
            .unwrap();
        wait_for(&served, "mopo_requests_running 1");
        if stream {
            // It has begun to read.
            let mut some = [0; 64];
            connection.read_exact(&mut some).unwrap();
        }
        let left = Instant::now();
        drop(connection);
        wait_for(&served, "mopo_requests_running 0");
        assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
        wait_for(&served, &format!("mopo_cancelled_total {}", n + 1));
    }
}

#[test]
fn requests_that_take_too_long_end_with_the_reason() {
    let served = Served::start(|options| {
        options.queue_timeout = Duration::from_millis(150);
        options.request_timeout = Duration::from_millis(400);
    });
    let more = r#", "max_tokens": 900"#;
    let reply = ask(served.address, "slow long", more);
    assert_eq!((reply.status, reply.error().3.as_deref()), (504, Some("timeout")));
    let reply = ask(served.address, "slow long", &format!(r#"{more}, "stream": true"#));
    let (events, done) = reply.events_and_end();
    assert!(!done);
    assert_eq!(events.last().unwrap()["error"]["code"], "timeout");
    wait_for(&served, "mopo_requests_running 0");

    // A body that does not come.
    let mut stream = connect(served.address);
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    let reply = read(stream).unwrap();
    assert_eq!((reply.status, reply.error().3.as_deref()), (408, Some("timeout")));

    // Eight keep the engine busy; the ninth waits in vain.
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(served.address);
            let body = chat("slow long", more);
            stream
                .write_all(&request("POST", "/v1/chat/completions", &[JSON], body.as_bytes()))
                .unwrap();
            stream
        })
        .collect();
    wait_for(&served, "mopo_requests_running 8");
    let reply = ask(served.address, "hi", "");
    assert_eq!((reply.status, reply.error().3.as_deref()), (503, Some("queue_timeout")));
    assert!(reply.headers.contains_key("retry-after"));
    drop(busy);
}

#[test]
fn without_the_key_nothing_is_answered() {
    let served = Served::start(|options| options.api_key = Some("open sesame".replace(' ', "-")));
    let with = |path: &str, value: &str| {
        send(served.address, &request("GET", path, &[("Authorization", value)], b""))
    };
    for path in
        ["/v1/models", "/metrics", "/api/info", "/api/front", "/nothing", "/v1/chat/completions"]
    {
        let reply = get(served.address, path);
        assert_eq!((reply.status, &*reply.error().1), (401, "authentication_error"), "{path}");
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
    }
    for value in [
        "Bearer open",
        "Bearer open-sesame2",
        "Basic open-sesame",
        "open-sesame",
        "Bearer",
        "Bearer \u{e9}",
    ] {
        assert_eq!(with("/v1/models", value).status, 401, "{value}");
    }
    for value in ["Bearer open-sesame", "bearer  open-sesame"] {
        assert_eq!(with("/v1/models", value).status, 200, "{value}");
    }
    for path in ["/", "/health", "/assets/app.js", "/openapi.json"] {
        assert_eq!(get(served.address, path).status, 200, "{path}");
    }
    // A name that is made to mean this machine does no harm where there is a key.
    let host = [("Host", "evil.example"), ("Authorization", "Bearer open-sesame")];
    assert_eq!(send(served.address, &request("GET", "/v1/models", &host, b"")).status, 200);
}

#[test]
fn without_a_key_only_this_machines_names_are_answered() {
    let served = Served::start(|_| {});
    let reply =
        send(served.address, &request("GET", "/v1/models", &[("Host", "evil.example")], b""));
    assert_eq!((reply.status, reply.error().3.as_deref()), (403, Some("invalid_host")));
    let host = served.address.to_string();
    assert_eq!(
        send(served.address, &request("GET", "/v1/models", &[("Host", &host)], b"")).status,
        200
    );
}

#[test]
fn a_panic_costs_the_batch_and_nothing_else() {
    let served = Served::start(|_| {});
    for question in ["panic now", "panic early"] {
        let reply = ask(served.address, question, "");
        assert_eq!((reply.status, &*reply.error().1), (500, "server_error"), "{question}");
        assert!(!reply.body.contains(question), "the text of the panic stays here");
        assert_eq!(ask(served.address, "hi", "").status, 200, "after {question}");
    }
    assert_eq!(ask(served.address, "lose this", "").status, 500);
    let (events, done) = {
        let mut stream = connect(served.address);
        let body = chat("slow long", r#", "max_tokens": 900, "stream": true"#);
        stream
            .write_all(&request("POST", "/v1/chat/completions", &[JSON], body.as_bytes()))
            .unwrap();
        wait_for(&served, "mopo_requests_running 1");
        // Its neighbour in the batch panics after it has begun.
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(ask(served.address, "panic now", "").status, 500);
        read(stream).unwrap().events_and_end()
    };
    assert!(!done && events.len() > 1);
    assert_eq!(events.last().unwrap()["error"]["type"], "server_error");
    wait_for(&served, "mopo_requests_running 0");
    wait_for(&served, "mopo_panics_total 3");
    assert_eq!(ask(served.address, "hi", "").status, 200);
}

#[test]
fn clients_that_send_nothing_or_nonsense_do_no_harm() {
    let served = Served::start(|options| options.max_connections = 64);
    let silent: Vec<_> = (0..32).map(|_| connect(served.address)).collect();
    let half: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = connect(served.address);
            stream
                .write_all(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le")
                .unwrap();
            stream
        })
        .collect();
    for bytes in [
        &b"\0\0\0\0"[..],
        b"HELO there\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ] {
        let mut stream = connect(served.address);
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = vec![];
        let _ = stream.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    assert_eq!(ask(served.address, "hi", "").status, 200);
    drop((silent, half));
}
