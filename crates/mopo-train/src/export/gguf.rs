//! One policy as a GGUF file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use mopo_hub::check_output_file;
use mopo_hub::gguf::{TensorType, Value, is_gguf};
use mopo_lm::export_gguf;
use mopo_ops::FusedBackend;

use super::{ExportChoice, ExportSource, owner, refused};
use crate::{Error, Result};

impl ExportSource {
    /// Writes a policy, or the SFT model, as a GGUF file with its tokenizer and chat template. Its matrices are in
    /// `kind` or, where that does not fit, in another type ([`export_gguf`]); returns how many are in which. An
    /// existing file stays until the new one is complete.
    ///
    /// # Errors
    /// Those of [`check_gguf_place`]; all policies at once; a file of the source that is damaged or does not fit the
    /// others; a model or a tokenizer that llama.cpp cannot have, by the key that says why; a weight that `kind`
    /// cannot store; a file that cannot be written.
    pub fn export_gguf<B: FusedBackend>(
        &self,
        choice: ExportChoice,
        kind: TensorType,
        out: &Path,
        force: bool,
        device: &B::Device,
    ) -> Result<BTreeMap<&'static str, usize>> {
        check_gguf_place(out, force)?;
        let loaded = self.load::<B>(device)?;
        let Some((model, lm_head)) = loaded.whole(choice)? else {
            return Err(refused(out, "a GGUF file has one policy; name it with --policy"));
        };
        let settings = loaded.tokenizer_config();
        let template = settings["chat_template"].as_str();
        let mut metadata = loaded.tokenizer.gguf_metadata(loaded.shape.vocab_size, template)?;
        let name = out.file_stem().unwrap_or_default().to_string_lossy();
        metadata.push(("general.name".into(), Value::from(&*name)));
        Ok(export_gguf(&model, lm_head, kind, metadata, out)?)
    }
}

/// Refuses to write a GGUF file at `out` if that has another extension than `.gguf`, by which programs know such
/// files, or to replace anything there but a GGUF file, and that only with `force`.
///
/// # Errors
/// What exists there, with a remedy.
pub fn check_gguf_place(out: &Path, force: bool) -> Result<()> {
    if !is_gguf(out) {
        return Err(refused(out, "programs know GGUF files by their extension; name it `….gguf`"));
    }
    if let Some(owner) = owner(out) {
        let message = format!("it belongs to {}; choose a place outside", owner.display());
        return Err(refused(out, message));
    }
    check_output_file(out, [])?;
    if !out.exists() {
        return Ok(());
    }
    if !force {
        let message = "the file exists; choose another one, or replace it with --force";
        return Err(refused(out, message));
    }
    let mut magic = vec![];
    let file = File::open(out).map_err(Error::io("reading", out))?;
    file.take(4).read_to_end(&mut magic).map_err(Error::io("reading", out))?;
    match &*magic {
        b"GGUF" => Ok(()),
        _ => {
            let message = "it is not a GGUF file, and --force replaces nothing else; choose another \
                           file with --out, or remove it yourself";
            Err(refused(out, message))
        }
    }
}
