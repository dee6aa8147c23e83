//! Files that are whole or absent.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file whole or not at all, and makes its folder if needed.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let part = path.with_extension("part");
    fs::write(&part, text).with_context(|| format!("writing {}", part.display()))?;
    fs::rename(&part, path).with_context(|| format!("writing {}", path.display()))
}
