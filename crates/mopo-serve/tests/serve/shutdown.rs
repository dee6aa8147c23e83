//! The end of a server.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::client::{ask, chat, connect, read, request};
use crate::double::{Double, Served};

fn open(served: &Served, question: &str, more: &str) -> std::net::TcpStream {
    let mut stream = connect(served.address);
    let headers = [("Content-Type", "application/json")];
    let body = chat(question, more);
    stream.write_all(&request("POST", "/v1/chat/completions", &headers, body.as_bytes())).unwrap();
    stream
}

fn wait_until_running(served: &Served, n: usize) {
    let line = format!("mopo_requests_running {n}");
    while !crate::client::get(served.address, "/metrics").body.contains(&line) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn running_requests_are_answered_and_waiting_ones_refused() {
    let served = Served::start(|_| {});
    let slow = |i: usize| {
        open(
            &served,
            "slow long",
            &format!(r#", "max_tokens": 25, "stream": {}"#, i.is_multiple_of(2)),
        )
    };
    let running: Vec<_> = (0..8).map(slow).collect();
    wait_until_running(&served, 8);
    let waiting = open(&served, "hi", "");
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    served.end().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
    for (i, stream) in running.into_iter().enumerate() {
        let reply = read(stream).unwrap();
        assert_eq!(reply.status, 200);
        match i.is_multiple_of(2) {
            true => assert!(reply.events().len() > 25),
            false => assert_eq!(reply.json()["choices"][0]["finish_reason"], "length"),
        }
    }
    let reply = read(waiting).unwrap();
    assert_eq!((reply.status, reply.error().3.as_deref()), (503, Some("shutting_down")));
}

#[test]
fn answers_that_take_too_long_are_cut_off() {
    let served = Served::start(|options| options.shutdown_timeout = Duration::from_millis(200));
    let stream = open(&served, "slow long", r#", "max_tokens": 900, "stream": true"#);
    wait_until_running(&served, 1);
    let began = Instant::now();
    served.end().unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let (events, done) = read(stream).unwrap().events_and_end();
    assert!(!done && events.len() > 1);
    assert_eq!(events.last().unwrap()["error"]["code"], "shutting_down");
}

#[test]
fn nobody_listens_afterwards_and_idle_connections_are_no_obstacle() {
    let served = Served::start(|_| {});
    let idle = connect(served.address);
    assert_eq!(ask(served.address, "hi", "").status, 200);
    let (address, began) = (served.address, Instant::now());
    served.end().unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(std::net::TcpStream::connect(address).is_err());
    drop(idle);
}

#[test]
fn a_taken_port_and_an_engine_beyond_repair_are_errors() {
    let first = Served::start(|_| {});
    let port = first.address.port();
    let options = mopo_serve::ServeOptions { port, ..Default::default() };
    let stop = mopo_serve::Stop::default();
    let second = mopo_serve::serve(
        &mut Double::default(),
        Default::default(),
        options,
        &stop,
        false,
        |_| (),
    );
    let message = second.unwrap_err().to_string();
    assert!(message.contains("cannot listen") && message.contains("--port"), "{message}");

    let broken = Served::start_with(|_| {}, || Box::new(Broken(Double::default())), false);
    let reply = ask(broken.address, "panic now", "");
    assert_eq!(reply.status, 500);
    assert!(matches!(broken.end(), Err(mopo_serve::Error::Engine)));
}

/// A double that cannot be reset.
struct Broken(Double);

impl mopo_serve::TextEngine for Broken {
    fn model(&self) -> mopo_serve::ModelInfo {
        self.0.model()
    }
    fn room(&self) -> usize {
        self.0.room()
    }
    fn submit(
        &mut self,
        id: u64,
        request: mopo_serve::TextRequest,
    ) -> Result<mopo_serve::Admitted, mopo_serve::Refusal> {
        self.0.submit(id, request)
    }
    fn step(&mut self, sink: &mut dyn mopo_serve::EventSink) {
        self.0.step(sink);
    }
    fn cancel(&mut self, id: u64) {
        self.0.cancel(id);
    }
    fn is_idle(&self) -> bool {
        self.0.is_idle()
    }
    fn reset(&mut self) {
        panic!("it cannot be reset");
    }
    fn stats(&self) -> mopo_serve::EngineStats {
        self.0.stats()
    }
}
