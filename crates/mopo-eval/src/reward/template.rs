//! The template of a reward model's input.

use crate::{Error, Result};

/// A text with placeholders for prompt and response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Prompt,
    Response,
}

impl Template {
    /// Parses a template: `{prompt}`, `{response}`; `{{` and `}}` are braces. `field` is used in
    /// errors.
    pub(crate) fn parse(field: &'static str, text: &str) -> Result<Self> {
        let refused = |why: &str| Error::invalid(field, format!("`{text}`"), why);
        let places = "the placeholders are {prompt} and {response}; write a brace as {{ or }}";
        let (mut parts, mut plain) = (vec![], String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain += &rest[..at];
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain += brace;
                rest = after;
                continue;
            }
            let end = rest.find('}').filter(|_| brace == "{").ok_or_else(|| refused(places))?;
            parts.push(Part::Text(std::mem::take(&mut plain)));
            parts.push(match &rest[..end] {
                "prompt" => Part::Prompt,
                "response" => Part::Response,
                _ => return Err(refused(places)),
            });
            rest = &rest[end + 1..];
        }
        plain += rest;
        parts.push(Part::Text(plain));
        parts.retain(|part| *part != Part::Text(String::new()));
        if parts.is_empty() {
            return Err(refused("it is empty"));
        }
        Ok(Self { parts })
    }

    /// Whether a template is valid.
    pub(crate) fn check(field: &'static str, text: &str) -> Result<()> {
        Self::parse(field, text).map(drop)
    }

    /// The text. Braces within prompt and response are not placeholders.
    pub(crate) fn fill(&self, prompt: &str, response: &str) -> String {
        let of = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Prompt => prompt.to_owned(),
            Part::Response => response.to_owned(),
        };
        self.parts.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_once() {
        let fill = |template| Template::parse("text", template).unwrap().fill("P{response}", "R");
        assert_eq!(fill("{prompt}{response}"), "P{response}R");
        assert_eq!(fill("{response} <|endoftext|> {prompt}"), "R <|endoftext|> P{response}");
        assert_eq!(fill("{{x}} é {response}{response}}}"), "{x} é RR}");
    }

    #[test]
    fn mistakes_are_named() {
        for text in ["", "{propmt}", "{prompt", "a } b", "{}"] {
            let e = Template::parse("pair", text).unwrap_err().to_string();
            assert!(e.contains("`pair`") && e.contains(text), "{e}");
        }
    }
}
