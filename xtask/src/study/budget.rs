//! What runs are trained with, and that it is the same for all.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};

use super::Study;
use super::plan::{Filled, Method};

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
#[derive(Debug, Clone)]
pub(super) struct Budget {
    /// The run, for errors.
    name: String,
    config: toml::Table,
    responses: i64,
    /// Tokens of differentiated passes, if the run recorded them.
    pub(super) tokens: Option<f64>,
    /// Why they cannot be those of the others, if so.
    other_tokens: Option<String>,
    /// Why others are trained than an adapter's parameters, if so.
    other_parameters: Option<String>,
}

impl Study {
    /// Refuses overrides that make another budget than the first method's, before any run is trained. `base` is the
    /// configuration of an SFT model's run, which has everything but the methods' own sections.
    pub(super) fn check_overrides(&self, base: &toml::Table) -> Result<()> {
        let mut first: Option<Budget> = None;
        for method in self.plan.methods.iter().filter(|method| !method.tries.is_empty()) {
            for (i, tried) in method.tried(self.plan.size.n_tries).iter().enumerate() {
                for part in self.plan.parts(method) {
                    // Which runs these are makes no difference here.
                    let runs = |_: &str| Ok(BTreeMap::new());
                    let filled =
                        Filled { objectives: &self.plan.objectives, part: &part, runs: &runs };
                    let mut config = base.clone();
                    assign(&mut config, "training.steps=1");
                    for set in method.set.iter().chain(tried) {
                        assign(&mut config, &filled.fill(set)?);
                    }
                    let name = format!("`{}`, try {}", method.name, i + 1);
                    let this = Budget::of(name, config, None, method);
                    match &first {
                        None => first = Some(this),
                        Some(first) => first.same_size(&this)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Refuses a trained run that trains other parameters than the first one of the study: before more are trained, since
    /// only a run's own configuration says what its method trains.
    pub(super) fn check_trained(&self, method: &Method, run: &Path) -> Result<()> {
        if method.tries.is_empty() {
            return Ok(());
        }
        let this = Budget::of(self.shown(run), config(run)?, None, method);
        let mut first = self.first.lock().expect("no thread panics with it");
        first.get_or_insert_with(|| this.clone()).same_parameters(&this)
    }
}

/// Sets `key.path=value` as a run does; what is no such thing is left to the run.
fn assign(config: &mut toml::Table, set: &str) {
    let Some((path, value)) = set.split_once('=') else { return };
    let parsed = format!("x = {value}").parse::<toml::Table>().ok();
    let value = parsed.and_then(|mut table| table.remove("x"));
    let value = value.unwrap_or_else(|| toml::Value::String(set.into()));
    let mut at = config;
    let mut keys = path.trim().split('.').peekable();
    while let Some(key) = keys.next() {
        if keys.peek().is_none() {
            at.insert(key.into(), value);
            return;
        }
        let table = || toml::Value::Table(toml::Table::new());
        let Some(next) = at.entry(key).or_insert_with(table).as_table_mut() else { return };
        at = next;
    }
}

/// What a run trains besides one adapter, in words: output layers, or adapters of policies of their own. A method whose
/// section does not say whether an output layer is trained trains one for each policy.
fn trained_besides(config: &toml::Table) -> Vec<String> {
    let own_adapters = config.get("adapters").is_some_and(|a| a.as_str() == Some("per_policy"));
    let kind = config.get("method").and_then(|method| method.get("kind")?.as_str());
    let section = kind.and_then(|kind| config.get(kind)?.as_table());
    let left_out = config.get("train_heads").is_some_and(|heads| heads.as_bool() == Some(false));
    let heads = match section.map(|section| section.get("train_head")) {
        _ if left_out => false,
        Some(Some(train_head)) => train_head.as_bool() == Some(true),
        Some(None) => true,
        // Nothing is known of it.
        None => false,
    };
    let rank = config.get("head_rank").map(|rank| format!(" as updates of rank {rank}"));
    let heads = heads.then(|| format!("output layers{}", rank.unwrap_or_default()));
    let adapters = own_adapters.then(|| "an adapter for each policy".to_string());
    heads.into_iter().chain(adapters).collect()
}

impl Budget {
    pub(super) fn of(
        name: String,
        config: toml::Table,
        tokens: Option<f64>,
        method: &Method,
    ) -> Self {
        Self {
            responses: responses(&config, method),
            other_tokens: method.other_tokens.clone(),
            other_parameters: method.other_parameters.clone(),
            name,
            config,
            tokens,
        }
    }

    /// What it trains besides one adapter, and why.
    pub(super) fn parameters(&self) -> Option<String> {
        let besides = trained_besides(&self.config);
        let why = self.other_parameters.as_ref().filter(|_| !besides.is_empty())?;
        Some(format!("{} ({why})", besides.join(" and ")))
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

    /// Checks that another run has the same: [size](Self::same_size) and [trained parameters](Self::same_parameters).
    ///
    /// # Errors
    /// Names what differs.
    pub(super) fn same(&self, other: &Self) -> Result<()> {
        self.same_parameters(other)?;
        self.same_size(other)
    }

    /// Checks that another run trains the same parameters, or that the study says why one of them trains others.
    ///
    /// # Errors
    /// Names what differs.
    fn same_parameters(&self, other: &Self) -> Result<()> {
        let said = |run: &Self| match &trained_besides(&run.config)[..] {
            [] => "nothing".to_string(),
            besides => besides.join(" and "),
        };
        let is_explained =
            |run: &Self| run.other_parameters.is_some() || trained_besides(&run.config).is_empty();
        let differ = said(self) != said(other) && !(is_explained(self) && is_explained(other));
        ensure!(
            !differ,
            "the budgets differ: {} trains {} besides its adapter, and {} {}; change the overrides of single methods, or \
             say in the method's `other_parameters` why it cannot be otherwise",
            self.name,
            said(self),
            other.name,
            said(other)
        );
        Ok(())
    }

    /// Checks that another run has the same data, adapter, steps, responses, and is evaluated alike.
    ///
    /// # Errors
    /// Names what differs.
    pub(super) fn same_size(&self, other: &Self) -> Result<()> {
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
    fn other_parameters_are_refused_unless_the_study_says_why() {
        let usual: Method = METHOD.parse::<toml::Table>().unwrap().try_into().unwrap();
        let other = Method { other_parameters: Some("it must".into()), ..usual.clone() };
        let run = |text: &str, method| Budget::of("x".into(), text.parse().unwrap(), None, method);
        let adapter = "[method]\nkind = \"dpo\"\n[dpo]\ntrain_head = false";
        let head = "[method]\nkind = \"dpo\"\n[dpo]\ntrain_head = true";
        let heads = "head_rank = 4\n[method]\nkind = \"mopo\"\n[mopo]\ntau = 0.2";
        let first = run(adapter, &usual);
        first.same(&run(adapter, &usual)).unwrap();
        first.same(&run(heads, &other)).unwrap();
        assert_eq!(first.parameters(), None);
        assert_eq!(
            run(heads, &other).parameters().unwrap(),
            "output layers as updates of rank 4 (it must)"
        );
        let error = first.same(&run(head, &usual)).unwrap_err().to_string();
        assert!(error.contains("trains nothing") && error.contains("other_parameters"), "{error}");
        let own = "adapters = \"per_policy\"\n[method]\nkind = \"dpo\"\n[dpo]\ntrain_head = false";
        assert!(first.same(&run(own, &usual)).is_err());
        let none = format!("train_heads = false\nadapters = \"per_policy\"\n{}", &heads[14..]);
        assert_eq!(
            run(&none, &other).parameters().unwrap(),
            "an adapter for each policy (it must)"
        );
    }

    #[test]
    fn overrides_are_set_as_runs_set_them() {
        let mut config: toml::Table = "[lora]\nrank = 16".parse().unwrap();
        for set in ["lora.rank=4", "mopo.tau=0.2", "name=my run", "lora.rank.x=1", "nothing"] {
            assign(&mut config, set);
        }
        let expected = "name = \"name=my run\"\n[lora]\nrank = 4\n[mopo]\ntau = 0.2";
        assert_eq!(config, expected.parse().unwrap());
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
