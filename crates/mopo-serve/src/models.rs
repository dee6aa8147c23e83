//! Names of models: `run`, `run:helpful`, `run:sft`, `run@helpful=0.6,harmless=0.4`; and preference weights.

use axum::http::StatusCode;
use mopo_core::divergence::Divergence;
use mopo_lm::HeadChoice;
use serde_json::{Map, Value};

use crate::engine::ModelInfo;
use crate::error::ApiError;
use crate::fields::{Fields, shortened, wrong_type};

/// How far a sum of weights may be from 1, and counts as rounded.
const TOLERANCE: f64 = 1e-3;
const SFT: &str = "sft";
const WORST_CASE: &str = "worst-case";

/// The names under which one model is served.
#[derive(Debug, Clone)]
pub(crate) struct Models {
    pub(crate) name: String,
    pub(crate) info: ModelInfo,
}

/// What a request asks of the model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    /// The name as it was given, for the response.
    pub(crate) model: String,
    pub(crate) head: HeadChoice,
    pub(crate) divergence: Option<Divergence>,
}

impl Models {
    /// All names without weights.
    pub(crate) fn names(&self) -> Vec<String> {
        let with = |suffix: &str| format!("{}:{suffix}", self.name);
        let mut names = vec![self.name.clone()];
        names.extend(self.info.policies.iter().map(|policy| with(policy)));
        if !self.info.policies.is_empty() {
            names.push(with(SFT));
        }
        if self.info.has_worst_case {
            names.push(with(WORST_CASE));
        }
        names
    }

    /// Takes `model`, `preference_weights`, `normalize_weights` and `divergence`.
    pub(crate) fn choose(&self, fields: &mut Fields) -> Result<Choice, ApiError> {
        let model = fields.string("model")?.unwrap_or_else(|| self.name.clone());
        let given = fields.object("preference_weights")?.map(Fields::rest);
        let normalize = fields.bool("normalize_weights")?.unwrap_or(false);
        let divergence = fields.string("divergence")?;
        let suffix = model.strip_prefix(&*self.name).ok_or_else(|| self.unknown(&model))?;
        let mark = suffix.chars().next();
        let rest = suffix.get(1..).unwrap_or_default();
        let head = match (mark, given) {
            (None, None) => self.default(),
            (None, Some(weights)) => {
                self.mixture("preference_weights", &numbers(weights)?, normalize)?
            }
            (Some(':' | '@'), Some(_)) => {
                return Err(ApiError::invalid(
                    "preference_weights",
                    format!(
                        "the model `{}` says already what to answer with; give `preference_weights` with the model `{}`",
                        shortened(&model),
                        self.name
                    ),
                ));
            }
            (Some(':'), None) => self.head(rest).ok_or_else(|| self.unknown(&model))?,
            (Some('@'), None) => self.mixture("model", &parsed(rest)?, normalize)?,
            (Some(_), _) => return Err(self.unknown(&model)),
        };
        let divergence = match divergence {
            None => None,
            Some(name) => Some(mixable(&name, &head)?),
        };
        Ok(Choice { model, divergence, head: corner(head) })
    }

    /// Without a head or weights: the first policy, as `mopo generate` does.
    fn default(&self) -> HeadChoice {
        match self.info.policies.is_empty() {
            true => HeadChoice::Base,
            false => HeadChoice::Policy(0),
        }
    }

    fn head(&self, name: &str) -> Option<HeadChoice> {
        if self.info.policies.is_empty() {
            return None;
        }
        let index = self.info.policies.iter().position(|policy| policy == name);
        match index {
            Some(index) => Some(HeadChoice::Policy(index)),
            None if name == SFT => Some(HeadChoice::Base),
            None if name == WORST_CASE && self.info.has_worst_case => Some(HeadChoice::WorstCase),
            None => None,
        }
    }

    fn unknown(&self, model: &str) -> ApiError {
        let message = format!(
            "the model `{}` does not exist; the models are {}{}",
            shortened(model),
            self.names().join(", "),
            match self.info.policies.as_slice() {
                [] => String::new(),
                [only] => format!(", and {}@{only}=1", self.name),
                [first, .., last] => {
                    format!(", and mixtures as {}@{first}=0.6,{last}=0.4", self.name)
                }
            }
        );
        let error = ApiError::new(StatusCode::NOT_FOUND, message).code("model_not_found");
        ApiError { param: Some("model".into()), ..error }
    }

    /// The mixture with these weights, which come from the field `param`.
    fn mixture(
        &self,
        param: &str,
        given: &[(String, f64)],
        normalize: bool,
    ) -> Result<HeadChoice, ApiError> {
        let policies = &self.info.policies;
        let wrong = |message: String| Err(ApiError::invalid(param, message));
        if policies.is_empty() {
            return wrong("a plain model has no policies, so there is nothing to weigh".into());
        }
        let mut weights = vec![None; policies.len()];
        for (name, weight) in given {
            let shown = shortened(name);
            let Some(index) = policies.iter().position(|policy| policy == name) else {
                let known = policies.join(", ");
                return wrong(format!("unknown objective `{shown}`; the objectives are {known}"));
            };
            if !(weight.is_finite() && *weight >= 0.0) {
                return wrong(format!(
                    "the weight of `{shown}` is {weight}; it must be a finite number of at least 0"
                ));
            }
            if weights[index].replace(*weight).is_some() {
                return wrong(format!("`{shown}` has two weights"));
            }
        }
        let weights: Vec<f64> = weights.into_iter().map(Option::unwrap_or_default).collect();
        let sum: f64 = weights.iter().sum();
        if !(sum > 0.0 && sum.is_finite()) {
            return wrong(format!("the sum of the weights is {sum}; it must be above 0"));
        }
        if !normalize && (sum - 1.0).abs() > TOLERANCE {
            return wrong(format!(
                "the sum of the weights is {sum}, not 1; set `normalize_weights` to true to divide by it"
            ));
        }
        Ok(HeadChoice::Mixture(weights.into_iter().map(|w| (w / sum) as f32).collect()))
    }
}

/// A mixture with all weight on one policy is that policy, bit for bit.
fn corner(head: HeadChoice) -> HeadChoice {
    let HeadChoice::Mixture(weights) = &head else { return head };
    match weights.iter().position(|weight| *weight == 1.0) {
        Some(index) if weights.iter().filter(|weight| **weight != 0.0).count() == 1 => {
            HeadChoice::Policy(index)
        }
        _ => head,
    }
}

/// The weights of a body.
fn numbers(map: Map<String, Value>) -> Result<Vec<(String, f64)>, ApiError> {
    let number = |(name, value): (String, Value)| match value.as_f64() {
        Some(number) => Ok((name, number)),
        None => {
            let place = format!("preference_weights.{}", shortened(&name));
            Err(wrong_type(&place, "a number", &value))
        }
    };
    map.into_iter().map(number).collect()
}

/// The weights of a model's name.
fn parsed(text: &str) -> Result<Vec<(String, f64)>, ApiError> {
    let weight = |part: &str| {
        let (name, number) = part.rsplit_once('=')?;
        Some((name.trim().to_owned(), number.trim().parse().ok()?))
    };
    let wrong = |part: &str| {
        let part = shortened(part);
        ApiError::invalid(
            "model",
            format!("`{part}` is not a weight; write helpful=0.6,harmless=0.4"),
        )
    };
    text.split(',').map(|part| weight(part).ok_or_else(|| wrong(part))).collect()
}

fn mixable(name: &str, head: &HeadChoice) -> Result<Divergence, ApiError> {
    let wrong = |message: String| ApiError::invalid("divergence", message);
    if !matches!(head, HeadChoice::Mixture(_)) {
        return Err(wrong("only a mixture has a divergence; give preference weights".into()));
    }
    let divergence: Divergence =
        shortened(name).parse().map_err(|e: mopo_core::Error| wrong(e.to_string()))?;
    divergence.check_mixable().map_err(|e| wrong(e.to_string()))?;
    Ok(divergence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models() -> Models {
        let policies = ["helpful", "harmless"].map(str::to_owned).to_vec();
        Models {
            name: "run".into(),
            info: ModelInfo { policies, has_worst_case: true, context: None },
        }
    }

    fn choose(body: &str) -> Result<Choice, ApiError> {
        let mut fields = Fields::parse(body.as_bytes())?;
        let choice = models().choose(&mut fields)?;
        fields.finish()?;
        Ok(choice)
    }

    #[test]
    fn names_and_weights_become_heads() {
        let of = |body: &str| choose(body).unwrap().head;
        assert_eq!(of("{}"), HeadChoice::Policy(0));
        assert_eq!(of(r#"{"model": "run"}"#), HeadChoice::Policy(0));
        assert_eq!(of(r#"{"model": "run:harmless"}"#), HeadChoice::Policy(1));
        assert_eq!(of(r#"{"model": "run:sft"}"#), HeadChoice::Base);
        assert_eq!(of(r#"{"model": "run:worst-case"}"#), HeadChoice::WorstCase);
        let mixed = HeadChoice::Mixture(vec![0.6, 0.4]);
        assert_eq!(of(r#"{"model": "run@harmless=0.4, helpful = 0.6"}"#), mixed);
        assert_eq!(of(r#"{"preference_weights": {"helpful": 0.6, "harmless": 0.4}}"#), mixed);
        assert_eq!(
            of(
                r#"{"preference_weights": {"helpful": 3, "harmless": 2}, "normalize_weights": true}"#
            ),
            mixed
        );
        // Corners are the heads themselves.
        assert_eq!(of(r#"{"model": "run@harmless=1"}"#), HeadChoice::Policy(1));
        assert_eq!(of(r#"{"preference_weights": {"helpful": 0.9995}}"#), HeadChoice::Policy(0));
        let forward = r#"{"model": "run@helpful=0.5,harmless=0.5", "divergence": "forward_kl"}"#;
        assert_eq!(choose(forward).unwrap().divergence.unwrap().to_string(), "forward_kl");
        assert_eq!(
            models().names(),
            ["run", "run:helpful", "run:harmless", "run:sft", "run:worst-case"]
        );
    }

    #[test]
    fn wrong_names_and_weights_are_refused_by_field() {
        for (body, status, param, words) in [
            (r#"{"model": "gpt-4"}"#, 404, "model", "run:helpful"),
            (r#"{"model": "run:honest"}"#, 404, "model", "does not exist"),
            (r#"{"model": "running"}"#, 404, "model", "does not exist"),
            (r#"{"model": "runé"}"#, 404, "model", "does not exist"),
            (r#"{"model": "run@"}"#, 400, "model", "is not a weight"),
            (r#"{"model": "run@helpful=nan,harmless=1"}"#, 400, "model", "finite"),
            (r#"{"model": "run@helpful=inf"}"#, 400, "model", "finite"),
            (r#"{"model": "run@helpful=0.5,helpful=0.5"}"#, 400, "model", "two weights"),
            (r#"{"model": 3}"#, 400, "model", "expected a string"),
            (r#"{"preference_weights": {}}"#, 400, "preference_weights", "sum"),
            (r#"{"preference_weights": [1, 0]}"#, 400, "preference_weights", "expected an object"),
            (
                r#"{"preference_weights": {"helpful": "1"}}"#,
                400,
                "preference_weights.helpful",
                "number",
            ),
            (
                r#"{"preference_weights": {"helpful": -1, "harmless": 2}}"#,
                400,
                "preference_weights",
                "at least 0",
            ),
            (
                r#"{"preference_weights": {"helpful": 0.6}}"#,
                400,
                "preference_weights",
                "normalize_weights",
            ),
            (
                r#"{"preference_weights": {"honest": 1}}"#,
                400,
                "preference_weights",
                "helpful, harmless",
            ),
            (
                r#"{"preference_weights": {"helpful": 0}, "normalize_weights": true}"#,
                400,
                "preference_weights",
                "above 0",
            ),
            (
                r#"{"preference_weights": {"helpful": 1e308, "harmless": 1e308}, "normalize_weights": true}"#,
                400,
                "preference_weights",
                "sum",
            ),
            (
                r#"{"model": "run:helpful", "preference_weights": {"helpful": 1}}"#,
                400,
                "preference_weights",
                "says already",
            ),
            (
                r#"{"model": "run@helpful=1", "preference_weights": {"helpful": 1}}"#,
                400,
                "preference_weights",
                "says already",
            ),
            (
                r#"{"model": "run:helpful", "divergence": "forward_kl"}"#,
                400,
                "divergence",
                "mixture",
            ),
            (
                r#"{"model": "run@helpful=0.5,harmless=0.5", "divergence": "chi_squared"}"#,
                400,
                "divergence",
                "barrier",
            ),
            (
                r#"{"model": "run@helpful=0.5,harmless=0.5", "divergence": "x"}"#,
                400,
                "divergence",
                "reverse_kl",
            ),
        ] {
            let e = choose(body).expect_err(body);
            assert_eq!((e.status.as_u16(), e.param.as_deref()), (status, Some(param)), "{body}");
            assert!(e.message.contains(words), "{body}: {}", e.message);
        }
        let plain = Models { name: "m.gguf".into(), info: ModelInfo::default() };
        let mut fields = Fields::parse(br#"{"model": "m.gguf:sft"}"#).unwrap();
        assert_eq!(plain.choose(&mut fields).unwrap_err().status, StatusCode::NOT_FOUND);
        assert_eq!(plain.names(), ["m.gguf"]);
    }
}
