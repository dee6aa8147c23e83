//! A target that does what its inputs say: panic, end the process, take too much memory. Only for the test of what
//! watches; it is there if the environment has `MOPO_FUZZ_SELF_TEST`.

use crate::{Form, Outcome, Target};

pub(super) fn targets() -> Vec<Target> {
    if std::env::var_os("MOPO_FUZZ_SELF_TEST").is_none() {
        return vec![];
    }
    vec![Target {
        name: "self-test",
        reads: "orders",
        form: Form::Text,
        words: &["fine", "panic"],
        seeds: || vec![b"fine".to_vec()],
        start: |_| Box::new(obey),
        rate: 1.0,
    }]
}

fn obey(bytes: &[u8]) -> Outcome {
    match bytes {
        b"fine" => Outcome::Accepted,
        b"panic" => panic!("asked to panic"),
        b"abort" => std::process::abort(),
        b"memory" => {
            let n = std::hint::black_box(crate::MEMORY);
            std::hint::black_box(vec![1_u8; n]);
            Outcome::Accepted
        }
        b"wrong" => Outcome::Wrong("asked to be wrong".into()),
        b"stack" => {
            deep(std::hint::black_box(1 << 40));
            Outcome::Accepted
        }
        b"thread" => {
            let thread = std::thread::spawn(|| panic!("asked to panic in a thread"));
            let _ = thread.join();
            Outcome::Accepted
        }
        b"hang" => {
            std::thread::sleep(std::time::Duration::from_secs(3600));
            Outcome::Accepted
        }
        _ => Outcome::Refused,
    }
}

/// Takes a place on the stack for each step.
#[inline(never)]
fn deep(n: u64) -> u64 {
    let place = std::hint::black_box([n; 64]);
    if n == 0 { place[0] } else { deep(n - 1) + std::hint::black_box(place)[1] }
}
