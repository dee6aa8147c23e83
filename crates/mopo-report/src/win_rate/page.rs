//! Win rates as tables, and their files.

use std::path::{Path, PathBuf};

use mopo_hub::{write_atomically, write_json};
use serde::{Deserialize, Serialize};

use super::{CONFIDENCE, JudgedWinRate, Matchups, RewardWinRate, WinRate};
use crate::evaluation::shown_label;
use crate::plot::short;
use crate::{Estimate, PolicySamples, Result};

/// Win rates of pairs of policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WinRateReport {
    /// Number of prompts.
    pub n_prompts: usize,
    /// Scores that are not further apart are tied.
    pub tie: f64,
    /// Level of the intervals.
    pub confidence: f64,
    /// Each policy with its baseline.
    pub comparisons: Vec<PolicyWinRates>,
    /// The judge, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeRecord>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// Win rates of one policy against another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyWinRates {
    /// The policy's label, with its run if there are two.
    pub policy: String,
    /// The other's.
    pub baseline: String,
    /// By objective; empty if scores cannot be compared.
    pub rewards: Vec<RewardWinRate>,
    /// By a judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgedWinRate>,
}

/// The judge and how it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeRecord {
    /// The model's name at the endpoint.
    pub model: String,
    /// The prompt, with `{prompt}`, `{a}` and `{b}` in place of the texts.
    pub prompt: String,
    /// Maximum number of tokens of its answers.
    pub max_tokens: usize,
    /// Number of requests of this call; all other answers were cached.
    pub n_requests: usize,
}

/// What [`write_win_rates`] has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WinRateFiles {
    /// The report as JSON.
    pub json: PathBuf,
    /// Its tables in Markdown.
    pub markdown: PathBuf,
}

impl WinRateReport {
    /// The report of these pairs by their rewards.
    ///
    /// # Errors
    /// Those of [`Matchups::by_rewards`].
    pub fn new(matchups: &Matchups, tie: f64) -> Result<Self> {
        let mut rewards = matchups.by_rewards(tie)?.into_iter();
        let label = |policy: &PolicySamples| shown_label(policy.group, &policy.label);
        let compared = matchups.pairs().map(|(policy, other)| PolicyWinRates {
            policy: label(policy),
            baseline: label(other),
            rewards: rewards.next().unwrap_or_default(),
            judge: None,
        });
        let incomparable = matchups.incomparable();
        let notes = incomparable.map(|error| format!("No win rates by rewards: {error}."));
        Ok(Self {
            n_prompts: matchups.prompts().len(),
            tie,
            confidence: CONFIDENCE,
            comparisons: compared.collect(),
            judge: None,
            notes: notes.into_iter().collect(),
        })
    }

    /// Adds the win rates by a judge, one per pair.
    ///
    /// # Panics
    /// If there is not one per pair.
    pub fn add_judge(&mut self, judge: JudgeRecord, judged: &[JudgedWinRate]) {
        assert_eq!(judged.len(), self.comparisons.len(), "one per pair");
        for (comparison, judged) in self.comparisons.iter_mut().zip(judged) {
            comparison.judge = Some(*judged);
        }
        let sum = |of: fn(&JudgedWinRate) -> usize| judged.iter().map(of).sum::<usize>();
        let (missing, unreadable) = (sum(|j| j.n_missing), sum(|j| j.n_unreadable));
        let pairs = |n| if n == 1 { "pair" } else { "pairs" };
        if missing > 0 {
            self.notes.push(format!(
                "Not judged: {missing} {} of answers, since the number of requests was limited. Repeat the command to \
                 continue.",
                pairs(missing)
            ));
        }
        if unreadable > 0 {
            self.notes.push(format!(
                "Unreadable: {unreadable} {} of answers, which no win rate counts, since the judge's answer does not end \
                 with a line A, B or TIE. judge-cache.jsonl has what it says.",
                pairs(unreadable)
            ));
        }
        self.judge = Some(judge);
    }

    /// Headings, tables and notes in Markdown, with columns aligned for a terminal.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        if self.comparisons.iter().any(|comparison| !comparison.rewards.is_empty()) {
            let tie = match self.tie {
                0.0 => "ties are equal scores".into(),
                tie => format!("ties are scores not more than {tie} apart"),
            };
            out += &format!(
                "## By rewards\n\n{} prompts; {tie}. Win rate: won + ½ tied, with {:.0} % intervals (Wilson). Difference: mean \
                 score of the policy minus that of the other (paired bootstrap over prompts).\n\n",
                self.n_prompts,
                100.0 * self.confidence
            );
            out += &table(&REWARD_COLUMNS, self.comparisons.iter().flat_map(reward_rows));
        }
        if let Some(judge) = &self.judge {
            out += if out.is_empty() { "" } else { "\n" };
            out += &format!(
                "## By a judge\n\n{}, temperature 0, each pair in both orders: won only if both orders agree, otherwise tied. \
                 First and second: the share of pairs in which the one shown first or second won both times.\n\n",
                plain(&judge.model)
            );
            out += &table(&JUDGE_COLUMNS, self.comparisons.iter().filter_map(judge_row));
        }
        for (i, note) in self.notes.iter().enumerate() {
            out += if i == 0 { "\n" } else { "" };
            out += &format!("- {}\n", plain(note));
        }
        out
    }
}

/// Writes `win-rate.json` and `win-rate.md` to `dir`, which must exist. Each file is whole or absent.
///
/// # Errors
/// [`crate::Error::Files`] names the file that cannot be written.
pub fn write_win_rates(dir: &Path, report: &WinRateReport) -> Result<WinRateFiles> {
    let files = WinRateFiles { json: dir.join("win-rate.json"), markdown: dir.join("win-rate.md") };
    write_json(&files.json, report)?;
    let mut text = format!("# Win rates\n\n{}", report.markdown());
    if let Some(judge) = &report.judge {
        let prompt: String = judge
            .prompt
            .lines()
            .map(|line| format!("    {line}").trim_end().to_owned() + "\n")
            .collect();
        text += &format!("\n## The judge's prompt\n\n{prompt}");
    }
    write_atomically(&files.markdown, text.as_bytes())?;
    Ok(files)
}

const REWARD_COLUMNS: [&str; 8] =
    ["policy", "against", "objective", "won", "tied", "lost", "win rate", "difference"];
const JUDGE_COLUMNS: [&str; 11] = [
    "policy",
    "against",
    "won",
    "tied",
    "lost",
    "win rate",
    "same text",
    "unreadable",
    "not judged",
    "first",
    "second",
];

fn reward_rows(comparison: &PolicyWinRates) -> impl Iterator<Item = Vec<String>> {
    comparison.rewards.iter().map(|reward| {
        let mut row = vec![comparison.policy.clone(), comparison.baseline.clone()];
        row.push(reward.objective.clone());
        row.extend(win_rate_cells(Some(&reward.win_rate)));
        row.push(difference(&reward.difference));
        row
    })
}

fn judge_row(comparison: &PolicyWinRates) -> Option<Vec<String>> {
    let judged = comparison.judge?;
    let mut row = vec![comparison.policy.clone(), comparison.baseline.clone()];
    row.extend(win_rate_cells(judged.win_rate.as_ref()));
    row.extend([judged.n_same, judged.n_unreadable, judged.n_missing].map(|n| n.to_string()));
    let share =
        |share: Option<f64>| share.map_or_else(|| "–".into(), |share| percent(share) + " %");
    row.extend([share(judged.first_shown), share(judged.second_shown)]);
    Some(row)
}

/// Shares won, tied and lost, and the rate with its interval.
fn win_rate_cells(found: Option<&WinRate>) -> [String; 4] {
    let Some(found) = found else { return ["–", "–", "–", "–"].map(String::from) };
    let share = |n: usize| percent(n as f64 / found.n() as f64) + " %";
    let (low, high) = (percent(found.interval.low), percent(found.interval.high));
    let rate = format!("{} % ({low} … {high})", percent(found.rate));
    [share(found.n_won), share(found.n_tied), share(found.n_lost), rate]
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn difference(found: &Estimate) -> String {
    let signed = |x: f64| format!("{}{}", if x > 0.0 { "+" } else { "" }, short(x));
    match found.interval {
        Some(i) => format!("{} ({} … {})", signed(found.value), signed(i.low), signed(i.high)),
        None => signed(found.value),
    }
}

/// One line of text, without what a terminal would obey.
fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// A table in Markdown whose columns are padded.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let escaped = |cell: String| plain(&cell).replace('|', "\\|");
    let mut lines: Vec<Vec<String>> = vec![header.iter().map(|cell| (*cell).into()).collect()];
    lines.extend(rows.map(|row| row.into_iter().map(escaped).collect()));
    let width = |column: usize| {
        lines.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut out = String::new();
    for (i, row) in lines.iter().enumerate() {
        for (cell, &width) in row.iter().zip(&widths) {
            out += &format!("| {cell:width$} ");
        }
        out += "|\n";
        if i == 0 {
            widths.iter().for_each(|width| out += &format!("|{}", "-".repeat(width + 2)));
            out += "|\n";
        }
    }
    out
}
