//! Rotary embeddings: frequencies, from a model's configuration, and angles.

use std::f64::consts::TAU;

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use serde_json::{Map, Value};

use crate::Result;
use crate::hub_config::HubConfig;

/// The frequencies of a rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rotary {
    /// One for each pair of features that is rotated.
    frequencies: Vec<f32>,
    /// Cosines and sines are multiplied with it (YaRN).
    factor: f32,
    /// The base of the frequencies before scaling.
    theta: f64,
    scaling: Scaling,
}

/// How frequencies are scaled for longer contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scaling {
    /// Not at all.
    None,
    /// All are divided by this factor.
    Linear(f64),
    /// Llama 3's bands.
    Llama3,
    /// YaRN.
    Yarn {
        factor: f64,
        /// Positions of the original model.
        context: f64,
        fast: f64,
        slow: f64,
        /// Whether the ends of the ramp are rounded, and the temperature is that of the factor.
        is_plain: bool,
    },
}

/// Where a model's settings stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotaryKeys<'a> {
    /// The name of its table within `rope_parameters`, if there is one for each kind of layer.
    pub(crate) of_layers: Option<&'a str>,
    /// The key of the base outside of tables.
    pub(crate) theta: &'static str,
    /// The base if the file names none.
    pub(crate) default_theta: f64,
    /// Whether `rope_scaling` applies.
    pub(crate) scaled: bool,
}

impl RotaryKeys<'_> {
    /// One table for all layers.
    pub(crate) fn shared() -> Self {
        Self { of_layers: None, theta: "rope_theta", default_theta: 10_000.0, scaled: true }
    }
}

impl Rotary {
    /// From `rope_parameters` of newer versions of transformers, or `rope_theta` and `rope_scaling` of older ones.
    /// `dim`: features of a head.
    ///
    /// # Errors
    /// A kind of scaling that is not supported; numbers out of range.
    pub(crate) fn read(
        config: &HubConfig,
        keys: RotaryKeys<'_>,
        dim: usize,
        max_positions: usize,
    ) -> Result<Self> {
        const FIELD: &str = "rope_parameters";
        let table = |value: Option<&Value>| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(table)) => Ok(Some(table.clone())),
            Some(other) => Err(config.invalid(FIELD, other.to_string(), "it must be a table")),
        };
        let new = table(config.value(FIELD))?;
        let new = match (&new, keys.of_layers) {
            (Some(all), Some(name)) if all.values().any(Value::is_object) => table(all.get(name))?,
            _ => new,
        };
        let settings = match new {
            Some(table) => table,
            None if keys.scaled => table(config.value("rope_scaling"))?.unwrap_or_default(),
            None => Map::new(),
        };
        let settings = Settings { config, table: settings };
        let theta = match settings.number("rope_theta")? {
            Some(theta) => theta,
            None => config.number(keys.theta, keys.default_theta)?,
        };
        let share = match settings.number("partial_rotary_factor")? {
            Some(share) => share,
            None => config.number("partial_rotary_factor", 1.0)?,
        };
        let rotated = (dim as f64 * share) as usize;
        if !(share <= 1.0 && rotated > 0 && rotated.is_multiple_of(2)) {
            let expected = format!(
                "the rotary part of the head dimension ({dim}) must be even, positive and at most the \
                 whole"
            );
            return Err(config.invalid("partial_rotary_factor", share.to_string(), &expected));
        }
        settings.rotary(theta, rotated, max_positions)
    }

    /// Without scaling.
    fn plain(theta: f64, rotated: usize) -> Self {
        // In f32, as transformers computes them.
        let power = |j: usize| (theta as f32).powf((2 * j) as f32 / rotated as f32);
        let frequencies = (0..rotated / 2).map(|j| 1.0 / power(j)).collect();
        Self { frequencies, factor: 1.0, theta, scaling: Scaling::None }
    }

    /// The base of the frequencies before scaling.
    pub(crate) fn theta(&self) -> f64 {
        self.theta
    }

    /// How the frequencies are scaled.
    pub(crate) fn scaling(&self) -> Scaling {
        self.scaling
    }

    /// Features of a head that are rotated.
    pub(crate) fn rotated(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// What each frequency was divided by.
    pub(crate) fn divisors(&self) -> Vec<f32> {
        let plain = Self::plain(self.theta, self.rotated()).frequencies;
        plain.iter().zip(&self.frequencies).map(|(plain, scaled)| plain / scaled).collect()
    }

    /// Cosines and sines at positions `[n]`, each `[n, half]`.
    pub(crate) fn angles<B: Backend>(&self, positions: Tensor<B, 1, Int>) -> [Tensor<B, 2>; 2] {
        let n = positions.dims()[0];
        let half = self.frequencies.len();
        let frequencies = TensorData::new(self.frequencies.clone(), [1, half]);
        let frequencies = Tensor::<B, 2>::from_data(frequencies, &positions.device());
        let angles = positions.float().reshape([n, 1]) * frequencies;
        let both = [angles.clone().cos(), angles.sin()];
        match self.factor {
            1.0 => both,
            factor => both.map(|x| x.mul_scalar(factor)),
        }
    }
}

/// The table of a rotary embedding's settings.
struct Settings<'a> {
    config: &'a HubConfig,
    table: Map<String, Value>,
}

impl Settings<'_> {
    fn number(&self, key: &'static str) -> Result<Option<f64>> {
        match self.table.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(x) if x > 0.0 && x.is_finite() => Ok(Some(x)),
                _ => {
                    let expected = "it must be a positive, finite number";
                    Err(self.config.invalid(key, value.to_string(), expected))
                }
            },
        }
    }

    fn required(&self, key: &'static str) -> Result<f64> {
        self.number(key)?.ok_or_else(|| {
            self.config.invalid(key, "absent".into(), "this kind of rotary embedding needs it")
        })
    }

    fn rotary(&self, theta: f64, rotated: usize, max_positions: usize) -> Result<Rotary> {
        let mut rotary = Rotary::plain(theta, rotated);
        let kind = self.table.get("rope_type").or_else(|| self.table.get("type"));
        let kind = kind.filter(|kind| !kind.is_null()).map_or(Some("default"), Value::as_str);
        match kind {
            Some("default") => {}
            Some("linear") => {
                let factor = self.required("factor")?;
                rotary.frequencies.iter_mut().for_each(|w| *w /= factor as f32);
                rotary.scaling = Scaling::Linear(factor);
            }
            Some("llama3") => self.llama_3(&mut rotary)?,
            Some("yarn") => self.yarn(&mut rotary, theta, rotated, max_positions)?,
            other => {
                let value = other.map_or("no text".into(), |kind| format!("{kind:?}"));
                let expected = "only `default`, `linear`, `llama3` and `yarn` are supported";
                return Err(self.config.invalid("rope_type", value, expected));
            }
        }
        Ok(rotary)
    }

    /// Low frequencies are divided by the factor, high ones stay, those between are blended.
    fn llama_3(&self, rotary: &mut Rotary) -> Result<()> {
        let factor = self.required("factor")?;
        let [low, high] = [self.required("low_freq_factor")?, self.required("high_freq_factor")?];
        let context = self.required("original_max_position_embeddings")?;
        if low >= high {
            let expected = format!("it must be below `high_freq_factor` ({high})");
            return Err(self.config.invalid("low_freq_factor", low.to_string(), &expected));
        }
        rotary.scaling = Scaling::Llama3;
        for w in &mut rotary.frequencies {
            let length = TAU / f64::from(*w);
            *w = if length < context / high {
                *w
            } else if length > context / low {
                (f64::from(*w) / factor) as f32
            } else {
                let smooth = (context / length - low) / (high - low);
                let w = f64::from(*w);
                ((1.0 - smooth) * w / factor + smooth * w) as f32
            };
        }
        Ok(())
    }

    /// YaRN (arXiv 2309.00071): frequencies with few turns in the original context are divided by the factor,
    /// those with many stay, and attention gets a temperature.
    fn yarn(
        &self,
        rotary: &mut Rotary,
        theta: f64,
        rotated: usize,
        max_positions: usize,
    ) -> Result<()> {
        let factor = self.required("factor")?;
        let context =
            self.number("original_max_position_embeddings")?.unwrap_or(max_positions as f64);
        let fast = self.number("beta_fast")?.unwrap_or(32.0);
        let slow = self.number("beta_slow")?.unwrap_or(1.0);
        let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        let scales = self.number("mscale")?.zip(self.number("mscale_all_dim")?);
        let of_attention = match (self.number("attention_factor")?, scales) {
            (Some(given), _) => given,
            (None, Some((some, all))) => scale(some) / scale(all),
            (None, None) => scale(1.0),
        };
        // The pair of features that turns `turns` times in the original context.
        let dim = rotated as f64;
        let pair = |turns: f64| dim * (context / (turns * TAU)).ln() / (2.0 * theta.ln());
        let whole = self.table.get("truncate") != Some(&Value::Bool(false));
        let (low, high) = match whole {
            true => (pair(fast).floor(), pair(slow).ceil()),
            false => (pair(fast), pair(slow)),
        };
        let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        for (j, w) in rotary.frequencies.iter_mut().enumerate() {
            let ramp = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let kept = f64::from(*w);
            *w = (kept / factor * ramp + kept * (1.0 - ramp)) as f32;
        }
        rotary.factor = of_attention as f32;
        let is_plain = whole && (of_attention - scale(1.0)).abs() < 1e-6;
        rotary.scaling = Scaling::Yarn { factor, context, fast, slow, is_plain };
        Ok(())
    }
}
