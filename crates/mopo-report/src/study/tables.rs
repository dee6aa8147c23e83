//! The tables of a study.

use super::{Cost, CostTokens, Study, StudyMethod, StudyReport};
use crate::Estimate;
use crate::plot::short;

/// A table with its heading and what is to be known of it.
pub(super) struct Section {
    pub(super) heading: &'static str,
    pub(super) note: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

fn with_interval(estimate: &Estimate) -> String {
    match estimate.interval {
        Some(i) => format!("{} ({} … {})", short(estimate.value), short(i.low), short(i.high)),
        None => short(estimate.value),
    }
}

pub(super) fn hypervolumes(study: &Study, report: &StudyReport) -> Section {
    let reference = &study.reference;
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let row = |method: &super::MethodResult| {
        let against = method.against.as_ref();
        vec![
            method.name.clone(),
            with_interval(&method.hypervolume),
            method.igd_plus.as_ref().map_or("–".into(), with_interval),
            against.map_or("–".into(), |a| with_interval(&a.difference)),
            against.map_or("–".into(), |a| percent(a.probability)),
            against.map_or("–", |a| if a.holds { "yes" } else { "**no**" }).into(),
        ]
    };
    Section {
        heading: "Fronts",
        note: format!(
            "Hypervolume of all policies of a method (larger is better), IGD+ to the front of all methods in standard \
             deviations (smaller is better), and how far {reference} is ahead. Means over {}; {} intervals of \
             {} resamples of seeds and, within each, of its {} prompts, the same for all methods. The last column: \
             whether the lower end of the interval of the difference is at least −1 % of the other's hypervolume.",
            match report.seeds.len() {
                1 => "one seed".to_string(),
                n => format!("{n} seeds"),
            },
            percent(report.confidence),
            report.n_resamples,
            report.n_prompts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        ),
        header: vec![
            "method".into(),
            "hypervolume".into(),
            "IGD+".into(),
            format!("{reference} ahead by"),
            format!("P({reference} ahead)"),
            "at or above".into(),
        ],
        rows: report.methods.iter().map(row).collect(),
    }
}

pub(super) fn scores(report: &StudyReport) -> Section {
    let signed = |z: f64| format!("{z:+.2}").replace('-', "−");
    let cell = |z: &Option<Estimate>| match z {
        Some(Estimate { value, interval: Some(i) }) => {
            format!("{} ({} … {})", signed(*value), signed(i.low), signed(i.high))
        }
        Some(estimate) => signed(estimate.value),
        None => "–".into(),
    };
    let rows = report.points.iter().map(|point| {
        let names = [report.methods[point.method].name.clone(), point.label.clone()];
        names.into_iter().chain(point.z.iter().map(cell)).collect()
    });
    Section {
        heading: "Policies and objectives",
        note: "Mean z-scores: the SFT model's answers of the same seed have mean 0 unless the configuration names other \
               statistics."
            .into(),
        header: ["method", "policy"]
            .map(String::from)
            .into_iter()
            .chain(report.objectives.iter().cloned())
            .collect(),
        rows: rows.collect(),
    }
}

pub(super) fn costs(study: &Study, report: &StudyReport) -> Section {
    let n_seeds = report.seeds.len() as f64;
    let row = |method: &StudyMethod| {
        let costs: Vec<Cost> = method.runs.iter().filter_map(|run| run.cost).collect();
        if costs.is_empty() {
            return None;
        }
        let sum = |of: fn(&Cost) -> f64| costs.iter().map(of).sum::<f64>() / n_seeds;
        let memory = costs.iter().filter_map(|cost| cost.memory).max();
        let tokens = |of: fn(&CostTokens) -> u64| {
            let all: Option<Vec<CostTokens>> = costs.iter().map(|cost| cost.tokens).collect();
            let sum = |all: Vec<CostTokens>| all.iter().map(of).sum::<u64>() as f64 / n_seeds;
            all.map_or("–".into(), |all| format!("{:.0}", sum(all) / 1000.0))
        };
        Some(vec![
            method.name.clone(),
            format!("{:.0}", method.runs.len() as f64 / n_seeds),
            format!("{:.0}", sum(|cost| cost.seconds)),
            format!("{:.0}", sum(|cost| cost.responses as f64)),
            tokens(|tokens| tokens.trained),
            tokens(|tokens| tokens.generated),
            tokens(|tokens| tokens.scored),
            memory.map_or("–".into(), |bytes| format!("{:.2}", bytes as f64 / 1_073_741_824.0)),
        ])
    };
    Section {
        heading: "Cost",
        note: "Of one seed: training runs of the method's front, seconds of the commands and responses in their batches, \
               summed; thousands of tokens of their differentiated passes, sampled from policies, and of passes without gradients \
               during training; the peak of memory of a run. A method that trains nothing has no row."
            .into(),
        header: [
            "method",
            "runs",
            "seconds",
            "responses",
            "trained, k",
            "generated, k",
            "scored, k",
            "memory, GiB",
        ]
        .map(String::from)
        .to_vec(),
        rows: study.methods.iter().filter_map(row).collect(),
    }
}

pub(super) fn tries(study: &Study) -> Section {
    let rows = study.methods.iter().flat_map(|method| {
        method.tries.iter().map(|one| {
            let name = method.name.clone();
            let chosen = if one.chosen { "chosen" } else { "" };
            vec![name, one.settings.clone(), short(one.hypervolume), chosen.into()]
        })
    });
    Section {
        heading: "Hyper-parameters",
        note: "Every try of every method, with its hypervolume on validation prompts and the first seed.".into(),
        header: ["method", "settings", "hypervolume", ""].map(String::from).to_vec(),
        rows: rows.collect(),
    }
}

/// For any two methods, how often one is ahead.
pub(super) fn ahead(report: &StudyReport) -> Section {
    let percent = |estimate: &Estimate| {
        let whole = |share: f64| format!("{:.0}", 100.0 * share);
        match estimate.interval {
            // Of one seed each share is 0 or 1.
            Some(i) if i.low < i.high && report.seeds.len() > 1 => {
                format!("{} ({}–{})", whole(estimate.value), whole(i.low), whole(i.high))
            }
            _ => whole(estimate.value),
        }
    };
    let rows = report.methods.iter().zip(&report.ahead).enumerate().map(|(m, (method, row))| {
        let cells = row.iter().map(|of| of.as_ref().map_or("–".into(), percent));
        std::iter::once(format!("{} {}", m + 1, method.name)).chain(cells).collect()
    });
    Section {
        heading: "Any two methods",
        note: "How probable it is, in percent, that the method of the row has a larger hypervolume than that of the column, \
               for a seed and prompts like these: in each resample, the share of its seeds in which it is so. The mean over \
               resamples, and with several seeds the central interval of the shares; equal hypervolumes count half."
            .into(),
        header: std::iter::once("method".to_string())
            .chain((1..=report.methods.len()).map(|m| m.to_string()))
            .collect(),
        rows: rows.collect(),
    }
}

/// Hypervolumes cluster by cluster.
pub(super) fn clusters(report: &StudyReport) -> Section {
    let rows = report.methods.iter().enumerate().map(|(m, method)| {
        let volumes = report.clusters.iter().map(|cluster| short(cluster.hypervolumes[m]));
        std::iter::once(method.name.clone()).chain(volumes).collect()
    });
    Section {
        heading: "Clusters of prompts",
        note: "Hypervolume by cluster of prompts, named by words that tell it from the others; prompts of all seeds in \
               brackets."
            .into(),
        header: std::iter::once("method".to_string())
            .chain(report.clusters.iter().map(|cluster| {
                format!("{} ({})", cluster.label, cluster.n_prompts.iter().sum::<usize>())
            }))
            .collect(),
        rows: if report.clusters.is_empty() { vec![] } else { rows.collect() },
    }
}

/// Hypervolumes by the values of parameters.
pub(super) fn sensitivity(report: &StudyReport) -> Section {
    let rows = report.sensitivity.iter().flat_map(|of| {
        of.points.iter().map(|(value, volume)| {
            let seeds: Vec<String> = of.seeds.iter().map(ToString::to_string).collect();
            vec![
                of.method.clone(),
                of.parameter.clone(),
                value.to_string(),
                with_interval(volume),
                seeds.join(", "),
            ]
        })
    });
    Section {
        heading: "Sensitivity",
        note: "Hypervolume of a method with one parameter changed, everything else as in the tables above.".into(),
        header: ["method", "parameter", "value", "hypervolume", "seeds"].map(String::from).to_vec(),
        rows: rows.collect(),
    }
}
