//! Named text files compiled into the program, such as configurations to start from.

/// A table of named texts, made by [`presets!`](crate::presets). A new preset is a file and its
/// name there.
#[derive(Debug, Clone, Copy)]
pub struct Presets(&'static [(&'static str, &'static str)]);

/// A table of files by name: `presets!("configs/": "demo", "paper")` includes `configs/demo.toml`
/// and `configs/paper.toml`, relative to the calling file.
#[macro_export]
macro_rules! presets {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        $crate::Presets::new(&[$(($name, include_str!(concat!($folder, $name, ".toml")))),+])
    };
}

impl Presets {
    /// From names and texts; [`presets!`](crate::presets) reads the texts from files.
    pub const fn new(entries: &'static [(&'static str, &'static str)]) -> Self {
        Self(entries)
    }

    /// The text of the preset `name`, if it exists.
    pub fn text(self, name: &str) -> Option<&'static str> {
        self.0.iter().find(|entry| entry.0 == name).map(|entry| entry.1)
    }

    /// Names and texts, in order.
    pub fn iter(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.0.iter().copied()
    }

    /// The names, in order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.iter().map(|entry| entry.0)
    }

    /// The names, formatted for errors.
    pub fn listed(self) -> String {
        self.names().collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_found_by_name() {
        let presets = Presets::new(&[("a", "x = 1"), ("b", "x = 2")]);
        assert_eq!((presets.text("b"), presets.text("c")), (Some("x = 2"), None));
        assert_eq!(presets.listed(), "a, b");
        assert!(presets.names().eq(["a", "b"]));
    }
}
