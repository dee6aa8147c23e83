//! Which linear layers an adapter changes, and with which rank and scale: PEFT's rules on the names of
//! modules.

use std::fmt;

use fancy_regex::Regex;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::LoraConfig;
use crate::{DecoderShape, Error, Result};

/// Every linear layer of the blocks.
const ALL_LINEAR: &str = "all-linear";

/// Target layers by the names of their modules, such as `model.layers.0.self_attn.q_proj`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// `"all-linear"`, or a regular expression that matches the whole name.
    Pattern(String),
    /// Names, or their last parts: `q_proj`, `mlp.down_proj`.
    Names(Vec<String>),
}

impl TargetModules {
    /// Every linear layer of the blocks.
    pub fn all_linear() -> Self {
        Self::Pattern(ALL_LINEAR.into())
    }

    /// From names or last parts of names.
    pub fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Names(names.into_iter().map(Into::into).collect())
    }

    /// As PEFT saves it: a list, unless it is an expression.
    pub(crate) fn listed(&self, model: &DecoderShape) -> Self {
        match self.is_all() {
            false => self.clone(),
            true => {
                let ends = model.linears.iter().map(|linear| linear.path.rsplit('.').next());
                let mut names: Vec<&str> = ends.flatten().collect();
                names.sort_unstable();
                Self::names(names)
            }
        }
    }

    /// Whether all linear layers are meant, as PEFT reads it.
    fn is_all(&self) -> bool {
        matches!(self, Self::Pattern(pattern) if pattern.to_lowercase() == ALL_LINEAR)
    }
}

impl fmt::Display for TargetModules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(pattern) => write!(f, "{pattern:?}"),
            Self::Names(names) => write!(f, "{names:?}"),
        }
    }
}

impl<'de> Deserialize<'de> for TargetModules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = TargetModules;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of modules, \"all-linear\" or a regular expression")
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<TargetModules, E> {
                Ok(TargetModules::Pattern(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<TargetModules, A::Error> {
                let mut names = vec![];
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(TargetModules::Names(names))
            }
        }
        deserializer.deserialize_any(Names)
    }
}

/// The update of one linear layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Update {
    pub(crate) rank: usize,
    pub(crate) scale: f64,
}

/// The name of a block's linear layer.
pub(crate) fn module_name(block: usize, path: &str) -> String {
    format!("model.layers.{block}.{path}")
}

/// A regular expression of one of the fields, anchored by `before` and `after`.
fn compiled(field: &'static str, pattern: &str, [before, after]: [&str; 2]) -> Result<Regex> {
    Regex::new(&format!("{before}{pattern}{after}")).map_err(|e| invalid(field, pattern, &e))
}

fn invalid(field: &'static str, pattern: &str, reason: &dyn fmt::Display) -> Error {
    Error::InvalidParameter {
        field,
        value: format!("{pattern:?}"),
        expected: format!("it must be a regular expression: {reason}"),
    }
}

/// The value of the first pattern that matches a module's name or its end, as in PEFT.
struct Patterns<'a, T> {
    field: &'static str,
    all: Vec<(Regex, &'a str, &'a T)>,
}

impl<'a, T> Patterns<'a, T> {
    fn new(
        field: &'static str,
        patterns: impl Iterator<Item = (&'a String, &'a T)>,
    ) -> Result<Self> {
        let all = patterns.map(|(pattern, value)| {
            let ends = [r"^(?:.*\.)?(?:", ")$"];
            Ok((compiled(field, pattern, ends)?, pattern.as_str(), value))
        });
        Ok(Self { field, all: all.collect::<Result<_>>()? })
    }

    fn of(&self, module: &str) -> Result<Option<&'a T>> {
        for (regex, pattern, value) in &self.all {
            if matches(self.field, regex, pattern, module)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

fn matches(field: &'static str, regex: &Regex, pattern: &str, module: &str) -> Result<bool> {
    regex.is_match(module).map_err(|e| invalid(field, pattern, &e))
}

impl LoraConfig {
    /// The updates of every linear layer of every block, in the shape's order.
    ///
    /// # Errors
    /// A name or a pattern that no layer has, with the names that there are; an invalid regular
    /// expression.
    pub(crate) fn updates(&self, model: &DecoderShape) -> Result<Vec<Vec<Option<Update>>>> {
        const FIELD: &str = "lora.target_modules";
        let whole = match &self.target_modules {
            TargetModules::Pattern(pattern) if !self.target_modules.is_all() => {
                Some((compiled(FIELD, pattern, ["^(?:", ")$"])?, pattern.as_str()))
            }
            _ => None,
        };
        let ranks = Patterns::new("lora.rank_pattern", self.rank_pattern.iter())?;
        let alphas = Patterns::new("lora.alpha_pattern", self.alpha_pattern.iter())?;
        let mut used = vec![false; self.names().len()];
        let mut is_target = |module: &str| match (&self.target_modules, &whole) {
            (_, Some((regex, pattern))) => matches(FIELD, regex, pattern, module),
            (TargetModules::Names(names), _) => {
                let mut found = false;
                for (name, used) in names.iter().zip(&mut used) {
                    let end = module.strip_suffix(name.as_str());
                    if end.is_some_and(|start| start.is_empty() || start.ends_with('.')) {
                        (found, *used) = (true, true);
                    }
                }
                Ok(found)
            }
            (TargetModules::Pattern(_), None) => Ok(true),
        };
        let mut all = vec![];
        for block in 0..model.num_hidden_layers {
            let mut updates = vec![];
            for linear in &model.linears {
                let module = module_name(block, &linear.path);
                updates.push(match is_target(&module)? {
                    false => None,
                    true => {
                        let rank = *ranks.of(&module)?.unwrap_or(&self.rank);
                        let alpha = *alphas.of(&module)?.unwrap_or(&self.alpha);
                        Some(Update { rank, scale: self.scale_of(rank, alpha) })
                    }
                });
            }
            all.push(updates);
        }
        let unused = self.names().iter().zip(&used).find(|(_, used)| !**used);
        let nothing = all.iter().flatten().all(Option::is_none);
        if nothing || unused.is_some() {
            let paths: Vec<&str> = model.linears.iter().map(|linear| &*linear.path).collect();
            let value = unused.map_or(self.target_modules.to_string(), |(n, _)| format!("{n:?}"));
            return Err(Error::InvalidParameter {
                field: FIELD,
                value,
                expected: format!(
                    "no linear layer of the model's {} blocks has such a name; they are: {}; \
                     \"all-linear\" takes all of them",
                    model.num_hidden_layers,
                    paths.join(", ")
                ),
            });
        }
        Ok(all)
    }

    /// The ranks of the first block's updates, in the shape's order; 0 for a layer that is no target.
    pub fn ranks(&self, model: &DecoderShape) -> Vec<usize> {
        let updates = self.updates(model).unwrap_or_default();
        let first = updates.into_iter().next().unwrap_or_default();
        first.into_iter().map(|update| update.map_or(0, |update| update.rank)).collect()
    }

    /// The listed names.
    fn names(&self) -> &[String] {
        match &self.target_modules {
            TargetModules::Names(names) => names,
            TargetModules::Pattern(_) => &[],
        }
    }

    /// Checks what can be checked without a model.
    pub(super) fn check_targets(&self) -> Result<()> {
        let names = self.names();
        let is_doubled = |i: usize| names[..i].contains(&names[i]);
        let is_listed = matches!(self.target_modules, TargetModules::Names(_));
        if is_listed && (names.is_empty() || (0..names.len()).any(is_doubled)) {
            return Err(Error::InvalidParameter {
                field: "lora.target_modules",
                value: self.target_modules.to_string(),
                expected: "it must name at least one linear layer, each once, or be \"all-linear\""
                    .into(),
            });
        }
        if let TargetModules::Pattern(pattern) = &self.target_modules {
            compiled("lora.target_modules", pattern, ["^(?:", ")$"])?;
        }
        Patterns::new("lora.rank_pattern", self.rank_pattern.iter())?;
        Patterns::new("lora.alpha_pattern", self.alpha_pattern.iter())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn ranks(config: &LoraConfig) -> Vec<Vec<usize>> {
        let updates = config.updates(&fixtures::tiny().shape()).unwrap();
        let rank = |update: &Option<Update>| update.map_or(0, |update| update.rank);
        updates.iter().map(|block| block.iter().map(rank).collect()).collect()
    }

    fn with(target_modules: TargetModules) -> LoraConfig {
        LoraConfig { rank: 4, alpha: 8.0, target_modules, ..Default::default() }
    }

    #[test]
    fn targets_are_chosen_by_name_suffix_or_expression() {
        let all = vec![vec![4; 6]; 2];
        assert_eq!(ranks(&with(TargetModules::all_linear())), all);
        assert_eq!(ranks(&with(TargetModules::Pattern("ALL-Linear".into()))), all);
        let some = with(TargetModules::names(["fc2", "self_attn.q_proj"]));
        assert_eq!(ranks(&some), [[4, 0, 0, 0, 0, 4]; 2]);
        let one = with(TargetModules::names(["model.layers.1.mlp.fc1"]));
        assert_eq!(ranks(&one), [[0; 6], [0, 0, 0, 0, 4, 0]]);
        let regex = with(TargetModules::Pattern(r".*layers\.0\.(?!mlp).*_proj".into()));
        assert_eq!(ranks(&regex), [[4, 4, 4, 0, 0, 0], [0; 6]]);
    }

    #[test]
    fn ranks_and_alphas_follow_the_first_pattern_that_matches() {
        let config = LoraConfig {
            rank_pattern: [("fc1".into(), 2), (r".*\.0\..*".into(), 3)].into_iter().collect(),
            alpha_pattern: [("self_attn.q_proj".into(), 1.0)].into_iter().collect(),
            use_rslora: true,
            ..with(TargetModules::all_linear())
        };
        assert_eq!(ranks(&config), [[3, 3, 3, 3, 2, 3], [4, 4, 4, 4, 2, 4]]);
        let updates = config.updates(&fixtures::tiny().shape()).unwrap();
        assert_eq!(updates[0][0].unwrap().scale, 1.0 / 3f64.sqrt());
        assert_eq!(updates[1][4].unwrap().scale, 8.0 / 2f64.sqrt());
        let plain = LoraConfig { use_rslora: false, ..config };
        let updates = plain.updates(&fixtures::tiny().shape()).unwrap();
        assert_eq!(updates[1][4].unwrap().scale, 4.0);
    }

    #[test]
    fn what_no_layer_has_is_refused_with_the_names_that_there_are() {
        let shape = fixtures::tiny().shape();
        for targets in [
            TargetModules::names(["q_proj", "gate_proj"]),
            TargetModules::names(["proj"]),
            TargetModules::Pattern("q_proj".into()),
        ] {
            let error = with(targets).updates(&shape).unwrap_err().to_string();
            assert!(error.contains("self_attn.dense, mlp.fc1"), "{error}");
        }
        let error = with(TargetModules::Pattern("(".into())).check().unwrap_err().to_string();
        assert!(error.contains("regular expression"), "{error}");
    }
}
