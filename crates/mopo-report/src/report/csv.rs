//! The results as tables for other programs: numbers in full precision; unknown values are empty.

use crate::{Estimate, FrontReport, PolicyPoint, SetRef, Table};

/// Columns: run (empty: a single one), policy, label, group, cluster (empty: all prompts),
/// `cluster_label`, n, then `mean_<objective>`, `se_<objective>` and `z_<objective>` per objective,
/// `own_hypervolume`, `non_dominated`.
pub(super) fn front(report: &FrontReport) -> Table {
    let names = &report.objectives;
    let mut header: Vec<String> =
        ["run", "policy", "label", "group", "cluster", "cluster_label", "n"]
            .map(str::to_owned)
            .into();
    header.extend(names.iter().flat_map(|n| ["mean", "se", "z"].map(|what| format!("{what}_{n}"))));
    header.extend(["own_hypervolume".to_owned(), "non_dominated".to_owned()]);
    let mut table = Table::new(header);
    for point in report.points.iter().chain(&report.cluster_points) {
        table.push(row(report, point));
    }
    table
}

fn row(report: &FrontReport, point: &PolicyPoint) -> Vec<String> {
    let mut row = vec![
        text(&point.run),
        point.policy.clone(),
        point.label.clone(),
        point.group.csv_name().to_owned(),
        text(&point.cluster),
        point.cluster.map_or_else(String::new, |c| report.cluster_labels[c].clone()),
        point.n.to_string(),
    ];
    for k in 0..report.objectives.len() {
        row.push(point.means[k].to_string());
        row.push(text(&point.standard_errors.as_ref().map(|e| e[k])));
        row.push(text(&point.z_scores[k]));
    }
    row.push(point.own_hypervolume.to_string());
    row.push(point.non_dominated.to_string());
    row
}

/// Columns: run, set, cluster, `cluster_label`, `n_policies`, then value, low and high of hypervolume
/// (larger is better), IGD+ and additive epsilon (smaller is better).
pub(super) fn sets(report: &FrontReport) -> Table {
    let mut header: Vec<String> =
        ["run", "set", "cluster", "cluster_label", "n_policies"].map(str::to_owned).into();
    for what in ["hypervolume", "igd_plus", "epsilon"] {
        header.extend(["", "_low", "_high"].map(|end| format!("{what}{end}")));
    }
    let mut table = Table::new(header);
    for quality in report.sets.iter().chain(&report.cluster_sets) {
        let mut row: Vec<String> = set(&quality.of).into();
        row.push(text(&quality.cluster));
        row.push(quality.cluster.map_or_else(String::new, |c| report.cluster_labels[c].clone()));
        row.push(quality.n_policies.to_string());
        for estimate in [Some(quality.hypervolume), quality.igd_plus, quality.epsilon] {
            row.extend(cells(estimate));
        }
        table.push(row);
    }
    table
}

/// Columns: `of_run`, `of_set`, `minus_run`, `minus_set`, difference (of − minus), low, high, and the
/// probabilities that the first and that the second has the larger hypervolume.
pub(super) fn differences(report: &FrontReport) -> Table {
    let header = [
        "of_run",
        "of_set",
        "minus_run",
        "minus_set",
        "difference",
        "low",
        "high",
        "probability_positive",
        "probability_negative",
    ];
    let mut table = Table::new(header);
    for d in &report.differences {
        let numbers = [
            d.value,
            d.interval.low,
            d.interval.high,
            d.probability_positive,
            d.probability_negative,
        ];
        let row: Vec<String> = set(&d.of)
            .into_iter()
            .chain(set(&d.minus))
            .chain(numbers.map(|v| v.to_string()))
            .collect();
        table.push(row);
    }
    table
}

fn set(of: &SetRef) -> [String; 2] {
    [text(&of.run), of.set.csv_name().to_owned()]
}

fn cells(estimate: Option<Estimate>) -> [String; 3] {
    let interval = estimate.and_then(|e| e.interval);
    [
        text(&estimate.map(|e| e.value)),
        text(&interval.map(|i| i.low)),
        text(&interval.map(|i| i.high)),
    ]
}

fn text<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(String::new, T::to_string)
}
