//! `mopo win-rate`: how often the answers of one policy beat another's, by rewards and by a judge. Nothing is generated
//! again, so no model is needed here.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mopo_eval::judge::{AnswerCache, Judge, JudgePrompt, JudgeSettings};
use mopo_report::{Matchups, RecordedRun, ResultsDir, WinRateReport, write_win_rates};
use mopo_train::DirLock;
use mopo_train::evaluate::check_up_to_date;

use super::report::check_report_place;
use crate::args::{JudgeArgs, WinRateArgs};
use crate::output::{errln, out, outln};
use crate::progress::Bars;

pub(crate) fn run(args: WinRateArgs) -> Result<()> {
    check_report_place(&args.out, "win-rate")?;
    let judge = judge(&args.judge)?;
    let (results, name) = find(&args.results)?;
    let matchups = match &args.against {
        None => Matchups::within(read(&results, name)?, &args.policies, &args.baselines)?,
        Some(against) => {
            let (other, other_name) = find(against)?;
            let place = |found: &ResultsDir| found.results.canonicalize().ok();
            ensure!(
                place(&results) != place(&other),
                "--against {} are the same results; leave it out, and name policies of them with --policy and --baseline",
                against.display()
            );
            let (name, other_name) = match name == other_name {
                false => (name, other_name),
                true => (args.results.display().to_string(), against.display().to_string()),
            };
            let (run, other) = (read(&results, name)?, read(&other, other_name)?);
            Matchups::between(run, other, &args.policies, &args.baselines)?
        }
    };
    if let (Some(error), None) = (matchups.incomparable(), &judge) {
        anyhow::bail!("{error}, or let a judge compare the answers with --judge");
    }
    let mut report = WinRateReport::new(&matchups, args.tie)?;
    mopo_hub::create_dir(&args.out)?;
    let lock = DirLock::acquire(&args.out)?;
    if let Some(judge) = judge {
        let mut cache = AnswerCache::open(&args.out.join("judge-cache.jsonl"))?;
        if cache.n_damaged() > 0 {
            let path = cache.path().display();
            errln!("note: {} lines of {path} are damaged and were skipped", cache.n_damaged());
        }
        let judged = judge.compare(&matchups, &mut cache, &mut Bars::new())?;
        errln!("judge: {} requests, {} answers were known", judged.n_requests, judged.n_cached);
        report.add_judge(judge.record(&judged), &judged.win_rates());
    }
    let files = write_win_rates(&args.out, &report)?;
    drop(lock);
    out!("{}", report.markdown());
    outln!("\nwrote");
    outln!("  {}  (these tables)", files.markdown.display());
    outln!("  {}  (all results as JSON)", files.json.display());
    Ok(())
}

/// Results and their name.
fn find(path: &Path) -> Result<(ResultsDir, String)> {
    let found = ResultsDir::find(path)?;
    let name = found.name();
    Ok((found, name))
}

fn read(results: &ResultsDir, name: String) -> Result<RecordedRun> {
    let recorded = RecordedRun::read(&results.results, name)?;
    if let Some(run) = &results.run {
        check_up_to_date(run, &recorded.record)?;
    }
    Ok(recorded)
}

/// The judge that the flags describe, if any.
fn judge(args: &JudgeArgs) -> Result<Option<Judge>> {
    let (Some(url), Some(model)) = (&args.url, &args.model) else { return Ok(None) };
    let criterion = args.criterion.as_deref();
    let prompt = match (&args.prompt, criterion) {
        (Some(path), criterion) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("reading --judge-prompt {}", path.display()))?;
            JudgePrompt::new(&text, criterion)
                .with_context(|| format!("--judge-prompt {}", path.display()))?
        }
        (None, Some(criterion)) => JudgePrompt::with_criterion(criterion)?,
        (None, None) => anyhow::bail!(
            "--judge needs to know what to compare by: give --judge-criterion \"Which answer is more helpful?\", or a \
             prompt of your own with --judge-prompt FILE"
        ),
    };
    let token = match &args.token_env {
        None => None,
        Some(name) => {
            Some(std::env::var(name).ok().filter(|token| !token.is_empty()).with_context(|| {
                format!(
                    "--judge-token-env {name}: the environment variable is not set, or not text"
                )
            })?)
        }
    };
    Ok(Some(Judge::new(JudgeSettings {
        token: token.map(|token| token.trim().to_owned()),
        max_tokens: args.max_tokens,
        max_requests: args.requests,
        n_parallel: args.parallel,
        ..JudgeSettings::new(url, model, prompt)
    })?))
}
