//! Refuses a run whose configuration was changed.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Value;

use super::RunRecord;
use super::record::RECORD;
use crate::config::{ConfigFile, read_with};
use crate::{Error, Result};

/// The section that no trained file depends on: defaults of `mopo pareto`.
const FREE: &str = "evaluation";

/// Compares a configuration with the recorded one, value by value: comments, order and former names
/// of keys make no difference.
///
/// # Errors
/// Names the first key that differs, with both values.
pub(super) fn check<T: ConfigFile>(path: &Path, config: &T, record: &RunRecord) -> Result<()> {
    let Some(text) = &record.config else {
        return Ok(());
    };
    let begun: T =
        read_with(text, &format!("recorded in {}", path.with_file_name(RECORD).display()), &[])?;
    let [mut found, mut begun] = [leaves(path, config)?, leaves(path, &begun)?];
    for leaves in [&mut found, &mut begun] {
        leaves.retain(|key, _| key != FREE && !key.starts_with(&format!("{FREE}.")));
    }
    let changed = found.keys().chain(begun.keys()).find(|key| found.get(*key) != begun.get(*key));
    let Some(key) = changed else {
        return Ok(());
    };
    let words = |value: Option<&String>| value.map_or("absent".to_string(), String::clone);
    Err(Error::Config {
        origin: path.display().to_string(),
        message: format!(
            "`{key}` is {}, but the run was started with {}; a run cannot continue with another \
             configuration: change it back, or start a new run with --config",
            words(found.get(key)),
            words(begun.get(key))
        ),
    })
}

/// Every value by its path.
fn leaves<T: ConfigFile>(path: &Path, config: &T) -> Result<BTreeMap<String, String>> {
    let table = toml::Table::try_from(config)
        .map_err(|e| Error::corrupt(path, format!("it cannot be written as TOML: {e}")))?;
    let mut out = BTreeMap::new();
    add_leaves(Value::Table(table), "", &mut out);
    Ok(out)
}

fn add_leaves(value: Value, path: &str, out: &mut BTreeMap<String, String>) {
    let below = |key: &str| match path {
        "" => key.to_string(),
        path => format!("{path}.{key}"),
    };
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                add_leaves(value, &below(&key), out);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for (i, value) in items.into_iter().enumerate() {
                add_leaves(value, &below(&i.to_string()), out);
            }
        }
        value => {
            out.insert(path.into(), value.to_string());
        }
    }
}
