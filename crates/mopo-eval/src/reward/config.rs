//! A classifier's `config.json`, key by key: missing, out-of-range and unsupported values are
//! refused by name.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::layers::Activation;
use crate::{Error, Result};

/// No model has larger sizes. Tensors are compared with the sizes before memory is allocated for
/// them; this keeps products of sizes in range.
const MOST: u64 = 1 << 24;
/// Labels get names before their number can be compared with a tensor.
const MOST_LABELS: u64 = 1 << 16;

/// The keys of a `config.json`.
pub(crate) struct HubConfig {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl HubConfig {
    /// Reads the file of a Hugging Face model directory.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let keys = mopo_hub::read_json(&path, "the config.json of a classifier")?;
        Ok(Self { path, keys })
    }

    /// The architecture: `model_type`.
    pub(crate) fn model_type(&self) -> Result<&str> {
        self.text("model_type")?.ok_or_else(|| {
            self.refused("model_type", "missing", "it must name the architecture, e.g. `gpt2`")
        })
    }

    /// Refuses a configuration of another architecture.
    pub(crate) fn check_architecture(&self, expected: &'static str) -> Result<()> {
        match self.model_type()? {
            found if found == expected => Ok(()),
            found => Err(self.refused("model_type", found, format!("this is for `{expected}`"))),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// An error that names this file and the key.
    pub(crate) fn refused(
        &self,
        key: &str,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> Error {
        let error = Error::invalid(key, value, expected);
        Error::InFile { path: self.path.clone(), source: Box::new(error) }
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        self.get(key)
            .map(|value| value.as_str().ok_or_else(|| self.refused(key, value, "it must be text")))
            .transpose()
    }

    /// A whole number of at least 1, under the first key that exists.
    pub(crate) fn size(&self, keys: &[&str]) -> Result<usize> {
        let Some((key, value)) = keys.iter().find_map(|key| Some((key, self.get(key)?))) else {
            return Err(self.refused(keys[0], "missing", "a model of this kind must have it"));
        };
        self.whole_number(key, value, MOST)
    }

    fn whole_number(&self, key: &str, value: &Value, most: u64) -> Result<usize> {
        let n = value.as_u64().filter(|n| (1..=most).contains(n));
        let n = n.ok_or_else(|| {
            self.refused(key, value, format!("it must be a whole number above 0, at most {most}"))
        })?;
        Ok(n as usize)
    }

    /// The same, or a default.
    pub(crate) fn size_or(&self, keys: &[&str], default: usize) -> Result<usize> {
        match keys.iter().any(|key| self.get(key).is_some()) {
            true => self.size(keys),
            false => Ok(default),
        }
    }

    /// A positive number, or a default.
    pub(crate) fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|x| *x > 0.0 && x.is_finite());
        number.ok_or_else(|| self.refused(key, value, "it must be a positive number"))
    }

    /// A boolean, or a default.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.refused(key, value, "it must be true or false"))
    }

    /// Refuses a switch that asks for an unsupported feature.
    pub(crate) fn must_be(&self, key: &str, expected: bool, why: &str) -> Result<()> {
        match self.flag_or(key, expected)? == expected {
            true => Ok(()),
            false => Err(self.refused(key, !expected, why)),
        }
    }

    /// A token id; `None` if the file has none, or a negative number.
    pub(crate) fn token(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_i64() {
            Some(id) if id < 0 => Ok(None),
            Some(id) if id <= i64::from(u32::MAX) => Ok(Some(id as u32)),
            _ => Err(self.refused(key, value, "it must be one token id")),
        }
    }

    /// Activation of a feed-forward block.
    pub(crate) fn activation(&self, key: &str, default: &str) -> Result<Activation> {
        let name = self.text(key)?.unwrap_or(default);
        Activation::from_hub(name).ok_or_else(|| {
            self.refused(
                key,
                name,
                "gelu, gelu_new, gelu_pytorch_tanh, gelu_fast and relu are supported",
            )
        })
    }

    /// Refuses a number of heads that does not divide the width.
    pub(crate) fn check_heads(&self, key: &str, heads: usize, width: usize) -> Result<()> {
        match width.is_multiple_of(heads) {
            true => Ok(()),
            false => Err(self.refused(key, heads, format!("it must divide the width, {width}"))),
        }
    }

    /// The names of the labels in the order of the logits: `id2label`, in any order in the file, or
    /// else `num_labels` default names (or the architecture's default number).
    pub(crate) fn labels(&self, default: usize) -> Result<Vec<String>> {
        let Some(value) = self.get("id2label") else {
            let n = match self.get("num_labels") {
                Some(value) => self.whole_number("num_labels", value, MOST_LABELS)?,
                None => default,
            };
            return Ok((0..n).map(|i| format!("LABEL_{i}")).collect());
        };
        let expected = "it must map the ids 0, 1, … to names, each once";
        let refused = || self.refused("id2label", value, expected);
        let map = value.as_object().filter(|map| !map.is_empty()).ok_or_else(refused)?;
        let mut labels = vec![None; map.len()];
        for (id, name) in map {
            let place = id.parse().ok().and_then(|id: usize| labels.get_mut(id));
            *place.ok_or_else(refused)? = Some(name.as_str().ok_or_else(refused)?.to_owned());
        }
        labels.into_iter().collect::<Option<_>>().ok_or_else(refused)
    }
}

/// Refuses more layers than a model's files can have, since each has tensors.
pub(crate) fn check_layers(
    files: &mopo_hub::TensorFiles,
    dir: &Path,
    key: &str,
    n_layers: usize,
) -> Result<()> {
    let n_tensors = files.names().count();
    if n_layers <= n_tensors {
        return Ok(());
    }
    let expected = format!("the model's files have {n_tensors} tensors in all");
    let error = Error::invalid(key, n_layers, expected);
    Err(Error::InFile { path: dir.join("config.json"), source: Box::new(error) })
}

/// The keys for labels that transformers reads.
pub(crate) fn label_keys(labels: &[String]) -> [(&'static str, Value); 2] {
    let ids: Map<String, Value> =
        labels.iter().enumerate().map(|(i, name)| (i.to_string(), json!(name))).collect();
    let names: Map<String, Value> =
        labels.iter().enumerate().map(|(i, name)| (name.clone(), json!(i))).collect();
    [("id2label", ids.into()), ("label2id", names.into())]
}
