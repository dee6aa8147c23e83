//! The front as a table for other programs.

use crate::{FrontReport, PolicyPoint};

/// Columns: policy, label, group, cluster (empty: all prompts), `cluster_label`, n, then
/// `mean_<objective>` and `se_<objective>` per objective, `own_hypervolume`, `non_dominated`. Numbers
/// in full precision; an unknown standard error is empty. RFC 4180 quoting, `\n` line ends.
pub(super) fn front_csv(report: &FrontReport) -> String {
    let names = report.objectives.names();
    let mut header: Vec<String> =
        ["policy", "label", "group", "cluster", "cluster_label", "n"].map(str::to_owned).into();
    header.extend(names.iter().flat_map(|n| [format!("mean_{n}"), format!("se_{n}")]));
    header.extend(["own_hypervolume".to_owned(), "non_dominated".to_owned()]);
    let mut out = line(&header);
    for point in report.points.iter().chain(&report.cluster_points) {
        out += &line(&row(report, point));
    }
    out
}

fn row(report: &FrontReport, point: &PolicyPoint) -> Vec<String> {
    let mut row = vec![
        point.policy.clone(),
        point.label.clone(),
        point.group.name().to_owned(),
        point.cluster.map_or_else(String::new, |c| c.to_string()),
        point.cluster.map_or_else(String::new, |c| report.cluster_labels[c].clone()),
        point.n.to_string(),
    ];
    for k in 0..report.objectives.len() {
        row.push(point.means[k].to_string());
        row.push(point.standard_errors.as_ref().map_or_else(String::new, |e| e[k].to_string()));
    }
    row.push(point.own_hypervolume.to_string());
    row.push(point.non_dominated.to_string());
    row
}

fn line(cells: &[String]) -> String {
    let quoted: Vec<String> = cells
        .iter()
        .map(|cell| {
            if cell.contains([',', '"', '\n', '\r']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.clone()
            }
        })
        .collect();
    quoted.join(",") + "\n"
}

#[cfg(test)]
mod tests {
    #[test]
    fn cells_are_quoted_where_needed() {
        let cells = ["a", "b,c", "d\"e"].map(str::to_owned);
        assert_eq!(super::line(&cells), "a,\"b,c\",\"d\"\"e\"\n");
    }
}
