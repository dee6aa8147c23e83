//! Answers of every endpoint, whole and streamed.

use std::collections::BTreeSet;
use std::sync::Arc;

use mopo_serve::{Extras, ServeOptions, Stop, serve};
use serde_json::{Value, json};

use crate::client::{ask, chat, connect, get, post, request, send};
use crate::double::{Double, HOSTILE, Served};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_chat_answer_has_openais_shape() {
    let served = Served::start(|_| {});
    let reply = ask(served.address, "hello there", r#", "model": "run:harmless", "seed": 7"#);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.headers["x-mopo-seed"], "7");
    assert_eq!(reply.headers["x-content-type-options"], "nosniff");
    let json = reply.json();
    assert_eq!(
        keys(&json),
        ["choices", "created", "id", "model", "object", "system_fingerprint", "usage"]
    );
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["model"], "run:harmless");
    assert!(json["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let message = json!({ "role": "assistant", "content": "policy 1 heard: hello there #0", "refusal": null });
    let choice =
        json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": "stop" });
    assert_eq!(json["choices"], json!([choice]));
    let usage = json!({
        "prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8,
        "prompt_tokens_details": { "cached_tokens": 1 },
    });
    assert_eq!(json["usage"], usage);
}

#[test]
fn streams_have_the_same_text_and_usage_as_whole_answers() {
    let served = Served::start(|_| {});
    for more in [
        r#", "preference_weights": {"helpful": 0.6, "harmless": 0.4}"#,
        r#", "model": "run:sft", "max_tokens": 3"#,
        r#", "stop": ["that", "no such"]"#,
        r#", "stop": "heard: this", "n": 2"#,
    ] {
        let whole = ask(served.address, "this and that", more).json();
        let streamed =
            format!(r#"{more}, "stream": true, "stream_options": {{"include_usage": true}}"#);
        let events = ask(served.address, "this and that", &streamed).events();
        let n = whole["choices"].as_array().unwrap().len();
        let (mut texts, mut ends, mut roles) =
            (vec![String::new(); n], vec![Value::Null; n], vec![0; n]);
        let (last, chunks) = events.split_last().unwrap();
        for event in chunks {
            assert_eq!(event["object"], "chat.completion.chunk");
            assert_eq!(event["id"], last["id"]);
            assert!(event["usage"].is_null() && event.as_object().unwrap().contains_key("usage"));
            let choice = &event["choices"][0];
            let i = choice["index"].as_u64().unwrap() as usize;
            assert!(ends[i].is_null(), "nothing follows the end: {event}");
            roles[i] += usize::from(choice["delta"]["role"] == "assistant");
            texts[i] += choice["delta"]["content"].as_str().unwrap_or_default();
            ends[i] = choice["finish_reason"].clone();
        }
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]), "{more}");
        for i in 0..n {
            let choice = &whole["choices"][i];
            assert_eq!(
                (&json!(texts[i]), &ends[i]),
                (&choice["message"]["content"], &choice["finish_reason"])
            );
            assert_eq!(roles[i], 1);
        }
    }
    // Without the option there is no usage at all.
    let events = ask(served.address, "hi", r#", "stream": true"#).events();
    assert!(events.iter().all(|event| !event.as_object().unwrap().contains_key("usage")));
}

#[test]
fn ends_and_stop_strings_are_told_apart() {
    let served = Served::start(|_| {});
    let of = |question: &str, more: &str| {
        let choice = ask(served.address, question, more).json()["choices"][0].clone();
        let text = choice["message"]["content"].as_str().unwrap().to_owned();
        (text, choice["finish_reason"].as_str().unwrap().to_owned())
    };
    let cut = of("a long story", r#", "max_completion_tokens": 3"#);
    assert_eq!(cut, ("word0 word1 word2 ".into(), "length".into()));
    let stopped = of("a long story", r#", "max_tokens": 30, "stop": ["word1 "]"#);
    assert_eq!(stopped, ("word0 ".into(), "stop".into()));
    assert_eq!(of("empty", ""), (String::new(), "stop".into()));
}

#[test]
fn log_probabilities_come_with_their_tokens() {
    let served = Served::start(|_| {});
    let whole = ask(served.address, "hi", r#", "logprobs": true, "top_logprobs": 2"#).json();
    let content = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(content.len(), whole["usage"]["completion_tokens"].as_u64().unwrap() as usize);
    let text: String = content.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"].as_str().unwrap());
    assert_eq!(keys(&content[0]), ["bytes", "logprob", "token", "top_logprobs"]);
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 2);
    let events = ask(served.address, "hi", r#", "logprobs": true, "stream": true"#).events();
    let streamed: Vec<&Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .collect();
    assert_eq!(streamed.len(), content.len());

    let body = r#"{"prompt": "hi", "logprobs": 1, "model": "run"}"#;
    let whole = post(served.address, "/v1/completions", body).json();
    let found = &whole["choices"][0]["logprobs"];
    assert_eq!(keys(found), ["text_offset", "token_logprobs", "tokens", "top_logprobs"]);
    assert_eq!(found["text_offset"][1], "policy ".len());
}

#[test]
fn completions_answer_every_prompt_n_times() {
    let served = Served::start(|_| {});
    let body = r#"{"prompt": ["one", "two"], "n": 2, "model": "run:humor"}"#;
    let json = post(served.address, "/v1/completions", body).json();
    assert_eq!(json["object"], "text_completion");
    let texts: Vec<&str> =
        json["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    let expected: Vec<String> =
        ["one #0", "one #1", "two #0", "two #1"].map(|end| format!("policy 2 heard: {end}")).into();
    assert_eq!(texts, expected);
    assert_eq!(json["usage"]["prompt_tokens"], 2, "each prompt counts once");
    let body = r#"{"prompt": ["one", "two"], "stream": true}"#;
    let events = post(served.address, "/v1/completions", body).events();
    let of = |i: usize| -> String {
        let texts = events.iter().map(|event| &event["choices"][0]).filter(|c| c["index"] == i);
        texts.map(|choice| choice["text"].as_str().unwrap()).collect()
    };
    assert_eq!([of(0), of(1)], ["policy 0 heard: one #0", "policy 0 heard: two #0"]);
}

#[test]
fn the_best_of_several_are_chosen_by_the_rewards() {
    let served = Served::start(|_| {});
    let json =
        ask(served.address, "hi", r#", "model": "run:helpful", "best_of": 4, "n": 2"#).json();
    let texts: Vec<&str> = json["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["message"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["policy 0 heard: hi #3", "policy 0 heard: hi #2"]);
    assert_eq!(json["choices"][0]["scores"], json!({ "helpful": 3.0, "harmless": 21.0 }));
    assert_eq!(json["choices"][1]["index"], 1);
    assert_eq!(json["usage"]["completion_tokens"], 4 * 5, "all that were made count");
    let reply = ask(served.address, "hi", r#", "best_of": 2, "stream": true"#);
    assert_eq!((reply.status, reply.error().2.as_deref()), (400, Some("best_of")));

    let plain = Served::start_with(|_| {}, || Box::new(Double::default()), false);
    let reply = ask(plain.address, "hi", r#", "best_of": 2"#);
    assert_eq!((reply.status, reply.error().3.as_deref()), (400, Some("unsupported_parameter")));
}

#[test]
fn texts_are_scored() {
    let served = Served::start(|_| {});
    let body = r#"{"model": "run", "input": [
        {"prompt": "hi", "response": "abc"},
        {"messages": [{"role": "user", "content": "hi"}], "response": "x #2"}]}"#;
    let json = post(served.address, "/v1/scores", body).json();
    assert_eq!(json["rewards"], json!(["helpful", "harmless"]));
    assert_eq!(
        json["data"][0],
        json!({ "object": "score", "index": 0, "scores": { "helpful": -1.0, "harmless": 3.0 } })
    );
    assert_eq!(json["data"][1]["scores"]["helpful"], 2.0);
    for (body, param) in [
        ("{}", "input"),
        (r#"{"input": []}"#, "input"),
        (r#"{"input": [3]}"#, "input[0]"),
        (r#"{"input": [{"prompt": "a"}]}"#, "input[0].response"),
        (r#"{"input": [{"response": "a"}]}"#, "input[0].prompt"),
        (r#"{"input": [{"prompt": "a", "messages": [], "response": "b"}]}"#, "input[0].prompt"),
        (
            r#"{"input": [{"messages": [{"role": "user"}], "response": "b"}]}"#,
            "input[0].messages[0].content",
        ),
        (r#"{"input": [{"prompt": "a", "response": "b", "scale": 1}]}"#, "input[0].scale"),
    ] {
        let reply = post(served.address, "/v1/scores", body);
        assert_eq!((reply.status, reply.error().2.as_deref()), (400, Some(param)), "{body}");
    }
    let failing =
        post(served.address, "/v1/scores", r#"{"input": [{"prompt": "a", "response": "cannot"}]}"#);
    assert_eq!(failing.status, 500);
    let panicking = r#"{"input": [{"prompt": "a", "response": "scorer panic"}]}"#;
    assert_eq!(post(served.address, "/v1/scores", panicking).status, 500);
    assert_eq!(post(served.address, "/v1/scores", body).status, 200, "and it goes on");
}

#[test]
fn an_idle_engine_does_not_keep_the_only_thread_of_a_pool_from_the_rewards() {
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap());
    let scorer = Arc::new(crate::double::OnPool(Arc::clone(&pool)));
    let (stop, ready) = (Stop::default(), std::sync::mpsc::channel());
    let server = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let extras = Extras { scorer: Some(scorer), front: None };
            let options = ServeOptions { port: 0, name: "run".into(), ..ServeOptions::default() };
            pool.install(|| {
                let on_ready = |address| ready.0.send(address).unwrap();
                serve(&mut Double::default(), extras, options, &stop, false, on_ready)
            })
        })
    };
    let address = ready.1.recv().unwrap();
    let body = r#"{"input": [{"prompt": "hi", "response": "abc"}]}"#;
    for _ in 0..3 {
        assert_eq!(post(address, "/v1/scores", body).status, 200);
        assert_eq!(ask(address, "hi", "").status, 200);
    }
    stop.stop();
    server.join().unwrap().unwrap();
}

#[test]
fn models_are_listed_and_found_by_name() {
    let served = Served::start(|_| {});
    let json = get(served.address, "/v1/models").json();
    let ids: Vec<&str> =
        json["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(
        ids,
        ["run", "run:helpful", "run:harmless", "run:humor", "run:sft", "run:worst-case"]
    );
    assert_eq!(keys(&json["data"][0]), ["created", "id", "object", "owned_by"]);
    assert_eq!(get(served.address, "/v1/models/run:sft").json()["id"], "run:sft");
    assert_eq!(get(served.address, "/v1/models/run@helpful=1").status, 200);
    let missing = get(served.address, "/v1/models/gpt-4");
    assert_eq!((missing.status, missing.error().3.as_deref()), (404, Some("model_not_found")));
    let info = get(served.address, "/api/info").json();
    assert_eq!(info["objectives"], json!(["helpful", "harmless", "humor"]));
    assert_eq!(get(served.address, "/api/front").json()["points"].as_array().unwrap().len(), 7);
}

#[test]
fn requests_without_a_seed_have_different_ones_that_can_be_repeated() {
    let served = Served::start(|_| {});
    let of = |more: &str| {
        let reply = ask(served.address, "hi", &format!(r#", "temperature": 2{more}"#));
        let text = reply.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        (reply.headers["x-mopo-seed"].clone(), text)
    };
    let (first, second) = (of(""), of(""));
    assert_ne!(first.0, second.0);
    assert!(first.1.contains(&format!("[seed {}]", first.0)));
    assert_eq!(of(&format!(r#", "seed": {}"#, first.0)), first);
    assert_eq!(of(r#", "seed": -1"#).0, u64::MAX.to_string());
    // Another server gives the same seeds in the same order.
    let other = Served::start(|_| {});
    assert_eq!(ask(other.address, "hi", "").headers["x-mopo-seed"], first.0);
}

#[test]
fn many_clients_at_once_get_their_own_answers() {
    let served = Served::start(|_| {});
    let threads: Vec<_> = (0..64)
        .map(|i| {
            let address = served.address;
            std::thread::spawn(move || {
                for k in 0..10 {
                    let question = format!("question {i} {k} with some more words");
                    let stream = (i + k) % 2 == 0;
                    let reply = ask(address, &question, &format!(r#", "stream": {stream}"#));
                    let text: String = match stream {
                        true => reply
                            .events()
                            .iter()
                            .filter_map(|e| {
                                e["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
                            })
                            .collect(),
                        false => reply.json()["choices"][0]["message"]["content"]
                            .as_str()
                            .unwrap()
                            .into(),
                    };
                    assert_eq!(text, format!("policy 0 heard: {question} #0"));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let metrics = get(served.address, "/metrics").body;
    for line in [
        "mopo_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 640",
        "mopo_requests_waiting 0",
        "mopo_requests_running 0",
        "mopo_first_token_seconds_count 640",
        "mopo_request_seconds_count 640",
        "mopo_cancelled_total 0",
        "mopo_cache_limit_bytes 8192",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
    let ids: BTreeSet<String> = (0..20)
        .map(|_| ask(served.address, "hi", "").json()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 20);
}

#[test]
fn one_connection_serves_several_requests() {
    use std::io::Write;
    let served = Served::start(|_| {});
    let mut stream = connect(served.address);
    let body = chat("hi", "");
    let kept = |body: &str| {
        let headers = [("Content-Type", "application/json")];
        let bytes = request("POST", "/v1/chat/completions", &headers, body.as_bytes());
        String::from_utf8(bytes).unwrap().replace("Connection: close\r\n", "")
    };
    for _ in 0..3 {
        stream.write_all(kept(&body).as_bytes()).unwrap();
        let reply = crate::client::read(stream.try_clone().unwrap()).unwrap();
        assert_eq!(reply.status, 200);
    }
}

#[test]
fn hostile_text_is_passed_on_unchanged_as_json() {
    let served = Served::start(|_| {});
    let reply = ask(served.address, "hostile", "");
    assert_eq!(reply.json()["choices"][0]["message"]["content"], HOSTILE);
    assert_eq!(reply.headers["content-type"], "application/json");
    let page = send(served.address, &request("GET", "/", &[], b""));
    assert!(page.headers["content-security-policy"].contains("default-src 'none'"));
    assert!(page.headers["content-type"].starts_with("text/html"));
}
