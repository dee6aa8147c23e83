//! The result in plain words.

use crate::plot::short;
use crate::{FrontReport, HypervolumeDifference, PolicyGroup, PolicySet, SetRef};

/// A level such as 0.95 as `95 %`, or 0.995 as `99.5 %`, with a non-breaking space.
pub(super) fn percent(level: f64) -> String {
    format!("{}\u{a0}%", (level * 1e4).round() / 1e2)
}

/// A share of resamples: three decimals, and never exactly 0 or 1 unless it is.
pub(super) fn probability(share: f64) -> String {
    match share {
        s if s > 0.0 && s < 0.0005 => "below 0.001".into(),
        s if s < 1.0 && s > 0.9995 => "above 0.999".into(),
        s => format!("{s:.3}"),
    }
}

/// A few sentences, the most important first.
pub(super) fn verdict(report: &FrontReport) -> Vec<String> {
    let mut out = Vec::new();
    if report.runs.len() > 1 {
        // The table has the rest.
        let between = |d: &&HypervolumeDifference| d.of.run != d.minus.run;
        out.extend(report.differences.iter().filter(between).take(4).map(|d| compared(report, d)));
        out.extend(best_per_objective(report));
        return out;
    }
    for difference in &report.differences {
        out.push(compared(report, difference));
    }
    if report.differences.is_empty() {
        for quality in &report.sets {
            let (name, value) = (quality.of.name(), short(quality.hypervolume.value));
            out.push(format!("Hypervolume of the {name}: {value}."));
        }
    }
    out.extend(heads_against_sft(report));
    out.extend(below_the_reference_point(report));
    out.extend(best_per_objective(report));
    out
}

/// `The 3 heads together cover`, or with the run's name before it.
fn subject(report: &FrontReport, of: &SetRef) -> String {
    let n = report.set_quality(of).map_or(0, |q| q.n_policies);
    let run = of.run.as_ref().map_or_else(String::new, |run| format!("{run}: "));
    match (of.set, n) {
        (PolicySet::Heads, 1) => format!("{run}The head covers"),
        (PolicySet::Heads, n) => format!("{run}The {n} heads together cover"),
        (PolicySet::Sft, _) => format!("{run}The SFT model covers"),
        (_, n) => format!("{run}Heads and mixtures, {n} policies together, cover"),
    }
}

fn other(report: &FrontReport, of: &SetRef) -> String {
    let n = report.set_quality(of).map_or(0, |q| q.n_policies);
    match &of.run {
        None => "the SFT model".into(),
        Some(run) => match (of.set, n) {
            (PolicySet::Sft, _) => format!("{run}'s SFT model"),
            (PolicySet::Heads, 1) => format!("{run}'s head"),
            (PolicySet::Heads, n) => format!("{run}'s {n} heads"),
            (_, n) => format!("{run}'s heads and mixtures ({n} policies)"),
        },
    }
}

fn compared(report: &FrontReport, difference: &HypervolumeDifference) -> String {
    let volume =
        |of| report.set_quality(of).map_or_else(String::new, |q| short(q.hypervolume.value));
    let level = percent(report.config.confidence);
    let interval = &difference.interval;
    let range = format!("{level} interval {} to {}", short(interval.low), short(interval.high));
    let start = format!(
        "{} a hypervolume of {}, {} {}",
        subject(report, &difference.of),
        volume(&difference.of),
        other(report, &difference.minus),
        volume(&difference.minus)
    );
    let chance = format!(
        "larger with a dominance probability of {}",
        probability(difference.probability_positive)
    );
    if interval.low > 0.0 {
        format!("{start}: {} more ({range}; {chance}).", short(difference.value))
    } else if interval.high < 0.0 {
        format!("{start}: {} less ({range}; {chance}).", short(-difference.value))
    } else {
        format!(
            "{start}; on {} prompts the difference of {} is not distinguishable from none ({range}; \
             {chance}).",
            report.n_prompts,
            short(difference.value)
        )
    }
}

fn heads_against_sft(report: &FrontReport) -> Option<String> {
    let heads: Vec<_> = report.points.iter().filter(|p| p.group == PolicyGroup::Head).collect();
    let winners: Vec<String> =
        heads.iter().filter(|p| p.dominates_sft == Some(true)).map(|p| p.shown_label()).collect();
    heads.first()?.dominates_sft?;
    let n = heads.len();
    Some(match winners.len() {
        0 => format!("None of the {n} heads is at least as good as the SFT model on every objective and better on one."),
        w if w == n => "Every head is at least as good as the SFT model on every objective, and better on one or more.".into(),
        w => format!(
            "{w} of {n} heads ({}) are at least as good as the SFT model on every objective, and \
             better on one or more.",
            winners.join(", ")
        ),
    })
}

fn below_the_reference_point(report: &FrontReport) -> Option<String> {
    let without: Vec<String> = report
        .points
        .iter()
        .filter(|p| p.own_hypervolume == 0.0)
        .map(|p| p.shown_label())
        .collect();
    (!without.is_empty()).then(|| {
        format!(
            "Not better than the reference point on every objective, so the hypervolume is 0: {}.",
            without.join(", ")
        )
    })
}

fn best_per_objective(report: &FrontReport) -> Option<String> {
    let sft = report
        .points
        .iter()
        .find(|p| p.group == PolicyGroup::Sft)
        .filter(|_| report.runs.len() < 2);
    let best = |k: usize| {
        let best =
            report.points.iter().reduce(|a, b| if b.means[k] > a.means[k] { b } else { a })?;
        let from = sft.map_or_else(String::new, |w| format!(", SFT model {}", short(w.means[k])));
        let (name, mean) = (&report.objectives[k], short(best.means[k]));
        Some(format!("{name}: {} ({mean}{from})", best.shown_label()))
    };
    let parts: Option<Vec<String>> = (0..report.objectives.len()).map(best).collect();
    Some(format!("Best mean score on {}.", parts?.join("; ")))
}
