//! The tables: medians over rounds, targets and results, and the numbers of every run.

use serde_json::Value;

use super::participants::{BATCHES, Outcome, Run};
use crate::machine::median;

/// What the page says besides the figures.
pub(super) struct Context<'a> {
    pub(super) command: String,
    pub(super) when: String,
    pub(super) machine_before: String,
    pub(super) machine_after: String,
    /// The peers' packages; None without peers.
    pub(super) versions: Option<String>,
    pub(super) steps: usize,
    pub(super) batch: usize,
    pub(super) max_len: usize,
    pub(super) threads: usize,
    pub(super) rounds: usize,
    pub(super) new_tokens: usize,
    /// Names and commands.
    pub(super) runs: &'a [(&'a str, &'a str)],
}

/// The command line as the page shows it: paths of this machine say nothing elsewhere.
pub(crate) fn shown(args: &[String]) -> String {
    let path_follows = |flag: &str| match flag {
        "--peers-dir" | "--make-venv" | "--model" | "--tokenizer" => Some("DIR"),
        "--python" | "--llama-python" | "--llama-server" | "--mopo" => Some("PATH"),
        "--pairs" | "--texts" | "--out" => Some("FILE"),
        _ => None,
    };
    let mut out: Vec<&str> = Vec::new();
    for (i, arg) in args.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| path_follows(&args[i]));
        out.push(before.unwrap_or(arg));
    }
    out.join(" ")
}

/// One run in a few words, for the terminal.
pub(super) fn headline(line: &Value) -> String {
    let of = |key: &str, unit: &str| {
        line[key].as_f64().map_or(String::new(), |x| format!("{} {unit}  ", number(x)))
    };
    let mut text = of("seconds_per_step", "s/step") + &of("seconds_per_call", "s/call");
    text += &(of("tokens_per_second", "tokens/s") + &of("gflops_per_second", "GFLOP/s"));
    text += &of("peak_rss_mib", "MiB");
    if line["profile"] == "debug" {
        text += "(debug build)";
    }
    text.trim_end().to_string()
}

/// Medians over the rounds.
struct Medians<'a>(&'a [Run]);

impl<'a> Medians<'a> {
    fn lines(&self, name: &str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |r| r.name == name).filter_map(Run::line)
    }

    fn get(&self, name: &str, key: &str) -> Option<f64> {
        let values: Vec<f64> = self.lines(name).filter_map(|line| line[key].as_f64()).collect();
        (!values.is_empty()).then(|| median(values))
    }

    /// `a`'s over `b`'s.
    fn ratio(&self, key: &str, a: &str, b: &str) -> Option<f64> {
        Some(self.get(a, key)? / self.get(b, key)?)
    }

    fn ids(&self, name: &str) -> Option<Vec<Vec<u64>>> {
        serde_json::from_value(self.lines(name).next()?["ids"].clone()).ok()
    }
}

/// The page.
pub(super) fn page(c: &Context<'_>, runs: &[Run]) -> String {
    let m = Medians(runs);
    let mut out = String::from("# The training step and generation\n\n");
    out += &match c.versions {
        Some(_) => "How long a training step and a greedy generation take, next to TRL's `DPOTrainer`, a \
                    PyTorch step tuned by hand, and transformers' `generate`. All take turns, each as \
                    a process of its own.\n\n"
            .to_string(),
        None => "How long a training step and a greedy generation take. No peer ran.\n\n".to_string(),
    };
    out += &format!("```\n{}\n```\n\n", c.command.trim_end());
    out += &format!("{}.\n\n", c.when);
    out += &format!("- Before: {}.\n- After: {}.\n", c.machine_before, c.machine_after);
    out += &format!(
        "- {} pairs a step, {} steps of which the first is left out of the median, fewer than {} \
         tokens in prompt and response, {} threads.\n- Rounds: {}; medians over them.\n",
        c.batch, c.steps, c.max_len, c.threads, c.rounds
    );
    if let Some(versions) = &c.versions {
        out += &format!("- Peers: {versions}.\n");
    }
    if runs.iter().filter_map(Run::line).any(|line| line["profile"] == "debug") {
        out += "- **Ours is a debug build here: its times mean little.**\n";
    }
    for run in runs {
        if let Outcome::Failed(why) = &run.outcome {
            // The log's place is specific to this machine.
            let why = why.rsplit_once("; ").map_or(why.as_str(), |(why, _)| why);
            out += &format!("- **{} failed in round {}:** {why}.\n", run.name, run.round);
        }
    }
    out += &demands(c, &m);
    out += &steps(c, &m);
    out += &generation(c, &m);
    out += &rates(&m);
    out += "\n## Commands\n\n| name | command |\n|---|---|\n";
    for (name, command) in c.runs {
        out += &format!("| {name} | `{}` |\n", command.trim_end());
    }
    out += "\n## Every run\n\nOne line each, in the order in which they ran; token ids left out.\n\n```json\n";
    for run in runs {
        let mut json = run.to_json();
        if let Some(line) = json["line"].as_object_mut() {
            line.remove("ids");
        }
        json.as_object_mut().expect("an object").remove("failed");
        out += &format!("{json}\n");
    }
    out += "```\n";
    out
}

/// What is demanded, and what was reached.
fn demands(c: &Context<'_>, m: &Medians<'_>) -> String {
    let pairs = |a, b| m.ratio("pairs_per_second", a, b);
    let difference =
        |a: &str, b: &str| Some((m.get(a, "first_loss")? - m.get(b, "first_loss")?).abs());
    let memory = |a, b| m.ratio("peak_rss_mib", a, b);
    let at_least = |what: &str, limit, reached| (what.to_string(), "≥", limit, reached);
    let at_most = |what: &str, limit, reached| (what.to_string(), "≤", limit, reached);
    let over_trl = "pairs per second over TRL's";
    let over_dpo = "pairs per second over our DPO step's";
    let later = format!("MOPO step after a refresh, {over_dpo}");
    let low_rank = "the same with heads of rank 16";
    let mut rows: Vec<(String, &str, f64, Option<f64>)> = vec![
        at_least(&format!("DPO step, {over_trl}"), 10.0, pairs("mopo-dpo", "trl-dpo")),
        at_least("the same in bfloat16", 10.0, pairs("mopo-dpo-bf16", "trl-dpo")),
        at_least("the same in int8", 10.0, pairs("mopo-dpo-int8", "trl-dpo")),
        at_most("DPO step, peak memory over TRL's", 0.06, memory("mopo-dpo", "trl-dpo")),
        at_most("the same in int8", 0.06, memory("mopo-dpo-int8", "trl-dpo")),
        at_least("DPO step, pairs per second over PyTorch's", 2.0, pairs("mopo-dpo", "torch-dpo")),
        at_least(
            "cloning step, pairs per second over PyTorch's",
            1.3,
            pairs("mopo-clone", "torch-clone"),
        ),
        at_least(
            &format!("MOPO step before a refresh, {over_dpo}"),
            1.0,
            pairs("mopo-mopo", "mopo-dpo"),
        ),
    ];
    for (kind, ours, dpo) in [
        ("", "", "mopo-dpo"),
        (", both in bfloat16", "-bf16", "mopo-dpo-bf16"),
        (", both in int8", "-int8", "mopo-dpo-int8"),
    ] {
        let [whole, low] = ["later", "low-rank"].map(|heads| format!("mopo-mopo-{heads}{ours}"));
        let over = |ours: &str| m.ratio("pairs_per_second", ours, dpo);
        rows.push(at_least(&format!("{later}{kind}"), 1.0, over(&whole)));
        rows.push(at_least(low_rank, 1.0, over(&low)));
    }
    for (batch, peer, ours) in BATCHES {
        let limit = if batch == 1 { 3.5 } else { 3.0 };
        let what = format!("generation, batch {batch}, tokens per second over transformers'");
        for (what, ours) in [what.as_str(), "the same in int8"].into_iter().zip(ours) {
            rows.push(at_least(what, limit, m.ratio("tokens_per_second", ours, peer)));
        }
    }
    for (what, a, b) in [("DPO", "mopo-dpo", "torch-dpo"), ("cloning", "mopo-clone", "torch-clone")]
    {
        let what = format!("{what}, first loss: difference from PyTorch's");
        rows.push(at_most(&what, 1e-4, difference(a, b)));
    }
    rows.push(at_least("DPO step, share of the measured matrix rate", 0.8, share(m, "mopo-dpo")));
    if rows.iter().all(|row| row.3.is_none()) {
        return String::new();
    }
    let mut out = String::from("\n## What must hold\n\n");
    if c.versions.is_none() {
        out += "Without the peers only what concerns ours alone can be said.\n\n";
    }
    out += "| figure | demanded | reached | holds |\n|---|--:|--:|---|\n";
    for (what, sign, limit, reached) in rows {
        let (value, holds) = match reached {
            None => ("not measured".into(), "–"),
            Some(x) => {
                let holds = if sign == "≥" { x >= limit } else { x <= limit };
                (number(x), if holds { "yes" } else { "**no**" })
            }
        };
        out += &format!("| {what} | {sign} {} | {value} | {holds} |\n", number(limit));
    }
    out
}

/// Needed operations per time, over the matrix rate.
fn share(m: &Medians<'_>, name: &str) -> Option<f64> {
    Some(m.get(name, "gflops_per_second")? / m.get("mopo-matmul", "gflops_per_second")?)
}

fn steps(c: &Context<'_>, m: &Medians<'_>) -> String {
    let mut out = String::new();
    for (name, _) in c.runs {
        let Some(seconds) = m.get(name, "seconds_per_step") else { continue };
        if out.is_empty() {
            out += "\n## Steps\n\n| step | s per step | pairs per s | peak MiB | first loss | tokens | \
                    GFLOP needed | share |\n|---|--:|--:|--:|--:|--:|--:|--:|\n";
        }
        let cell = |x: Option<f64>| x.map_or("–".to_string(), number);
        // Losses are compared digit by digit.
        let loss = m.get(name, "first_loss").map_or("–".into(), |x| format!("{x:.6}"));
        out += &format!(
            "| {name} | {} | {} | {} | {loss} | {} | {} | {} |\n",
            number(seconds),
            cell(m.get(name, "pairs_per_second")),
            cell(m.get(name, "peak_rss_mib")),
            cell(m.get(name, "tokens_per_step")),
            cell(m.get(name, "operations_per_step").map(|x| x / 1e9)),
            cell(share(m, name)),
        );
    }
    if !out.is_empty() {
        out += "\nTokens: those of the pass that is differentiated, a shared prompt once, without padding. \
                GFLOP needed: products of matrices alone, 2 for each multiply-add, nothing counted that \
                is run again; the rules are in `crates/mopo-train/src/bench/work.rs`. Share: of the \
                measured matrix rate of f32, below, for products in bfloat16, too. The first loss of MOPO is a weighted sum over responses, which no \
                peer has.\n";
    }
    out
}

fn generation(c: &Context<'_>, m: &Medians<'_>) -> String {
    let mut out = String::new();
    for (batch, peer, ours) in BATCHES {
        for name in [&[peer][..], &ours].concat() {
            let Some(rate) = m.get(name, "tokens_per_second") else { continue };
            let memory = m.get(name, "peak_rss_mib").map_or("–".into(), number);
            let seconds = m.get(name, "seconds_per_call").map_or("–".into(), number);
            let same = if name == peer { "".into() } else { agreement(m.ids(name), m.ids(peer)) };
            out += &format!(
                "| {name} | {batch} | {seconds} | {} | {memory} | {same} |\n",
                number(rate)
            );
        }
    }
    if out.is_empty() {
        return out;
    }
    format!(
        "\n## Greedy generation\n\n{} new tokens after the prompts of the first pairs, prompt included \
         in the time; the key-value cache on both sides.\n\n\
         | name | rows | s | new tokens per s | peak MiB | token ids |\n|---|--:|--:|--:|--:|---|\n{out}",
        c.new_tokens
    )
}

/// Whether both sides chose the same tokens.
fn agreement(ours: Option<Vec<Vec<u64>>>, theirs: Option<Vec<Vec<u64>>>) -> String {
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return "not compared".into() };
    if ours.len() != theirs.len() {
        return format!("**{} rows, the peer has {}**", ours.len(), theirs.len());
    }
    let differs = ours.iter().zip(&theirs).enumerate().find_map(|(row, (a, b))| {
        let at = a.iter().zip(b).position(|(a, b)| a != b);
        at.or((a.len() != b.len()).then(|| a.len().min(b.len()))).map(|at| (row, at))
    });
    match differs {
        None => "equal".into(),
        Some((row, at)) => format!("**differ first in row {row} at token {at}**"),
    }
}

fn rates(m: &Medians<'_>) -> String {
    let lines: Vec<&Value> = m.lines("mopo-matmul").collect();
    let Some(shapes) = lines.first().and_then(|line| line["shapes"].as_array()) else {
        return String::new();
    };
    let mut out = String::from(
        "\n## The machine's matrix rate\n\nProducts of f32 matrices with the library that the kernels \
         use, on the same threads. The better of the two square ones is what shares refer to.\n\n\
         | shape | rows × inner × columns | GFLOP/s |\n|---|--:|--:|\n",
    );
    for (i, shape) in shapes.iter().enumerate() {
        let rates = lines.iter().filter_map(|l| l["shapes"][i]["gflops_per_second"].as_f64());
        let text = |key: &str| shape[key].to_string();
        out += &format!(
            "| {} | {} × {} × {} | {} |\n",
            shape["name"].as_str().unwrap_or("?"),
            text("rows"),
            text("inner"),
            text("columns"),
            number(median(rates.collect())),
        );
    }
    out
}

/// Three digits, or all of those before the point.
pub(crate) fn number(x: f64) -> String {
    let size = x.abs();
    match size {
        0.0 => "0".into(),
        _ if size < 1e-3 => format!("{x:.1e}"),
        _ if size >= 100.0 => format!("{x:.0}"),
        _ if size >= 10.0 => format!("{x:.1}"),
        _ if size >= 1.0 => format!("{x:.2}"),
        _ => format!("{x:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(name: &'static str, round: usize, line: Value) -> Run {
        Run { name, round, outcome: Outcome::Line(line) }
    }

    fn context<'a>(runs: &'a [(&'a str, &'a str)]) -> Context<'a> {
        Context {
            command: "cargo xtask bench train --peers".into(),
            when: "today, commit 0".into(),
            machine_before: "a machine".into(),
            machine_after: "a machine".into(),
            versions: Some("torch 1".into()),
            steps: 6,
            batch: 8,
            max_len: 512,
            threads: 2,
            rounds: 3,
            new_tokens: 4,
            runs,
        }
    }

    #[test]
    fn ratios_of_medians_decide_and_what_did_not_run_is_said() {
        let step = |seconds: f64, mib: u64, loss: f64| {
            json!({ "seconds_per_step": seconds, "pairs_per_second": 8.0 / seconds,
                    "peak_rss_mib": mib, "first_loss": loss, "gflops_per_second": 120.0 })
        };
        let mut runs: Vec<Run> = Vec::new();
        for (round, seconds) in [(1, 10.0), (2, 2.0), (3, 1.0)] {
            runs.push(run("mopo-dpo", round, step(seconds, 1000, 0.693512)));
            runs.push(run("torch-dpo", round, step(3.0 * seconds, 3000, 0.693511)));
            runs.push(Run {
                name: "trl-dpo",
                round,
                outcome: Outcome::Failed("no module trl; all of its output is in /x".into()),
            });
        }
        runs.push(run("mopo-matmul", 1, json!({ "gflops_per_second": 200.0, "shapes": [] })));
        let names = [("mopo-dpo", "a"), ("torch-dpo", "b"), ("trl-dpo", "c")];
        let page = page(&context(&names), &runs);
        for expected in [
            "| DPO step, pairs per second over PyTorch's | ≥ 2.00 | 3.00 | yes |",
            "| DPO step, pairs per second over TRL's | ≥ 10.0 | not measured | – |",
            "| DPO, first loss: difference from PyTorch's | ≤ 1.0e-4 | 1.0e-6 | yes |",
            "| DPO step, share of the measured matrix rate | ≥ 0.800 | 0.600 | **no** |",
            "| mopo-dpo | 2.00 | 4.00 | 1000 | 0.693512 |",
            "**trl-dpo failed in round 2:** no module trl.",
        ] {
            assert!(page.contains(expected), "`{expected}` is not in\n{page}");
        }
        assert!(!page.contains("/x"), "{page}");
    }

    #[test]
    fn token_ids_are_compared_one_by_one() {
        let ids = |last: u64| Some(vec![vec![1, 2], vec![3, last]]);
        assert_eq!(agreement(ids(4), ids(4)), "equal");
        assert!(agreement(ids(4), ids(5)).contains("row 1 at token 1"));
        assert!(agreement(ids(4), Some(vec![vec![1, 2]])).contains("rows"));
        assert!(agreement(ids(4), Some(vec![vec![1, 2], vec![3]])).contains("row 1 at token 1"));
        assert_eq!(agreement(ids(4), None), "not compared");
    }

    #[test]
    fn paths_of_this_machine_are_not_shown() {
        let args = ["--peers", "--python", "/home/me/python", "--rounds", "3"].map(String::from);
        assert_eq!(shown(&args), "--peers --python PATH --rounds 3");
        assert_eq!(shown(&["--out", "/home/me/page.md"].map(String::from)), "--out FILE");
    }

    #[test]
    fn numbers_have_three_digits() {
        let of = [0.0, 0.00004, 0.1234, 1.234, 12.34, 1234.5];
        assert_eq!(of.map(number), ["0", "4.0e-5", "0.123", "1.23", "12.3", "1234"]);
    }
}
