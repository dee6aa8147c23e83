//! The page's tables. On a phone each row becomes a block of lines, by the cells' labels.

use std::fmt::Write;

use super::words::{self, percent};
use crate::plot::{escape, short, short_error, signed};
use crate::{Estimate, FrontReport, PolicyPoint, SetRef};

/// Mean scores with standard errors, then average z-scores: the table of the paper.
pub(super) fn policies(report: &FrontReport) -> String {
    let names = &report.objectives;
    let mut out = String::from(
        "<table class=\"rows\">\n<thead><tr><th>policy</th><th class=\"left\">kind</th>",
    );
    for name in names {
        let _ = write!(out, "<th>{}</th>", escape(name));
    }
    out.push_str("<th>own hypervolume</th><th>on the front</th></tr></thead>\n<tbody>\n");
    let best = maxima(report.points.iter().map(|p| &p.means));
    for point in &report.points {
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"left\" data-label=\"kind\">{}</td>",
            escape(&point.label),
            point.group.name()
        );
        means(&mut out, report, point, &best);
        let on_front = if point.non_dominated { "yes" } else { "no" };
        let _ = writeln!(
            out,
            "<td data-label=\"own hypervolume\">{}</td><td data-label=\"on the front\">{on_front}</td></tr>",
            short(point.own_hypervolume)
        );
    }
    let _ = writeln!(
        out,
        "</tbody></table>\n<p class=\"muted\">Mean score ± standard error over {} prompts; \
         larger is better, the best of a column is bold. A policy is on the front if no other one \
         is at least as good on every objective and better on one.</p>",
        report.n_prompts
    );
    z_scores(&mut out, report);
    out
}

fn z_scores(out: &mut String, report: &FrontReport) {
    out.push_str("<h3>Average z-scores</h3>\n<table class=\"rows\">\n<thead><tr><th>policy</th>");
    for name in &report.objectives {
        let _ = write!(out, "<th>{}</th>", escape(name));
    }
    out.push_str("<th>mean</th></tr></thead>\n<tbody>\n");
    let rows: Vec<Vec<Option<f64>>> = report
        .points
        .iter()
        .map(|point| {
            let known: Option<Vec<f64>> = point.z_scores.iter().copied().collect();
            let mean = known.map(|z| z.iter().sum::<f64>() / z.len() as f64);
            point.z_scores.iter().copied().chain([mean]).collect()
        })
        .collect();
    let n_columns = report.objectives.len() + 1;
    let best: Vec<f64> = (0..n_columns)
        .map(|c| rows.iter().filter_map(|r| r[c]).fold(f64::NEG_INFINITY, f64::max))
        .collect();
    for (point, row) in report.points.iter().zip(&rows) {
        let _ = write!(out, "<tr><td>{}</td>", escape(&point.label));
        for (c, z) in row.iter().enumerate() {
            let label = report.objectives.get(c).map_or("mean", String::as_str);
            let class = if *z == Some(best[c]) { " class=\"best\"" } else { "" };
            let text = z.map_or_else(|| "–".into(), signed);
            let _ = write!(out, "<td{class} data-label=\"{}\">{text}</td>", escape(label));
        }
        out.push_str("</tr>\n");
    }
    out.push_str(
        "</tbody></table>\n<p class=\"muted\">(mean score − mean) / standard deviation, counted in:\
         </p>\n<ul class=\"muted\">\n",
    );
    for s in &report.statistics {
        let n = s.n.map_or_else(String::new, |n| format!(" of {n} scores"));
        let none = if s.std > 0.0 {
            ""
        } else {
            ". All these scores are equal, so there are no z-scores; give other statistics"
        };
        let _ = writeln!(
            out,
            "<li>{}: mean {}, deviation {}{n}: {}{none}.</li>",
            escape(&s.objective),
            short(s.mean),
            short(s.std),
            escape(&s.source)
        );
    }
    out.push_str("</ul>\n");
}

fn means(out: &mut String, report: &FrontReport, point: &PolicyPoint, best: &[f64]) {
    for (k, &mean) in point.means.iter().enumerate() {
        let class = if mean == best[k] { " class=\"best\"" } else { "" };
        let name = escape(&report.objectives[k]);
        let _ = write!(out, "<td{class} data-label=\"{name}\">{}", short(mean));
        if let Some(errors) = &point.standard_errors {
            let _ = write!(out, " <small>± {}</small>", short_error(errors[k], mean));
        }
        out.push_str("</td>");
    }
}

fn maxima<'a>(rows: impl Iterator<Item = &'a Vec<f64>>) -> Vec<f64> {
    rows.fold(Vec::new(), |best, row| {
        if best.is_empty() {
            return row.clone();
        }
        best.iter().zip(row).map(|(a, &b)| a.max(b)).collect()
    })
}

/// Hypervolume, IGD+ and additive epsilon of each set, and the differences of hypervolumes.
pub(super) fn sets(report: &FrontReport) -> String {
    let level = percent(report.config.confidence);
    let mut out = String::from(
        "<table class=\"rows\">\n<thead><tr><th>set</th><th>policies</th><th>hypervolume ↑</th>\
         <th>IGD+ ↓</th><th>additive ε ↓</th></tr></thead>\n<tbody>\n",
    );
    for quality in &report.sets {
        let _ = write!(
            out,
            "<tr><td>{}</td><td data-label=\"policies\">{}</td>",
            escape(&quality.of.name()),
            quality.n_policies
        );
        for (label, estimate) in [
            ("hypervolume ↑", Some(quality.hypervolume)),
            ("IGD+ ↓", quality.igd_plus),
            ("additive ε ↓", quality.epsilon),
        ] {
            let _ = write!(out, "<td data-label=\"{label}\">{}</td>", estimated(estimate));
        }
        out.push_str("</tr>\n");
    }
    let distances = if report.sets.iter().any(|q| q.igd_plus.is_some()) {
        "IGD+ is the mean distance by which a set stays behind the front of all policies compared \
         here, the additive ε the largest such distance, both in standard deviations of the scores \
         (those of the z-scores); smaller is better, and 0 means that the set has the whole front. \
         They depend on what is compared, and hold on this page alone."
    } else {
        "There are no z-scores for some objective, and so no IGD+ and no additive ε, which add up \
         distances of several objectives."
    };
    let _ = writeln!(
        out,
        "</tbody></table>\n<p class=\"muted\">In brackets: {level} interval of the paired bootstrap \
         over prompts. {distances}</p>"
    );
    differences(&mut out, report);
    out
}

fn estimated(estimate: Option<Estimate>) -> String {
    let Some(Estimate { value, interval }) = estimate else { return "–".into() };
    let range = interval.map_or_else(String::new, |i| {
        format!(" <small>({} to {})</small>", short(i.low), short(i.high))
    });
    format!("{}{range}", short(value))
}

fn differences(out: &mut String, report: &FrontReport) {
    if report.differences.is_empty() {
        return;
    }
    out.push_str(
        "<h3>Who has the larger hypervolume</h3>\n<table class=\"rows\">\n<thead><tr><th>first</th>\
         <th class=\"left\">second</th><th>first − second</th><th>P(first is larger)</th>\
         <th>P(second is larger)</th></tr></thead>\n<tbody>\n",
    );
    let name = |of: &SetRef| escape(&of.name());
    for d in &report.differences {
        let estimate = Estimate { value: d.value, interval: Some(d.interval) };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"left\" data-label=\"against\">{}</td>\
             <td data-label=\"first − second\">{}</td><td data-label=\"P(first is larger)\">{}</td>\
             <td data-label=\"P(second is larger)\">{}</td></tr>",
            name(&d.of),
            name(&d.minus),
            estimated(Some(estimate)),
            words::probability(d.probability_positive),
            words::probability(d.probability_negative)
        );
    }
    let _ = writeln!(
        out,
        "</tbody></table>\n<p class=\"muted\">P: dominance probability, the share of {} resamples of \
         the prompts in which that set's front has the larger hypervolume. It covers the choice of \
         prompts and the sampled responses, not another training run.</p>",
        report.config.n_resamples
    );
}

/// Every mean of every cluster.
pub(super) fn clusters(out: &mut String, report: &FrontReport) {
    out.push_str(
        "<details><summary>The same in numbers</summary>\n<table class=\"rows\">\n<thead><tr>\
         <th>policy</th><th class=\"left\">prompts about</th><th>prompts</th>",
    );
    for name in &report.objectives {
        let _ = write!(out, "<th>{}</th>", escape(name));
    }
    out.push_str("<th>own hypervolume</th></tr></thead>\n<tbody>\n");
    let n_policies = report.points.len();
    for (label, points) in
        report.cluster_labels.iter().zip(report.cluster_points.chunks(n_policies))
    {
        let best = maxima(points.iter().map(|p| &p.means));
        for point in points {
            let _ = write!(
                out,
                "<tr><td>{}</td><td class=\"left\" data-label=\"prompts about\">{}</td>\
                 <td data-label=\"prompts\">{}</td>",
                escape(&point.label),
                escape(label),
                point.n
            );
            means(out, report, point, &best);
            let _ = writeln!(
                out,
                "<td data-label=\"own hypervolume\">{}</td></tr>",
                short(point.own_hypervolume)
            );
        }
    }
    out.push_str("</tbody></table></details>\n");
}
