//! Compares the Pareto tools of mopo-pareto with moocore in one run: `cargo xtask bench pareto`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{cargo, root, status, target_directory};
use crate::machine::{machine, median};

/// How often each side measures everything, by turns.
const ROUNDS: usize = 11;

/// The largest difference between the two sides' results, relative to the largest value.
const AGREEMENT: f64 = 1e-10;

/// moocore 0.3.2 writes 0 for contributions below the root of the machine epsilon: found with a
/// point of the cloud in 4 dimensions, whose contribution is 1.77e-9 in exact fractions.
const ZERO_IN_MOOCORE: f64 = 1.5e-8;

const SCRIPT: &str = "crates/mopo-pareto/tests/moocore/moocore_timing.py";
const REQUIREMENTS: &str = "crates/mopo-pareto/tests/moocore/requirements.txt";

const OPERATIONS: &[&str] =
    &["hypervolume", "contributions", "igd_plus", "epsilon_additive", "non_dominated", "layers"];

/// `cargo xtask bench pareto [--python PATH]`.
pub(crate) fn run(python: Option<PathBuf>) -> Result<ExitCode> {
    let target = target_directory()?;
    let folder = target.join("pareto-bench");
    let python = match python {
        Some(python) => python,
        None => environment(&folder)?,
    };
    let versions = installed(&python)?;
    let mut build = cargo(&["build", "--release", "--package", "mopo-pareto"]);
    build.args(["--example", "pareto_timing"]).current_dir(root());
    ensure!(status(&mut build)?.success(), "building the example `pareto_timing` failed");

    let sets_folder = folder.join("sets");
    let sets = sets(&python, &sets_folder)?;
    let mut ours = Command::new(target.join("release/examples/pareto_timing"));
    let mut ours = Side::start("mopo-pareto", ours.arg(&sets_folder))?;
    let mut theirs = Command::new(&python);
    theirs.env("OMP_NUM_THREADS", "1").arg(root().join(SCRIPT));
    let mut theirs = Side::start("moocore", theirs.arg("serve").arg(&sets_folder))?;

    println!("mopo-pareto (release build) against {versions}");
    println!("{}", machine());
    println!(
        "one thread each; median of {ROUNDS} rounds, taking turns; all minimised; microseconds per \
         call; ratio: ours / moocore's, below 1 where ours is faster\n"
    );
    println!("| operation | set | K | n | mopo-pareto | moocore | ratio |");
    println!("|---|---|--:|--:|--:|--:|--:|");
    let mut rows = Vec::new();
    for operation in OPERATIONS {
        for set in &sets {
            let row = compare(operation, set, &mut ours, &mut theirs)?;
            println!(
                "| {operation} | {} | {} | {} | {:.1} | {:.1} | {:.2} |",
                set.shape,
                set.k,
                set.n,
                row.ours * 1e6,
                row.theirs * 1e6,
                row.ratio()
            );
            rows.push(row);
        }
    }
    println!("\n{}", machine());
    let faster = rows.iter().filter(|r| r.ratio() <= 1.0).count();
    let largest = rows.iter().map(Row::ratio).fold(0.0, f64::max);
    println!(
        "all values agree to {AGREEMENT:e}; {faster} of {} rows are not slower than moocore, the \
         largest ratio is {largest:.2}",
        rows.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// A Python with the pinned moocore, made on first use.
fn environment(folder: &Path) -> Result<PathBuf> {
    let venv = folder.join("venv");
    let python = venv.join("bin/python");
    let wanted = fs::read_to_string(root().join(REQUIREMENTS)).context(REQUIREMENTS)?;
    let stamp = venv.join("requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(python);
    }
    let remedy = format!("or pass `--python PATH`, a Python with the packages in {REQUIREMENTS}");
    eprintln!("== creating a Python environment with moocore in {}", venv.display());
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv).status();
    match made {
        Err(e) => bail!("python3 cannot be started ({e}): install Python 3.10 or newer, {remedy}"),
        Ok(status) if !status.success() => bail!(
            "`python3 -m venv` failed ({status}): its output is above; Debian and Ubuntu have it \
             in the package python3-venv; {remedy}"
        ),
        Ok(_) => {}
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "-r"]);
    ensure!(
        status(pip.arg(root().join(REQUIREMENTS)))?.success(),
        "pip could not install what {REQUIREMENTS} lists: its output is above (no network, or no \
         build for this platform?); {remedy}"
    );
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())?;
    Ok(python)
}

/// The versions that the interpreter has; an error if moocore's is not the pinned one.
fn installed(python: &Path) -> Result<String> {
    let code = "import sys, moocore, numpy\n\
                print(moocore.__version__, numpy.__version__, sys.version.split()[0])";
    let out = Command::new(python)
        .args(["-c", code])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", python.display()))?;
    ensure!(out.status.success(), "{} cannot import moocore and numpy", python.display());
    let text = String::from_utf8(out.stdout)?;
    let [moocore, numpy, version] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        bail!("{} printed no three versions but `{text}`", python.display());
    };
    let wanted = fs::read_to_string(root().join(REQUIREMENTS)).context(REQUIREMENTS)?;
    ensure!(
        wanted.lines().any(|l| l.trim() == format!("moocore=={moocore}")),
        "{} has moocore {moocore}, which is not the version in {REQUIREMENTS}",
        python.display()
    );
    Ok(format!("moocore {moocore} (numpy {numpy}, Python {version})"))
}

/// A point set, and the front that it is measured against.
struct Set {
    shape: String,
    k: usize,
    n: usize,
    points: String,
    front: String,
}

/// Has the script write them, the same ones every time.
fn sets(python: &Path, folder: &Path) -> Result<Vec<Set>> {
    let out = Command::new(python)
        .arg(root().join(SCRIPT))
        .arg("sets")
        .arg(folder)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", python.display()))?;
    ensure!(out.status.success(), "{SCRIPT} could not write the point sets");
    let text = String::from_utf8(out.stdout)?;
    text.lines()
        .map(|line| {
            let [shape, k, n, points, front] = line.split_whitespace().collect::<Vec<_>>()[..]
            else {
                bail!("{SCRIPT} listed `{line}`");
            };
            Ok(Set {
                shape: shape.into(),
                k: k.parse()?,
                n: n.parse()?,
                points: points.into(),
                front: front.into(),
            })
        })
        .collect()
}

/// A program that answers requests with times and values.
struct Side {
    name: &'static str,
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Side {
    fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {:?}", command.get_program()))?;
        let requests = child.stdin.take().context("no pipe to the program")?;
        let answers = BufReader::new(child.stdout.take().context("no pipe from the program")?);
        Ok(Self { name, child, requests, answers })
    }

    /// Seconds per call, and the values.
    fn ask(&mut self, operation: &str, set: &Set) -> Result<(f64, Vec<f64>)> {
        let what = || format!("{}: {operation} of {}", self.name, set.points);
        writeln!(self.requests, "{operation} {} {}", set.points, set.front).with_context(what)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).with_context(what)?;
        let mut numbers = answer.split_whitespace().map(str::parse::<f64>);
        let seconds = numbers.next().with_context(what)?.with_context(what)?;
        Ok((seconds, numbers.collect::<Result<_, _>>().with_context(what)?))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // Nothing is lost: it only waits for requests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Row {
    /// Median seconds per call.
    ours: f64,
    theirs: f64,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.ours / self.theirs
    }
}

fn compare(operation: &str, set: &Set, ours: &mut Side, theirs: &mut Side) -> Result<Row> {
    // moocore has a faster way for sets in which nobody dominates anybody: it may use it there.
    let operation = match operation {
        "contributions" if set.shape != "cloud" => "contributions_of_front",
        other => other,
    };
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (seconds, our_values) = ours.ask(operation, set)?;
        our_times.push(seconds);
        let (seconds, their_values) = theirs.ask(operation, set)?;
        their_times.push(seconds);
        agree(operation, &our_values, &their_values)
            .with_context(|| format!("{operation} of {}", set.points))?;
    }
    Ok(Row { ours: median(our_times), theirs: median(their_times) })
}

/// An error unless the values are the same but for rounding.
fn agree(operation: &str, ours: &[f64], theirs: &[f64]) -> Result<()> {
    ensure!(
        ours.len() == theirs.len() && !ours.is_empty(),
        "mopo-pareto gives {} values, moocore {}",
        ours.len(),
        theirs.len()
    );
    let largest = theirs.iter().fold(0.0_f64, |a, v| a.max(v.abs()));
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let small =
            operation.starts_with("contributions") && *b == 0.0 && a.abs() < ZERO_IN_MOOCORE;
        // Written so that a NaN fails.
        let same = small || (a - b).abs() <= AGREEMENT * largest;
        ensure!(same, "value {i} is {a:?} in mopo-pareto and {b:?} in moocore");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_agrees_and_nothing_else_does() {
        assert!(agree("igd_plus", &[1.0, 0.0], &[1.0 + 1e-13, 1e-13]).is_ok());
        assert!(agree("igd_plus", &[1.0], &[1.0 + 1e-9]).is_err());
        assert!(agree("igd_plus", &[1.0], &[1.0, 2.0]).is_err());
        assert!(agree("igd_plus", &[f64::NAN], &[1.0]).is_err());
        assert!(agree("igd_plus", &[], &[]).is_err());
        assert!(agree("igd_plus", &[1.0, 1e-9], &[1.0, 0.0]).is_err());
        assert!(agree("contributions", &[1.0, 1e-9], &[1.0, 0.0]).is_ok());
        assert!(agree("contributions", &[1.0, 0.0], &[1.0, 1e-9]).is_err());
    }
}
