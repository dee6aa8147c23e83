//! What runs are trained with, and that it is the same for all.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};

use super::plan::Method;

/// Responses in all batches of a run.
pub(super) fn responses(config: &toml::Table, method: &Method) -> i64 {
    let of = |key: &str| {
        let value = config.get("training").and_then(|training| training.get(key));
        value.and_then(toml::Value::as_integer).unwrap_or(0)
    };
    of("steps") * of("batch_size") * of("gradient_accumulation_steps") * method.responses
}

/// By how much the tokens of two runs may differ, as a share: batches of a method are drawn on their own, and pairs without
/// a label that it needs are left out.
const TOKEN_TOLERANCE: f64 = 0.1;

/// What a run is trained with.
pub(super) struct Budget {
    /// The run, for errors.
    name: String,
    config: toml::Table,
    responses: i64,
    /// Tokens of differentiated passes, if the run recorded them.
    pub(super) tokens: Option<f64>,
    /// Why they cannot be those of the others, if so.
    other_tokens: Option<String>,
}

impl Budget {
    pub(super) fn of(
        name: String,
        config: toml::Table,
        tokens: Option<f64>,
        method: &Method,
    ) -> Self {
        let responses = responses(&config, method);
        Self { name, config, responses, tokens, other_tokens: method.other_tokens.clone() }
    }

    /// Whether its tokens should be those of others.
    pub(super) fn is_usual(&self) -> bool {
        self.other_tokens.is_none() && self.tokens.is_some()
    }

    /// The tokens of another run with the same seed, as a multiple of this one's, where both are known. Where the study
    /// does not say why they cannot be equal, they are.
    ///
    /// # Errors
    /// They differ.
    pub(super) fn token_ratio(&self, other: &Self) -> Result<Option<f64>> {
        let Some((own, others)) = self.tokens.zip(other.tokens) else { return Ok(None) };
        let ratio = others / own;
        ensure!(
            other.other_tokens.is_some() || (ratio - 1.0).abs() <= TOKEN_TOLERANCE,
            "the budgets differ: {} was trained on {own} tokens, and {} on {others}, which is more than {} % away; change \
             the overrides of single methods, or say in the method's `other_tokens` why it cannot be otherwise",
            self.name,
            other.name,
            100.0 * TOKEN_TOLERANCE
        );
        Ok(Some(ratio))
    }

    /// Checks that another run has the same: data, adapter, steps, responses, and what it is evaluated with.
    ///
    /// # Errors
    /// Names what differs.
    pub(super) fn same(&self, other: &Self) -> Result<()> {
        const KEYS: [&[&str]; 6] = [
            &["lora"],
            &["data"],
            &["training", "steps"],
            &["training", "warmup_steps"],
            &["training", "max_grad_norm"],
            &["evaluation"],
        ];
        let differ = |what: &str, a: &dyn std::fmt::Display, b: &dyn std::fmt::Display| {
            anyhow!(
                "the budgets differ: {what} of {} is {a}, and of {} {b}; change the overrides of single methods",
                self.name,
                other.name
            )
        };
        for path in KEYS {
            let of = |table: &toml::Table| {
                let mut value = toml::Value::Table(table.clone());
                for key in path {
                    value = value.get(key).cloned().unwrap_or(toml::Value::Boolean(false));
                }
                value
            };
            let (a, b) = (of(&self.config), of(&other.config));
            ensure!(a == b, differ(&format!("`{}`", path.join(".")), &a, &b));
        }
        ensure!(
            self.responses == other.responses,
            differ("the number of responses in all batches", &self.responses, &other.responses)
        );
        Ok(())
    }
}

/// Tokens that a run's training took, as it recorded them; `Null` if it did not.
pub(super) fn tokens(run: &Path) -> Result<serde_json::Value> {
    let path = run.join("result.json");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let result: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    Ok(result["tokens"].clone())
}

/// A run's configuration.
pub(super) fn config(run: &Path) -> Result<toml::Table> {
    let path = run.join("config.toml");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.parse().with_context(|| format!("{} is damaged", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: &str = "name = \"x\"\nkind = \"dpo\"";

    #[test]
    fn runs_of_another_size_are_refused() {
        let method = |responses| Method {
            responses,
            ..METHOD.parse::<toml::Table>().unwrap().try_into().unwrap()
        };
        let budget = |training: &str, responses| {
            let text = format!(
                "[lora]\nrank = 4\n[training]\ngradient_accumulation_steps = 1\n{training}"
            );
            Budget::of("x".into(), text.parse().unwrap(), None, &method(responses))
        };
        let first = budget("steps = 3\nbatch_size = 16\nlearning_rate = 1.0", 2);
        first.same(&budget("steps = 3\nbatch_size = 4\nlearning_rate = 2.0", 8)).unwrap();
        for (other, words) in [
            (budget("steps = 4\nbatch_size = 12", 2), "`training.steps` of x is 3"),
            (budget("steps = 3\nbatch_size = 16", 8), "responses in all batches of x is 96"),
        ] {
            let error = first.same(&other).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn tokens_are_equal_unless_the_study_says_why_not() {
        let usual: Method = METHOD.parse::<toml::Table>().unwrap().try_into().unwrap();
        let other = Method { other_tokens: Some("it samples".into()), ..usual.clone() };
        let budget = |tokens, method| Budget::of("x".into(), toml::Table::new(), tokens, method);
        let first = budget(Some(1000.0), &usual);
        assert!(first.is_usual() && !budget(Some(9.0), &other).is_usual());
        assert_eq!(first.token_ratio(&budget(Some(1090.0), &usual)).unwrap(), Some(1.09));
        assert_eq!(first.token_ratio(&budget(Some(3000.0), &other)).unwrap(), Some(3.0));
        assert_eq!(first.token_ratio(&budget(None, &usual)).unwrap(), None);
        let error = first.token_ratio(&budget(Some(890.0), &usual)).unwrap_err().to_string();
        assert!(error.contains("1000") && error.contains("other_tokens"), "{error}");
    }
}
