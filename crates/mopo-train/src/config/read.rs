//! From text and overrides to a configuration: TOML, keys of earlier versions, `--set`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::renamed::{self, RenamedKey, rename_keys};
use super::suggest::{did_you_mean, with_suggestion};
use crate::{Error, Result};

/// A configuration that can be read from a file.
pub(crate) trait ConfigFile: Serialize + DeserializeOwned {
    /// Keys that had another name in earlier versions.
    fn renamed() -> Vec<RenamedKey>;

    /// Paths of optional keys, which `--set` may add.
    fn optional() -> Vec<&'static str>;

    /// Paths of tables whose keys are names, which `--set` may add.
    fn open() -> Vec<&'static str> {
        Vec::new()
    }

    /// Paths of which exactly one is present: `--set` of one replaces the other.
    fn alternatives() -> Vec<&'static [&'static str]>;

    /// Reads the flattened parts of the document separately ([`read_part`]).
    ///
    /// # Errors
    /// The error in one of them, and the other keys that are known there.
    fn read_parts(document: &DeTable<'_>) -> std::result::Result<(), PartError>;
}

/// Longer files are no configurations.
const MAX_BYTES: u64 = 16 << 20;

/// The text of a configuration's file.
///
/// # Errors
/// Names the file, also one that is too long or no text.
pub fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(Error::io("reading", path))?;
    let fail = |message: String| Error::Config { origin: path.display().to_string(), message };
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail(format!("it has more than {} MiB", MAX_BYTES >> 20)));
    }
    String::from_utf8(bytes).map_err(|e| fail(format!("it is not UTF-8 text: {}", e.utf8_error())))
}

/// The error in a flattened part, and the known keys besides its own.
pub(crate) type PartError = (toml::de::Error, &'static [&'static str]);

/// Reads the flattened part of the table at `path`, which also has the keys `others`. With
/// `flatten` serde knows neither line nor key of an error, nor the known keys.
pub(crate) fn read_part<T: DeserializeOwned>(
    document: &DeTable<'_>,
    path: &[&str],
    others: &'static [&'static str],
) -> std::result::Result<(), PartError> {
    let mut table = document;
    let mut span = 0..0;
    for name in path {
        let Some(below) = table.get(*name) else { return Ok(()) };
        let DeValue::Table(inner) = below.get_ref() else { return Ok(()) };
        (table, span) = (inner, below.span());
    }
    let mut part = table.clone();
    for key in others {
        part.remove(*key);
    }
    let read = T::deserialize(Deserializer::from(Spanned::new(span, part)));
    read.map(drop).map_err(|e| (e, others))
}

/// A configuration from a complete text, with overrides `key.path=value`.
///
/// # Errors
/// Errors in the text, by line; errors in an override, by key.
pub(crate) fn read_with<T: ConfigFile>(
    text: &str,
    origin: &str,
    overrides: &[String],
) -> Result<T> {
    let fail = |message: String| Error::Config { origin: origin.into(), message };
    let wrong = |(mut e, known): PartError| {
        e.set_input(Some(text));
        fail(with_suggestion(&e.to_string(), known))
    };
    let mut document = DeTable::parse(text).map_err(|e| wrong((e, &[])))?;
    if document.get_ref().is_empty() {
        return Err(fail(
            "it has no keys: begin with a whole configuration, which `mopo config demo` prints, or of a reward model \
             `mopo reward config helpful`"
                .into(),
        ));
    }
    let mut old = rename_keys(document.get_mut(), &T::renamed()).map_err(fail)?;
    T::read_parts(document.get_ref()).map_err(wrong)?;
    let config = T::deserialize(Deserializer::from(document)).map_err(|e| wrong((e, &[])))?;
    let config = overridden(config, origin, overrides, &mut old)?;
    renamed::warn(origin, &old);
    Ok(config)
}

/// A configuration with overrides `key.path=value`.
///
/// # Errors
/// Errors in an override, by key.
pub(crate) fn override_with<T: ConfigFile>(
    config: T,
    origin: &str,
    overrides: &[String],
) -> Result<T> {
    let mut old = Vec::new();
    let config = overridden(config, origin, overrides, &mut old)?;
    renamed::warn(origin, &old);
    Ok(config)
}

/// A configuration with some of its keys replaced.
fn overridden<T: ConfigFile>(
    config: T,
    origin: &str,
    overrides: &[String],
    old: &mut Vec<RenamedKey>,
) -> Result<T> {
    if overrides.is_empty() {
        return Ok(config);
    }
    let table = toml::Table::try_from(&config)
        .map_err(|e| Error::Config { origin: origin.into(), message: e.to_string() })?;
    let renamed = T::renamed();
    let mut assignments: Vec<Assignment> = Vec::new();
    for text in overrides {
        let assignment = Assignment::parse(text, &renamed)?;
        // One key under two names would be ambiguous.
        if let Some(other) =
            assignments.iter().find(|a| a.keys == assignment.keys && a.old != assignment.old)
        {
            let key = assignment.old.first().or(other.old.first()).expect("they differ");
            let origin = format!("--set {} --set {text}", other.text);
            return Err(Error::Config { origin, message: renamed::both(key.section, key) });
        }
        // Of two keys that exclude each other the later one stays, as with one key that is set twice.
        let choices = T::alternatives();
        let is_other = |a: &&Assignment| {
            let both = [a.keys.join("."), assignment.keys.join(".")];
            both[0] != both[1]
                && choices
                    .iter()
                    .any(|choice| both.iter().all(|key| choice.contains(&key.as_str())))
        };
        if let Some(other) = assignments.iter().find(is_other) {
            tracing::warn!(
                "--set {} has no effect: --set {text} replaces it, since only one of these keys can be there",
                other.text
            );
        }
        old.extend(&assignment.old);
        assignments.push(assignment);
    }
    let mut whole = table.clone();
    for assignment in &assignments {
        assignment.apply::<T>(&mut whole)?;
    }
    let read = |table: toml::Table| table.try_into::<T>();
    read(whole).map_err(|together| {
        // The one that is wrong on its own; several may also contradict each other.
        let alone = assignments.iter().find_map(|assignment| {
            let mut table = table.clone();
            assignment.apply::<T>(&mut table).ok()?;
            Some((assignment.text.to_string(), read(table).err()?))
        });
        let all = || (overrides.join(" --set "), together);
        let (set, error) = alone.unwrap_or_else(all);
        let message = with_suggestion(&error.to_string(), &[]).replace('\n', " ");
        Error::Config { origin: format!("{origin} with --set {set}"), message }
    })
}

/// `key.path=value` of `--set`.
struct Assignment<'a> {
    text: &'a str,
    /// The path, with current names.
    keys: Vec<String>,
    value: toml::Value,
    /// Why a value that looks like a number, list, table or quoted text is not valid TOML and so was taken
    /// as a string.
    malformed: Option<String>,
    /// Old names in it.
    old: Vec<RenamedKey>,
}

impl<'a> Assignment<'a> {
    fn parse(text: &'a str, renamed: &[RenamedKey]) -> Result<Self> {
        let fail = |message: String| Error::Config { origin: format!("--set {text}"), message };
        let syntax = || fail("write it as key.path=value, e.g. mopo.tau=0.1".into());
        let (path, value) = text.split_once('=').ok_or_else(syntax)?;
        let keys: Vec<&str> = path.trim().split('.').map(str::trim).collect();
        if keys.iter().any(|key| key.is_empty()) {
            return Err(syntax());
        }
        let mut malformed = None;
        let value = match toml::from_str::<toml::Table>(&format!("v = {value}")) {
            Ok(mut table) if table.len() == 1 => table.remove("v").ok_or_else(syntax)?,
            read => {
                let is_meant = value.trim_start().starts_with(|c: char| {
                    matches!(c, '[' | '{' | '"' | '\'' | '+' | '-') || c.is_ascii_digit()
                });
                malformed = read.err().filter(|_| is_meant).map(|e| e.message().to_string());
                // A bare word is a string.
                toml::Value::String(value.trim().into())
            }
        };
        // Parsed as a document with only this key, to find old names in the path and in the value.
        let nested = keys.iter().rev().fold(value, |value, key| {
            toml::Value::Table(toml::Table::from_iter([(key.to_string(), value)]))
        });
        let written = toml::to_string(&nested).map_err(|e| fail(e.to_string()))?;
        let mut document = DeTable::parse(&written).map_err(|e| fail(e.message().into()))?;
        let old = rename_keys(document.get_mut(), renamed).map_err(fail)?;
        let document =
            <toml::Table as serde::Deserialize>::deserialize(Deserializer::from(document));
        let mut value = toml::Value::Table(document.map_err(|e| fail(e.message().into()))?);
        let mut path = Vec::new();
        for _ in &keys {
            let toml::Value::Table(table) = value else { return Err(syntax()) };
            let (key, below) = table.into_iter().next().ok_or_else(syntax)?;
            path.push(key);
            value = below;
        }
        Ok(Self { text, keys: path, value, malformed, old })
    }

    fn apply<T: ConfigFile>(&self, table: &mut toml::Table) -> Result<()> {
        let path = self.keys.join(".");
        let (optional, alternatives) = (T::optional(), T::alternatives());
        let known = paths(table, optional.iter().chain(alternatives.iter().copied().flatten()));
        let fail = |message: String| Error::Config {
            origin: format!("--set {}", self.text),
            message: format!("{message}{}", did_you_mean(&path, known.iter().map(String::as_str))),
        };
        let (last, sections) = self.keys.split_last().expect("a path has a key");
        let mut here = &mut *table;
        for (depth, key) in sections.iter().enumerate() {
            let beside = section_names(here);
            let place = self.keys[..=depth].join(".");
            here = match here.get_mut(key) {
                Some(toml::Value::Table(section)) => section,
                Some(toml::Value::Array(_)) => {
                    return Err(Error::Config {
                        origin: format!("--set {}", self.text),
                        message: format!("`{place}` is a list: set all of it, as {place}=[…]"),
                    });
                }
                Some(_) => return Err(fail(format!("`{place}` is a key, not a section"))),
                None => {
                    return Err(fail(format!("unknown section `{place}`; sections: {beside}")));
                }
            };
        }
        if let Some(slot) = here.get_mut(last) {
            // A string may begin with a bracket, like the template `{response}`.
            if let Some(why) = self.malformed.as_ref().filter(|_| !slot.is_str()) {
                return Err(Error::Config {
                    origin: format!("--set {}", self.text),
                    message: format!("the value is not valid TOML: {why}"),
                });
            }
            *slot = like(slot, self.value.clone());
            return Ok(());
        }
        match alternatives.iter().find(|choice| choice.contains(&path.as_str())) {
            Some(choice) => {
                for other in *choice {
                    here.remove(other.rsplit('.').next().unwrap_or_default());
                }
            }
            None if optional.contains(&path.as_str()) => {}
            None if T::open().contains(&sections.join(".").as_str()) => {}
            None => {
                let mut beside: Vec<&str> = here.keys().map(String::as_str).collect();
                let section = path.strip_suffix(last.as_str()).unwrap_or_default();
                let inside = optional.iter().filter_map(|key| key.strip_prefix(section));
                beside.extend(inside.filter(|key| !key.contains('.') && !here.contains_key(*key)));
                let beside = beside.join(", ");
                return Err(fail(format!("unknown key `{path}`; keys there: {beside}")));
            }
        }
        here.insert(last.clone(), self.value.clone());
        Ok(())
    }
}

/// The value in the type of the old one: people type 1 for 1.0.
fn like(old: &toml::Value, new: toml::Value) -> toml::Value {
    match (old, new) {
        (toml::Value::Float(_), toml::Value::Integer(n)) => toml::Value::Float(n as f64),
        (_, new) => new,
    }
}

fn section_names(table: &toml::Table) -> String {
    let named = table.iter().filter(|(_, value)| value.is_table());
    named.map(|(name, _)| format!("[{name}]")).collect::<Vec<_>>().join(", ")
}

/// All paths that `--set` accepts: those in the table, and optional ones.
fn paths<'a>(table: &toml::Table, more: impl Iterator<Item = &'a &'static str>) -> Vec<String> {
    fn below(table: &toml::Table, prefix: &str, all: &mut Vec<String>) {
        for (key, value) in table {
            let path = format!("{prefix}{key}");
            if let toml::Value::Table(table) = value {
                below(table, &format!("{path}."), all);
            }
            all.push(path);
        }
    }
    let mut all = Vec::new();
    below(table, "", &mut all);
    all.extend(more.map(|path| path.to_string()));
    all.sort();
    all.dedup();
    all
}
