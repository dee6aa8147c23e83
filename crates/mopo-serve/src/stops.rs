//! Stop strings in a text that comes in pieces.

/// Finds the first stop string; text that may be the beginning of one is held back.
///
/// ```
/// let mut scanner = mopo_serve::StopScanner::new(vec!["END".into()]);
/// assert_eq!(scanner.push("one E"), "one ");
/// assert_eq!(scanner.push("at two EN"), "Eat two ");
/// assert_eq!(scanner.push("D three"), "");
/// assert!(scanner.is_done() && scanner.finish().is_empty());
/// ```
#[derive(Debug, Clone, Default)]
pub struct StopScanner {
    stops: Vec<String>,
    held: String,
    is_done: bool,
}

impl StopScanner {
    /// A scanner for these strings; empty ones are ignored.
    pub fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, held: String::new(), is_done: false }
    }

    /// Takes more text, and returns what is certainly before any stop string.
    pub fn push(&mut self, text: &str) -> String {
        if self.is_done {
            return String::new();
        }
        self.held += text;
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(&**stop)).min() {
            self.is_done = true;
            let mut before = std::mem::take(&mut self.held);
            before.truncate(at);
            return before;
        }
        let held = self.stops.iter().map(|stop| beginning(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - held);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop string was found.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// What was held back, at the end of the text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` with which `stop` begins, but less than all of it.
fn beginning(text: &str, stop: &str) -> usize {
    let ends = stop.char_indices().map(|(end, _)| end).rev();
    ends.into_iter().find(|end| text.ends_with(&stop[..*end])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_end_before_the_first_stop_string() {
        for (text, stops, expected) in [
            ("a cat and a dog", &["dog"][..], "a cat and a "),
            ("aab", &["ab"], "a"),
            ("ababac", &["abac"], "ab"),
            ("a\n\nb\n\nc", &["c", "\n\n"], "a"),
            ("größer ö", &["ß"], "grö"),
            ("nothing", &["no such"], "nothing"),
            ("xyz", &["zzz", ""], "xyz"),
        ] {
            let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
            let chars: Vec<char> = text.chars().collect();
            for size in 1..=chars.len() {
                let mut scanner = StopScanner::new(stops.clone());
                let mut found = String::new();
                for piece in chars.chunks(size) {
                    found += &scanner.push(&piece.iter().collect::<String>());
                    assert!(expected.starts_with(&found), "{text}: {found}");
                }
                found += &scanner.finish();
                assert_eq!(found, expected, "{text} in pieces of {size}");
                assert_eq!(scanner.is_done(), expected.len() < text.len(), "{text}");
            }
        }
    }
}
