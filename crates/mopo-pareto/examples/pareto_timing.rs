//! Times the Pareto tools for `cargo xtask bench pareto`, as tests/moocore/moocore_timing.py times
//! moocore. Its argument is the folder with the point sets; standard input has one request per line
//! (operation, points, second set), and each answer is one line (seconds per call, then the
//! values).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{BufRead, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use mopo_pareto::{
    Direction, epsilon_additive, hypervolume, hypervolume_contributions, igd_plus, non_dominated,
    non_dominated_sort,
};

/// Minimum time for the calls of one answer, as in moocore_timing.py.
const SHORTEST: f64 = 0.02;

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("the folder with the point sets")?);
    let mut sets: HashMap<String, Set> = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let [operation, points, front] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("not an operation and two sets: `{line}`").into());
        };
        for name in [points, front] {
            if !sets.contains_key(name) {
                sets.insert(name.to_string(), Set::read(&folder.join(name))?);
            }
        }
        let (seconds, values) = measure(operation, &sets[points], &sets[front])?;
        let mut answer = format!("{seconds:e}");
        for value in values {
            write!(answer, " {value:?}")?;
        }
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Row after row, like moocore's arrays.
struct Set {
    values: Vec<f64>,
    n_objectives: usize,
}

impl Set {
    fn read(path: &Path) -> Result<Self, AnyError> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let n_objectives = text.lines().next().map_or(0, |l| l.split_whitespace().count());
        let values = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { values, n_objectives })
    }

    fn rows(&self) -> Vec<&[f64]> {
        self.values.chunks_exact(self.n_objectives).collect()
    }
}

fn measure(operation: &str, points: &Set, front: &Set) -> Result<(f64, Vec<f64>), AnyError> {
    let directions = vec![Direction::Minimize; points.n_objectives];
    let ref_point = vec![1.1; points.n_objectives];
    let (points, front) = (points.rows(), front.rows());
    let d = &directions[..];
    let indices = |list: Vec<usize>| list.into_iter().map(|i| i as f64).collect();
    Ok(match operation {
        "hypervolume" => {
            let (seconds, value) = time(|| hypervolume(black_box(&points), &ref_point, d));
            (seconds, vec![value?])
        }
        "contributions" | "contributions_of_front" => {
            let (seconds, own) =
                time(|| hypervolume_contributions(black_box(&points), &ref_point, d));
            (seconds, own?)
        }
        "igd_plus" => {
            let (seconds, value) = time(|| igd_plus(black_box(&points), black_box(&front), d));
            (seconds, vec![value?])
        }
        "epsilon_additive" => {
            let (seconds, value) =
                time(|| epsilon_additive(black_box(&points), black_box(&front), d));
            (seconds, vec![value?])
        }
        "non_dominated" => {
            let (seconds, kept) = time(|| non_dominated(black_box(&points), d));
            (seconds, indices(kept))
        }
        "layers" => {
            let (seconds, layers) = time(|| non_dominated_sort(black_box(&points), d));
            let mut ranks = vec![0; points.len()];
            for (rank, layer) in layers.iter().enumerate() {
                layer.iter().for_each(|&i| ranks[i] = rank);
            }
            (seconds, indices(ranks))
        }
        other => return Err(format!("there is no operation `{other}`").into()),
    })
}

/// Seconds per call, and the result.
fn time<T>(run: impl Fn() -> T) -> (f64, T) {
    let result = run(); // warms up
    let (mut calls, mut passed) = (0_u32, 0.0);
    while passed < SHORTEST {
        let batch = calls.max(1);
        let start = Instant::now();
        for _ in 0..batch {
            black_box(run());
        }
        passed += start.elapsed().as_secs_f64();
        calls += batch;
    }
    (passed / f64::from(calls), result)
}
