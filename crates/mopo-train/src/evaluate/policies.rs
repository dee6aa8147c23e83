//! The policies of a run to evaluate: the SFT model, the heads, and mixtures of them.

use mopo_lm::HeadChoice;
use mopo_report::PolicyGroup;

use crate::sample::WORST_CASE;

/// One policy of the comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluatedPolicy {
    /// Unique in its run, e.g. `head-helpful`.
    pub id: String,
    /// A short name for figures and tables.
    pub label: String,
    /// Its part in the comparison.
    pub group: PolicyGroup,
    /// The head that it generates with.
    pub head: HeadChoice,
}

/// The SFT model, the heads of `names`, mixtures of them on the [`simplex_grid`] with `steps`
/// steps, and if asked for, the mixture with the worst weights.
pub fn evaluated_policies(
    names: &[String],
    steps: usize,
    worst_case: bool,
) -> Vec<EvaluatedPolicy> {
    let mut out = vec![EvaluatedPolicy {
        id: "warm-start".into(),
        label: "warm start".into(),
        group: PolicyGroup::Sft,
        head: HeadChoice::Base,
    }];
    for (k, name) in names.iter().enumerate() {
        out.push(EvaluatedPolicy {
            id: format!("head-{name}"),
            label: name.clone(),
            group: PolicyGroup::Head,
            head: HeadChoice::Policy(k),
        });
    }
    for counts in simplex_grid(names.len(), steps) {
        if counts.contains(&steps) {
            continue; // a vertex: the head itself
        }
        let weights: Vec<f32> = counts.iter().map(|&c| c as f32 / steps as f32).collect();
        let text = weights.iter().map(|w| format!("{w:.2}")).collect::<Vec<_>>().join("/");
        out.push(EvaluatedPolicy {
            id: format!("mixture-{}", text.replace('/', "-")),
            label: format!("mix {text}"),
            group: PolicyGroup::Mixture,
            head: HeadChoice::Mixture(weights),
        });
    }
    if worst_case && names.len() > 1 {
        out.push(EvaluatedPolicy {
            id: WORST_CASE.into(),
            label: "worst case".into(),
            group: PolicyGroup::Mixture,
            head: HeadChoice::WorstCase,
        });
    }
    out
}

/// All points of the simplex of `n_parts` weights that are multiples of 1/`steps`, as multiples:
/// all ways to divide `steps` into parts. Empty if `steps` is 0.
pub fn simplex_grid(n_parts: usize, steps: usize) -> Vec<Vec<usize>> {
    if steps == 0 || n_parts == 0 {
        return Vec::new();
    }
    if n_parts == 1 {
        return vec![vec![steps]];
    }
    let mut out = Vec::new();
    for first in (0..=steps).rev() {
        let rest = match steps - first {
            0 => vec![vec![0; n_parts - 1]],
            left => simplex_grid(n_parts - 1, left),
        };
        out.extend(rest.into_iter().map(|r| [vec![first], r].concat()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_covers_the_simplex_and_its_vertices_are_the_heads() {
        assert_eq!(simplex_grid(2, 10).len(), 11);
        assert_eq!(simplex_grid(3, 3).len(), 10);
        assert!(simplex_grid(3, 3).iter().all(|w| w.iter().sum::<usize>() == 3));
        let names: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        let of = |steps| evaluated_policies(&names, steps, false);
        assert_eq!(of(3).len(), 1 + 3 + 7);
        assert_eq!(of(0).len(), 1 + 3);
        assert_eq!(of(1).len(), 1 + 3);
        assert!(evaluated_policies(&[], 3, false).len() == 1);
        let robust = evaluated_policies(&names, 3, true);
        assert_eq!(robust.len(), of(3).len() + 1);
        assert_eq!(robust.last().unwrap().head, HeadChoice::WorstCase);
        // One policy is its own worst case.
        assert_eq!(evaluated_policies(&names[..1], 3, true).len(), 2);
        let mut ids: Vec<String> = of(7).into_iter().map(|policy| policy.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), of(7).len(), "every policy has an id of its own");
    }
}
