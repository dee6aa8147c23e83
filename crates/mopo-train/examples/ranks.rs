//! What becomes of a job when one of its ranks fails: `mpirun -n 3 ranks ok|panic|thread|hang|error|leave`. Rank 1 fails; the
//! others wait for it. Needs the feature `mpi`.

use std::time::Duration;

use mopo_train::communicator::Communicator;
use mopo_train::communicator::mpi::{Job, abort};

fn main() {
    let how = std::env::args().nth(1).unwrap_or_else(|| "ok".into());
    let job = match Job::join(Duration::from_secs(2)) {
        Ok(job) => job,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::exit(1);
        }
    };
    let communicator = job.communicator();
    let (rank, world) = (communicator.rank(), communicator.world());
    if rank == 1 {
        match how.as_str() {
            "panic" => panic!("on purpose"),
            "thread" => drop(std::thread::spawn(|| panic!("on purpose, in a thread")).join()),
            "hang" => std::thread::sleep(Duration::from_secs(600)),
            "error" => abort(3),
            // Dropped without `finish`.
            "leave" => return,
            _ => {}
        }
    }
    // Lists of other lengths on each rank, also empty ones.
    let all = communicator.all_gather(&vec![rank as u8; rank]).expect("an exchange");
    let lengths: Vec<usize> = all.iter().map(Vec::len).collect();
    assert_eq!(lengths, (0..world).collect::<Vec<_>>());
    let parts = (0..world).map(|to| vec![rank as f32; to]).collect();
    for (from, part) in communicator.all_to_all(parts).expect("an exchange").into_iter().enumerate()
    {
        assert_eq!(part, vec![from as f32; rank]);
    }
    let first = communicator.broadcast(vec![7; 3 * (rank + 1)]).expect("an exchange");
    assert_eq!(first, [7; 3], "rank 0's");
    let numbers = communicator.all_gather_f32(&vec![0.5; rank]).expect("an exchange");
    assert_eq!(numbers.len(), world * (world - 1) / 2);
    communicator.barrier().expect("an exchange");
    if rank == 0 {
        println!("all {world} ranks are there");
    }
    job.finish();
}
