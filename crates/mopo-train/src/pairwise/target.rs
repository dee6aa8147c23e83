//! The preference that a pairwise method learns: one objective's, or one made of several.

use std::collections::BTreeMap;

use mopo_core::Objectives;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A preference made of several objectives' labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Combination {
    /// Only the pairs on which all of these objectives prefer the same response (D_∩).
    Agreement(Vec<String>),
    /// The response preferred by the weighted sum of the objectives' preferences, as one hard label
    /// (D_w); preference weights by objective.
    WeightedLabels(BTreeMap<String, f64>),
    /// The weighted sum of the objectives' losses; preference weights by objective.
    WeightedLoss(BTreeMap<String, f64>),
}

/// The two keys of a method's section of which exactly one is present.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PairTarget<'a> {
    /// The section's name.
    pub(crate) section: &'static str,
    pub(crate) objective: Option<&'a str>,
    pub(crate) combination: Option<&'a Combination>,
}

/// The labels of the training pairs.
#[derive(Debug)]
pub(crate) struct PairLabels {
    /// The indicator of each pair; `None`: the pair is left out.
    pub(crate) indicators: Vec<Option<f32>>,
    /// How many pairs are used and why, for people.
    pub(crate) note: String,
}

impl PairTarget<'_> {
    /// Checks the keys, and that the run has the one policy that is trained.
    ///
    /// # Errors
    /// Names the key and what would be accepted.
    pub(crate) fn check(&self, policies: &[String]) -> Result<()> {
        let section = self.section;
        match (self.objective, self.combination) {
            (Some(objective), None) if policies != [objective] => Err(self.error(format!(
                "`policies` is {policies:?}, but {section} trains one policy, that of \
                 `{section}.objective`: write policies = [{objective:?}]"
            ))),
            (Some(_), None) => Ok(()),
            (None, Some(combination)) => {
                combination.check().map_err(|message| {
                    self.error(format!("`{section}.combination`: {message}"))
                })?;
                match policies {
                    [_] => Ok(()),
                    _ => Err(self.error(format!(
                        "`policies` is {policies:?}, but {section} trains one policy: give it one name, such as \
                         policies = [\"{}\"]",
                        combination.name()
                    ))),
                }
            }
            (found, _) => Err(self.error(format!(
                "`{section}.objective` and `{section}.combination` are {}; exactly one of them must be present: the \
                 objective whose labels are learned, or what is made of several",
                if found.is_some() { "both present" } else { "both missing" }
            ))),
        }
    }

    /// The name of the one policy.
    pub(crate) fn policies(&self) -> Option<Vec<String>> {
        let name = self.objective.or_else(|| Some(self.combination?.name()))?;
        Some(vec![name.to_string()])
    }

    /// The labels of pairs with these indicators, `[n_pairs][n_objectives]`.
    ///
    /// # Errors
    /// An unknown objective; no pair is left, or none of those left is decided.
    pub(crate) fn labels(
        &self,
        objectives: &Objectives,
        rows: &[&[Option<f32>]],
    ) -> Result<PairLabels> {
        let place = |e: mopo_core::Error| self.error(e.to_string());
        let n = rows.len();
        let rows = rows.iter();
        let (indicators, note): (Vec<Option<f32>>, _) = match (self.objective, self.combination) {
            (Some(objective), _) => {
                let k = objectives.index_of(objective).map_err(place)?;
                let note = format!("pairs have a label of `{objective}`; the others are skipped");
                (rows.map(|row| row[k]).collect(), note)
            }
            (None, Some(combination)) => {
                let indices = combination.names().map(|name| objectives.index_of(name));
                let indices = indices.collect::<mopo_core::Result<Vec<_>>>().map_err(place)?;
                let indicators = rows.map(|row| {
                    let of = indices.iter().map(|&k| row[k]);
                    combination.indicator(&of.collect::<Vec<_>>())
                });
                (indicators.collect(), combination.note())
            }
            (None, None) => unreachable!("checked with the configuration"),
        };
        let used = indicators.iter().flatten().count();
        if !indicators.iter().flatten().any(|label| *label != 0.5) {
            return Err(self.error(match self.combination {
                Some(Combination::Agreement(names)) => format!(
                    "on none of the {n} training pairs do {} agree: leave one of them out of \
                     `{}.combination`, or use weighted labels",
                    names.join(", "),
                    self.section
                ),
                _ => format!(
                    "{} has no decided training pair (of {n}), so there is nothing to learn: provide labels",
                    self.objective.map_or("the combination".into(), |name| format!("`{name}`"))
                ),
            }));
        }
        Ok(PairLabels { indicators, note: format!("{used} of {n} {note}") })
    }

    fn error(&self, message: String) -> Error {
        Error::Config { origin: format!("`[{}]`", self.section), message }
    }
}

impl Combination {
    /// A name for its policy.
    fn name(&self) -> &'static str {
        match self {
            Self::Agreement(_) => "agreement",
            Self::WeightedLabels(_) | Self::WeightedLoss(_) => "weighted",
        }
    }

    /// The objectives in it, in the order of [`indicator`](Self::indicator).
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Agreement(names) => Box::new(names.iter().map(String::as_str)),
            Self::WeightedLabels(weights) | Self::WeightedLoss(weights) => {
                Box::new(weights.keys().map(String::as_str))
            }
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.names().count() < 2 {
            return Err("it needs at least two objectives; for one use `objective`".into());
        }
        match self {
            Self::Agreement(names) => {
                Objectives::new(names.iter().cloned()).map(drop).map_err(|e| e.to_string())
            }
            Self::WeightedLabels(weights) | Self::WeightedLoss(weights) => check_simplex(weights),
        }
    }

    /// A pair's indicator from those of the objectives in [`names`](Self::names). A pair that lacks a
    /// label of one of them (with a weight above 0) is left out: without it, the preference that is asked
    /// for is not known.
    fn indicator(&self, labels: &[Option<f32>]) -> Option<f32> {
        match self {
            Self::Agreement(_) => {
                let labels: Vec<f32> = labels.iter().copied().collect::<Option<_>>()?;
                let all = |side: fn(f32) -> bool| labels.iter().all(|label| side(*label));
                let agree = all(|label| label > 0.5) || all(|label| label < 0.5);
                agree.then(|| labels.iter().sum::<f32>() / labels.len() as f32)
            }
            Self::WeightedLabels(weights) => {
                let mean = weighted_mean(weights, labels)?;
                // Weights such as 0.3 + 0.2 and 0.5 balance up to rounding, and labels such as 0.1 and 0.9 in f32 too.
                Some(match mean - 0.5 {
                    d if d.abs() < 1e-6 => 0.5,
                    d if d > 0.0 => 1.0,
                    _ => 0.0,
                })
            }
            Self::WeightedLoss(weights) => weighted_mean(weights, labels).map(|mean| mean as f32),
        }
    }

    fn note(&self) -> String {
        match self {
            Self::Agreement(names) => {
                format!(
                    "pairs have labels of {} that agree; the others are skipped",
                    names.join(", ")
                )
            }
            Self::WeightedLabels(_) | Self::WeightedLoss(_) => {
                "pairs have a label of every objective with a weight; the others are skipped".into()
            }
        }
    }
}

fn weighted_mean(weights: &BTreeMap<String, f64>, labels: &[Option<f32>]) -> Option<f64> {
    let used = weights.values().zip(labels).filter(|(weight, _)| **weight > 0.0);
    used.map(|(weight, label)| label.map(|label| weight * f64::from(label))).sum()
}

/// Checks preference weights: none negative, sum 1.
pub(crate) fn check_simplex(weights: &BTreeMap<String, f64>) -> std::result::Result<(), String> {
    let listed =
        || weights.iter().map(|(name, w)| format!("{name} = {w}")).collect::<Vec<_>>().join(", ");
    if weights.values().any(|w| w.is_nan() || *w < 0.0) {
        return Err(format!("preference weights are numbers ≥ 0, but these are {}", listed()));
    }
    if weights.is_empty() {
        return Err("preference weights are missing: give one for each objective, of sum 1".into());
    }
    let sum: f64 = weights.values().sum();
    if (sum - 1.0).abs() > 1e-6 {
        return Err(format!(
            "preference weights have sum 1, but these have {sum} ({}): divide each by it",
            listed()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(of: &[(&str, f64)]) -> BTreeMap<String, f64> {
        of.iter().map(|(name, w)| ((*name).to_string(), *w)).collect()
    }

    #[test]
    fn agreement_keeps_pairs_on_one_side() {
        let both = Combination::Agreement(vec!["a".into(), "b".into()]);
        for (labels, expected) in [
            ([Some(1.0), Some(1.0)], Some(1.0)),
            ([Some(0.0), Some(0.2)], Some(0.1)),
            ([Some(1.0), Some(0.0)], None),
            ([Some(1.0), Some(0.5)], None),
            ([Some(1.0), None], None),
        ] {
            assert_eq!(both.indicator(&labels), expected, "{labels:?}");
        }
    }

    #[test]
    fn weights_make_hard_labels_or_soft_ones() {
        let of = weights(&[("a", 0.7), ("b", 0.3), ("c", 0.0)]);
        let (labels, loss) =
            (Combination::WeightedLabels(of.clone()), Combination::WeightedLoss(of));
        for (row, hard, soft) in [
            ([Some(1.0), Some(0.0), None], Some(1.0), Some(0.7)),
            ([Some(0.0), Some(1.0), Some(1.0)], Some(0.0), Some(0.3)),
            ([Some(0.5), Some(0.5), None], Some(0.5), Some(0.5)),
            // Without the label of an objective that counts the preference is unknown.
            ([Some(1.0), None, Some(1.0)], None, None),
        ] {
            assert_eq!(labels.indicator(&row), hard, "{row:?}");
            let found = loss.indicator(&row);
            assert!(
                found.zip(soft).is_some_and(|(a, b)| (a - b).abs() < 1e-6) || found == soft,
                "{row:?}: {found:?}"
            );
        }
        // Balanced weights are a tie whatever their rounding.
        let even = Combination::WeightedLabels(weights(&[("a", 0.3), ("b", 0.2), ("c", 0.5)]));
        assert_eq!(even.indicator(&[Some(1.0), Some(1.0), Some(0.0)]), Some(0.5));
        // And labels.
        let half = Combination::WeightedLabels(weights(&[("a", 0.5), ("b", 0.5)]));
        for label in [0.1, 0.3, 0.45] {
            assert_eq!(half.indicator(&[Some(label), Some(1.0 - label)]), Some(0.5), "{label}");
        }
        assert_eq!(half.indicator(&[Some(0.1), Some(0.90001)]), Some(1.0));
    }

    #[test]
    fn weights_off_the_simplex_and_wrong_policies_are_refused() {
        for (of, expected) in [
            (&[("a", 0.7), ("b", 0.4)][..], "sum 1"),
            (&[("a", 1.5), ("b", -0.5)], "≥ 0"),
            (&[("a", f64::NAN), ("b", 0.5)], "≥ 0"),
            (&[("a", 1.0)], "at least two"),
        ] {
            let e = Combination::WeightedLoss(weights(of)).check().unwrap_err();
            assert!(e.contains(expected), "{of:?}: {e}");
        }
        let target = |objective, combination| PairTarget { section: "dpo", objective, combination };
        let both = Combination::Agreement(vec!["a".into(), "b".into()]);
        let policies = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(target(Some("a"), None).check(&policies(&["a"])).is_ok());
        assert!(target(None, Some(&both)).check(&policies(&["safe"])).is_ok());
        for (objective, combination, names, expected) in [
            (Some("a"), None, &["b"][..], "policies = [\"a\"]"),
            (None, Some(&both), &["a", "b"], "policies = [\"agreement\"]"),
            (None, None, &["a"], "both missing"),
            (Some("a"), Some(&both), &["a"], "both present"),
        ] {
            let e = target(objective, combination).check(&policies(names)).unwrap_err();
            assert!(e.to_string().contains(expected), "{e}");
        }
    }
}
