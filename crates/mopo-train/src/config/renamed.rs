//! Keys of earlier versions. They remain valid in files and in `--set`; new files have the new
//! names.

use std::collections::BTreeSet;
use std::sync::Mutex;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A key that has a new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RenamedKey {
    /// The path of its section, with current names; empty at the top.
    pub(crate) section: &'static str,
    /// Its name in earlier versions.
    pub(crate) old: &'static str,
    /// Its current name.
    pub(crate) new: &'static str,
}

/// A row of a table of renamed keys.
pub(crate) const fn renamed(
    section: &'static str,
    old: &'static str,
    new: &'static str,
) -> RenamedKey {
    RenamedKey { section, old, new }
}

/// Renames every old key. Returns the old keys that occurred.
///
/// # Errors
/// A key occurs under both names.
pub(super) fn rename_keys(
    document: &mut DeTable<'_>,
    keys: &[RenamedKey],
) -> Result<Vec<RenamedKey>, String> {
    let mut found = Vec::new();
    for key in keys {
        let path: Vec<&str> = key.section.split('.').filter(|name| !name.is_empty()).collect();
        rename_below(document, &path, key, &mut found)?;
    }
    Ok(found)
}

fn rename_below(
    table: &mut DeTable<'_>,
    path: &[&str],
    key: &RenamedKey,
    found: &mut Vec<RenamedKey>,
) -> Result<(), String> {
    if let [name, path @ ..] = path {
        return match table.get_mut(*name).map(Spanned::get_mut) {
            Some(DeValue::Table(section)) => rename_below(section, path, key, found),
            // An array of tables: rename in each.
            Some(DeValue::Array(items)) => {
                items.iter_mut().try_for_each(|item| match item.get_mut() {
                    DeValue::Table(section) => rename_below(section, path, key, found),
                    _ => Ok(()),
                })
            }
            _ => Ok(()),
        };
    }
    let Some((mut name, value)) = table.remove_entry(key.old) else { return Ok(()) };
    if table.contains_key(key.new) {
        return Err(both(key.section, key));
    }
    *name.get_mut() = key.new.into();
    table.insert(name, value);
    if !found.contains(key) {
        found.push(*key);
    }
    Ok(())
}

/// The message about a key that is set under both names.
pub(super) fn both(section: &str, key: &RenamedKey) -> String {
    let place = if section.is_empty() { String::new() } else { format!("{section}.") };
    let (old, new) = (key.old, key.new);
    format!(
        "both `{place}{old}` and `{place}{new}` are set: `{old}` is the former name of `{new}`; \
         remove `{old}`"
    )
}

/// Warns about old keys in one line, once per file.
pub(super) fn warn(origin: &str, found: &[RenamedKey]) {
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if found.is_empty() {
        return;
    }
    let mut names: Vec<String> = Vec::new();
    for key in found {
        let name = format!("`{}` (now `{}`)", key.old, key.new);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let warning = format!("{origin}: former names of configuration keys: {}", names.join(", "));
    if WARNED.lock().is_ok_and(|mut warned| warned.insert(warning.clone())) {
        tracing::warn!("{warning}");
    }
}
