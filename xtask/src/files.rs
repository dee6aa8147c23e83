//! Files that are whole or absent.

use std::path::Path;

use anyhow::Result;

/// Writes a file whole or not at all, and makes its folder if needed. Several processes may write the same one: it has the
/// text of one of them.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    Ok(mopo_hub::write_atomically(path, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn several_can_write_one_file() {
        let dir = std::env::temp_dir().join(format!("mopo-files-{}", std::process::id()));
        let path = dir.join("new/asked.json");
        let texts = ["a".repeat(10_000), "b".repeat(20_000), "c".repeat(5_000)];
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| {
                    for _ in 0..50 {
                        write_whole(&path, text).unwrap();
                        let found = fs::read_to_string(&path).unwrap();
                        assert!(texts.contains(&found), "{} bytes of none of them", found.len());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.join("new")).unwrap().count(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }
}
