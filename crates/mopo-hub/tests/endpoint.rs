//! JSON posted to a server on the loopback device: what is sent, retried and refused.

use std::time::{Duration, Instant};

use mopo_hub::{Endpoint, Error};
use mopo_testkit::{EndpointReply, LoopbackEndpoint};

fn endpoint(url: &str, retries: u32) -> Endpoint {
    Endpoint::new(url, Duration::from_secs(20), retries).unwrap()
}

/// The message, which must be that of an endpoint, and its status.
fn refusal(result: mopo_hub::Result<String>) -> (String, Option<u16>) {
    let error = result.unwrap_err();
    let Error::Endpoint { status, .. } = error else { panic!("{error}") };
    (error.to_string(), status)
}

#[test]
fn a_request_is_json_with_a_token() {
    let server = LoopbackEndpoint::start(|_, request| EndpointReply::new(200, &*request.body));
    let plain = endpoint(server.url(), 0);
    assert_eq!(plain.post("{\"é\": 1}", "an echo").unwrap(), "{\"é\": 1}");
    let with = endpoint(server.url(), 0).with_token(None, "t").unwrap();
    with.post("[]", "an echo").unwrap();
    let requests = server.take_requests();
    assert_eq!(requests[0].target, "POST /score");
    assert_eq!(requests[0].headers["content-type"], "application/json");
    assert_eq!(requests[0].headers.get("authorization"), None);
    assert_eq!(requests[1].headers["authorization"], "Bearer t");
}

#[test]
fn what_may_pass_is_retried() {
    // A lost connection, then a pause that the server asks for, then an answer.
    let server = LoopbackEndpoint::start(|before, _| match before {
        0 => EndpointReply::new(0, ""),
        1 => EndpointReply::new(503, "busy").header("Retry-After: 1"),
        2 => EndpointReply::new(429, "slow down").header("Retry-After: 0"),
        _ => EndpointReply::new(200, "done"),
    });
    let clock = Instant::now();
    assert_eq!(endpoint(server.url(), 3).post("1", "x").unwrap(), "done");
    assert!(clock.elapsed() >= Duration::from_millis(1500), "{:?}", clock.elapsed());
    assert_eq!(server.take_requests().len(), 4);

    // One retry less: the last answer is in the error.
    let (said, status) = refusal(endpoint(server.url(), 2).post("1", "\"done\""));
    assert_eq!(status, Some(429));
    assert_eq!(
        said,
        format!(
            "the endpoint {}: status 429 (3 attempts); expected \"done\", but the answer begins with `slow down`",
            server.url()
        )
    );
}

#[test]
fn what_cannot_pass_is_not_retried() {
    for (status, header, part) in [
        (400, "A: b", "status 400"),
        (401, "A: b", "status 401"),
        (204, "A: b", "status 204"),
        (307, "Location: http://localhost/other", "redirect to http://localhost/other"),
        (503, "Retry-After: 3600", "asks to wait 3600 s, more than the maximum of 600 s"),
    ] {
        let server = LoopbackEndpoint::start(move |_, _| {
            EndpointReply::new(status, if status == 204 { "" } else { "why\nnot" }).header(header)
        });
        let (said, found) = refusal(endpoint(server.url(), 5).post("1", "a two"));
        assert_eq!((found, server.take_requests().len()), (Some(status), 1));
        assert!(said.contains(part) && said.contains("expected a two"), "{said}");
        assert!(said.contains(if status == 204 { "is empty" } else { "`why\\nnot`" }), "{said}");
    }
    let server = LoopbackEndpoint::start(|_, _| EndpointReply::new(200, b"caf\xe9".to_vec()));
    let (said, _) = refusal(endpoint(server.url(), 5).post("1", "a two"));
    assert!(said.contains("not UTF-8") && server.take_requests().len() == 1, "{said}");
    // Only the beginning of a long answer is shown.
    let server = LoopbackEndpoint::start(|_, _| EndpointReply::new(404, "é".repeat(100_000)));
    let (said, _) = refusal(endpoint(server.url(), 5).post("1", "a two"));
    assert!(said.contains("éé…`") && said.chars().count() < 500, "{said}");
}

#[test]
fn a_server_that_is_not_there_or_too_slow_is_named() {
    let url = LoopbackEndpoint::nobody();
    let (said, status) = refusal(endpoint(&url, 1).post("1", "a two"));
    assert!(status.is_none() && said.contains(&url) && said.contains("(2 attempts)"), "{said}");
    assert!(said.contains("no connection") && said.contains("start it"), "{said}");
    let server = LoopbackEndpoint::start(|_, _| {
        std::thread::sleep(Duration::from_secs(5));
        EndpointReply::new(200, "late")
    });
    let hasty = Endpoint::new(server.url(), Duration::from_millis(300), 0).unwrap();
    let (said, _) = refusal(hasty.post("1", "a two"));
    assert!(said.contains("no answer within 0.3 s"), "{said}");
}
