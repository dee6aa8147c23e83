//! Reading a model's `config.json` key by key: each error names the file, the key and what it must be.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Far beyond any model, so that sizes multiply without overflow.
pub(crate) const MAX_VOCABULARY: usize = 1 << 24;
pub(crate) const MAX_WIDTH: usize = 1 << 22;
pub(crate) const MAX_LAYERS: usize = 1 << 14;
pub(crate) const MAX_POSITIONS: usize = 1 << 24;
/// More parameters than any model has: a trillion, thousands of gigabytes.
pub(crate) const MAX_PARAMS: u128 = 1_000_000_000_000;

/// The `config.json` of a model. A key with the value `null` counts as absent.
#[derive(Debug, Clone)]
pub(crate) struct HubConfig {
    path: PathBuf,
    json: Map<String, Value>,
    /// What the file should be, in errors.
    expected: &'static str,
}

impl HubConfig {
    /// Reads a file.
    pub(crate) fn read(path: &Path, expected: &'static str) -> Result<Self> {
        let json = mopo_hub::read_json(path, expected)?;
        Ok(Self::new(path, json, expected))
    }

    /// From what was in a file, or would be.
    pub(crate) fn new(path: &Path, json: Map<String, Value>, expected: &'static str) -> Self {
        Self { path: path.into(), json, expected }
    }

    /// Where it was read from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All keys.
    pub(crate) fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// The same error, naming the file.
    pub(crate) fn in_file(&self, error: Error) -> Error {
        Error::InFile { path: self.path.clone(), source: Box::new(error) }
    }

    fn refuse<T>(&self, field: &'static str, value: &Value, expected: &str) -> Result<T> {
        Err(self.invalid(field, value.to_string(), expected))
    }

    /// An error about the value of a key.
    pub(crate) fn invalid(&self, field: &'static str, value: String, expected: &str) -> Error {
        self.in_file(Error::InvalidParameter { field, value, expected: expected.into() })
    }

    /// The value of a key.
    pub(crate) fn value(&self, field: &str) -> Option<&Value> {
        self.json.get(field).filter(|value| !value.is_null())
    }

    fn missing(&self, field: &str) -> Error {
        mopo_hub::Error::Json {
            path: self.path.clone(),
            reason: format!("missing field `{field}`"),
            expected: self.expected,
        }
        .into()
    }

    /// A whole number from 1 to `most`; without `default` it must be there.
    pub(crate) fn count(
        &self,
        field: &'static str,
        default: Option<usize>,
        most: usize,
    ) -> Result<usize> {
        match (self.value(field), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.missing(field)),
            (Some(value), _) => match value.as_u64().map(usize::try_from) {
                Some(Ok(n)) if (1..=most).contains(&n) => Ok(n),
                _ => self.refuse(
                    field,
                    value,
                    &format!("it must be a whole number from 1 to {most}"),
                ),
            },
        }
    }

    /// A positive, finite number, if it is there.
    pub(crate) fn optional_number(&self, field: &'static str) -> Result<Option<f64>> {
        match self.value(field) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(x) if x > 0.0 && x.is_finite() => Ok(Some(x)),
                _ => self.refuse(field, value, "it must be a positive, finite number"),
            },
        }
    }

    /// A positive, finite number.
    pub(crate) fn number(&self, field: &'static str, default: f64) -> Result<f64> {
        Ok(self.optional_number(field)?.unwrap_or(default))
    }

    /// True or false.
    pub(crate) fn flag(&self, field: &'static str, default: bool) -> Result<bool> {
        match self.value(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => self.refuse(field, value, "it must be true or false"),
        }
    }

    /// Refuses a feature that is not supported: the key must be absent or have one of the values that leave
    /// the feature off.
    pub(crate) fn only(
        &self,
        field: &'static str,
        accepted: &[Value],
        expected: &str,
    ) -> Result<()> {
        match self.value(field) {
            Some(value) if !accepted.contains(value) => self.refuse(field, value, expected),
            _ => Ok(()),
        }
    }

    /// The first of these keys that is there, or of all: architectures name the same size differently.
    pub(crate) fn first(&self, fields: &[&'static str]) -> &'static str {
        fields.iter().find(|field| self.value(field).is_some()).unwrap_or(&fields[0])
    }

    /// A string, if it is there.
    pub(crate) fn text(&self, field: &'static str) -> Result<Option<&str>> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => self.refuse(field, value, "it must be text"),
        }
    }

    /// A token id; `None` if the file has none, or a negative number.
    pub(crate) fn token(&self, field: &'static str) -> Result<Option<u32>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value.as_i64() {
            Some(id) if id < 0 => Ok(None),
            Some(id) if id <= i64::from(u32::MAX) => Ok(Some(id as u32)),
            _ => self.refuse(field, value, "it must be one token id"),
        }
    }

    /// Refuses a number of heads that does not divide the width.
    pub(crate) fn check_divides(
        &self,
        field: &'static str,
        heads: usize,
        width: usize,
    ) -> Result<()> {
        match width.is_multiple_of(heads) {
            true => Ok(()),
            false => {
                let expected = format!("it must divide the width, {width}");
                Err(self.invalid(field, heads.to_string(), &expected))
            }
        }
    }

    /// The architecture.
    pub(crate) fn model_type(&self) -> Result<&str> {
        const FIELD: &str = "model_type";
        self.text(FIELD)?.ok_or_else(|| self.missing(FIELD))
    }

    /// Refuses the configuration of another architecture.
    pub(crate) fn check_model_type(&self, expected: &str) -> Result<()> {
        match self.model_type()? {
            found if found == expected => Ok(()),
            found => {
                let expected = format!("this is for `{expected}`");
                Err(self.invalid("model_type", format!("{found:?}"), &expected))
            }
        }
    }

    /// The kinds of the layers by name, if the file has a list of them: as many as there are layers.
    pub(crate) fn layer_types(&self, n_layers: usize) -> Result<Option<Vec<&str>>> {
        const FIELD: &str = "layer_types";
        let Some(value) = self.value(FIELD) else { return Ok(None) };
        let names = value.as_array().map(|list| list.iter().map(Value::as_str));
        match names.and_then(|names| names.collect::<Option<Vec<_>>>()) {
            Some(names) if names.len() == n_layers => Ok(Some(names)),
            _ => self.refuse(
                FIELD,
                value,
                &format!("it must be a list of {n_layers} names, one for each layer"),
            ),
        }
    }
}
