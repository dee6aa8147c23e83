//! A divergence in files.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Divergence;

impl Serialize for Divergence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Divergence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Form)
    }
}

struct Form;

impl<'de> Visitor<'de> for Form {
    type Value = Divergence;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a divergence, such as \"reverse_kl\" or \"alpha:0.5\"")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Divergence, E> {
        name.parse().map_err(E::custom)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Divergence, M::Error> {
        let entry: Option<(String, f64)> = map.next_entry()?;
        match entry {
            Some((key, order)) if key == "alpha" && map.next_key::<String>()?.is_none() => {
                Ok(Divergence::Alpha(order))
            }
            _ => Err(M::Error::custom("a divergence with a number is { alpha = A }, 0 < A < 1")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tables_are_read_and_names_written() {
        let read = |text: &str| serde_json::from_str::<Divergence>(text);
        for divergence in Divergence::ALL {
            let text = serde_json::to_string(&divergence).unwrap();
            assert_eq!(text, format!("\"{divergence}\""));
            assert_eq!(read(&text).unwrap(), divergence);
        }
        assert_eq!(read(r#"{"alpha": 0.25}"#).unwrap(), Divergence::Alpha(0.25));
        for (bad, part) in [
            ("\"jsd\"", "jensen_shannon"),
            ("3", "alpha:0.5"),
            (r#"{"beta": 0.5}"#, "alpha = A"),
            (r#"{"alpha": 0.5, "beta": 1.0}"#, "alpha = A"),
        ] {
            let e = read(bad).unwrap_err().to_string();
            assert!(e.contains(part), "{bad}: {e}");
        }
    }
}
