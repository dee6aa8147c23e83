//! Whether all numbers of a run are finite.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::compare::walk;

/// The first number of a run that is not finite: in metrics, results and weights. In JSON such a number is `null`.
pub(super) fn not_finite(run: &Path) -> Result<Option<String>> {
    let mut found = None;
    walk(run, "", &mut |name, path| {
        let what = match path.extension().and_then(|end| end.to_str()) {
            Some("jsonl") if name == "metrics.jsonl" => in_lines(&fs::read_to_string(path)?),
            Some("json") if name == "result.json" => {
                in_value(&serde_json::from_slice(&fs::read(path)?)?)
            }
            Some("safetensors") => in_tensors(&fs::read(path)?)?,
            _ => None,
        };
        if found.is_none() {
            found = what.map(|what| format!("{name}: {what}"));
        }
        Ok(())
    })?;
    Ok(found)
}

/// What a result may not know, since there is nothing that it could be of: held-out accuracies without decided labels, of
/// the policies and of the SFT model, and the shape of a tail that is too short.
const UNKNOWN: [&str; 3] = ["policies", "warm_start", "pareto_k"];

/// The key of a number that is not finite, at any depth.
fn in_value(value: &Value) -> Option<String> {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => return None,
    };
    let mut known = below.into_iter().filter(|(key, _)| !UNKNOWN.contains(&&**key));
    known.find_map(|(key, value)| match value {
        Value::Null => Some(format!("`{key}` is not a finite number")),
        value => in_value(value).map(|inner| format!("`{key}`: {inner}")),
    })
}

fn in_lines(text: &str) -> Option<String> {
    text.lines().enumerate().find_map(|(i, line)| match serde_json::from_str::<Value>(line) {
        Err(e) => Some(format!("line {}: {e}", i + 1)),
        Ok(value) => {
            let wrong = value.as_object()?.iter().find(|(_, v)| v.is_null())?;
            Some(format!("line {}: `{}` is not a finite number", i + 1, wrong.0))
        }
    })
}

fn in_tensors(bytes: &[u8]) -> Result<Option<String>> {
    let length = bytes.get(..8).context("a header")?;
    let length = usize::try_from(u64::from_le_bytes(length.try_into()?))?;
    let header: Value = serde_json::from_slice(bytes.get(8..8 + length).context("a header")?)?;
    let data = &bytes[8 + length..];
    for (name, tensor) in header.as_object().context("an object")? {
        let range: Option<Vec<usize>> = tensor["data_offsets"]
            .as_array()
            .map(|list| list.iter().filter_map(|n| n.as_u64()).map(|n| n as usize).collect());
        let Some(&[from, to]) = range.as_deref() else { continue };
        let data = data.get(from..to).context("a tensor's bytes")?;
        // All bits of the exponent set: infinite or no number.
        let is_wrong = match tensor["dtype"].as_str() {
            Some("F32") => data.chunks_exact(4).any(|b| b[3] & 0x7f == 0x7f && b[2] & 0x80 == 0x80),
            Some("BF16") => {
                data.chunks_exact(2).any(|b| b[1] & 0x7f == 0x7f && b[0] & 0x80 == 0x80)
            }
            Some("F16") => data.chunks_exact(2).any(|b| b[1] & 0x7c == 0x7c),
            Some("F64") => data.chunks_exact(8).any(|b| b[7] & 0x7f == 0x7f && b[6] & 0xf0 == 0xf0),
            _ => false,
        };
        if is_wrong {
            return Ok(Some(format!("`{name}` has a value that is not finite")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(values: &[f32]) -> Vec<u8> {
        let header = format!(
            "{{\"__metadata__\":{{}},\"a\":{{\"dtype\":\"F32\",\"shape\":[{}],\"data_offsets\":[0,{}]}}}}",
            values.len(),
            values.len() * 4
        );
        let data = values.iter().flat_map(|v| v.to_le_bytes());
        (header.len() as u64)
            .to_le_bytes()
            .into_iter()
            .chain(header.into_bytes())
            .chain(data)
            .collect()
    }

    #[test]
    fn what_is_not_finite_is_found() {
        assert_eq!(in_tensors(&file(&[0.0, -1.5, f32::MAX, f32::MIN_POSITIVE])).unwrap(), None);
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(in_tensors(&file(&[0.0, value])).unwrap().unwrap().contains("`a`"));
        }
        assert!(in_tensors(&[1, 2]).is_err());
        assert_eq!(in_lines("{\"loss\":1.5}\n"), None);
        assert!(in_lines("{\"loss\":1.5}\n{\"loss\":null}\n").unwrap().contains("line 2: `loss`"));
        assert!(in_lines("{\"lo").is_some());
        let of = |text: &str| in_value(&serde_json::from_str(text).unwrap());
        assert_eq!(of("{\"a\":[1,{\"b\":\"null\",\"pareto_k\":null}]}"), None);
        assert_eq!(of("{\"a\":[1,{\"b\":null}]}").unwrap(), "`a`: `1`: `b` is not a finite number");
    }
}
