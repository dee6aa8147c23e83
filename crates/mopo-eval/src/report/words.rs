//! The result in plain words.

use crate::plot::short;
use crate::{FrontReport, HypervolumeDifference, PolicyGroup, PolicySet};

/// A level such as 0.95 as `95 %`, or 0.995 as `99.5 %`, with a space that does not break.
pub(super) fn percent(level: f64) -> String {
    format!("{}\u{a0}%", (level * 1e4).round() / 1e2)
}

/// A few sentences, the most important first.
pub(super) fn verdict(report: &FrontReport) -> Vec<String> {
    let mut out = Vec::new();
    for difference in &report.differences {
        out.push(compared(report, difference));
    }
    if report.differences.is_empty() {
        for volume in &report.hypervolumes {
            let (name, value) = (volume.set.name(), short(volume.value));
            out.push(format!("Hypervolume of the {name}: {value}."));
        }
    }
    out.extend(heads_against_warm_start(report));
    out.extend(below_the_reference_point(report));
    out.extend(best_per_objective(report));
    out
}

fn compared(report: &FrontReport, difference: &HypervolumeDifference) -> String {
    let volume = |set| report.hypervolume(set).map_or_else(String::new, |h| short(h.value));
    let n = report.hypervolume(difference.of).map_or(0, |h| h.n_policies);
    let subject = match (difference.of, n) {
        (PolicySet::Heads, 1) => "The head covers".to_owned(),
        (PolicySet::Heads, n) => format!("The {n} heads together cover"),
        (_, n) => format!("Heads and mixtures, {n} policies together, cover"),
    };
    let level = percent(report.config.confidence);
    let interval = &difference.interval;
    let range = format!("{level} interval {} to {}", short(interval.low), short(interval.high));
    let start = format!(
        "{subject} a hypervolume of {}, the warm start {}",
        volume(difference.of),
        volume(difference.minus)
    );
    if interval.low > 0.0 {
        format!("{start}: {} more ({range}).", short(difference.value))
    } else if interval.high < 0.0 {
        format!("{start}: {} less ({range}).", short(-difference.value))
    } else {
        format!(
            "{start}; on {} prompts the difference of {} is not distinguishable from none ({range}).",
            report.n_prompts,
            short(difference.value)
        )
    }
}

fn heads_against_warm_start(report: &FrontReport) -> Option<String> {
    let heads: Vec<_> = report.points.iter().filter(|p| p.group == PolicyGroup::Head).collect();
    let winners: Vec<&str> = heads
        .iter()
        .filter(|p| p.dominates_warm_start == Some(true))
        .map(|p| p.label.as_str())
        .collect();
    heads.first()?.dominates_warm_start?;
    let n = heads.len();
    Some(match winners.len() {
        0 => format!("None of the {n} heads is at least as good as the warm start on every objective and better on one."),
        w if w == n => "Every head is at least as good as the warm start on every objective, and better on one or more.".into(),
        w => format!(
            "{w} of {n} heads ({}) are at least as good as the warm start on every objective, and \
             better on one or more.",
            winners.join(", ")
        ),
    })
}

fn below_the_reference_point(report: &FrontReport) -> Option<String> {
    let without: Vec<&str> = report
        .points
        .iter()
        .filter(|p| p.own_hypervolume == 0.0)
        .map(|p| p.label.as_str())
        .collect();
    (!without.is_empty()).then(|| {
        format!(
            "Not better than the reference point on every objective, and so without any \
             hypervolume: {}.",
            without.join(", ")
        )
    })
}

fn best_per_objective(report: &FrontReport) -> Option<String> {
    let warm = report.points.iter().find(|p| p.group == PolicyGroup::WarmStart);
    let best = |k: usize| {
        let best =
            report.points.iter().reduce(|a, b| if b.means[k] > a.means[k] { b } else { a })?;
        let from = warm.map_or_else(String::new, |w| format!(", warm start {}", short(w.means[k])));
        let (name, mean) = (report.objectives.name(k), short(best.means[k]));
        Some(format!("{name}: {} ({mean}{from})", best.label))
    };
    let parts: Option<Vec<String>> = (0..report.objectives.len()).map(best).collect();
    Some(format!("Best mean score on {}.", parts?.join("; ")))
}
