//! The trained model as a Hugging Face model directory.

use mopo_eval::ScoreStatistics;
use mopo_eval::reward::{ModelReward, TruncationSide};
use mopo_hub::DirWriter;
use mopo_ops::FusedBackend;
use serde_json::json;

use crate::{Error, Result, RunDir};

/// The model's directory in the run.
pub(crate) const MODEL_DIR: &str = "model";

/// Padding tokens: the first of these that a tokenizer has.
pub(crate) const PADDING: [&str; 4] = ["[PAD]", "<pad>", mopo_data::END_OF_TEXT, "</s>"];

/// Writes `model/`: `config.json`, `model.safetensors`, `tokenizer.json` with its settings, and
/// `reward.toml`, the settings for scoring. All of it or nothing: the directory is renamed into
/// place.
pub(crate) fn save_model<B: FusedBackend>(
    run: &RunDir,
    reward: &ModelReward<B>,
    scores: &ScoreStatistics,
) -> Result<()> {
    run.check_there()?;
    let partial = DirWriter::new(&run.join(MODEL_DIR))?;
    let dir = partial.path();
    reward.model().save(dir)?;
    reward.tokenizer().save(dir)?;
    let settings = reward.settings();
    let side = match settings.truncation_side {
        TruncationSide::Left => "left",
        TruncationSide::Right => "right",
    };
    let mut tokenizer = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": settings.max_length,
        "truncation_side": side,
        "padding_side": "right",
        "clean_up_tokenization_spaces": false,
        "model_input_names": ["input_ids", "attention_mask"],
    });
    // With a padding token other than the tokenizer's, batches of other programs would pool
    // wrongly.
    for (role, names) in [
        ("pad_token", &PADDING[..]),
        ("eos_token", &[mopo_data::END_OF_TEXT, "</s>"]),
        ("unk_token", &["[UNK]", "<unk>"]),
        ("cls_token", &["[CLS]"]),
        ("sep_token", &["[SEP]"]),
        ("mask_token", &["[MASK]"]),
    ] {
        if let Some(name) = names.iter().find(|name| reward.tokenizer().id(name).is_some()) {
            tokenizer[role] = json!(name);
        }
    }
    let text = serde_json::to_vec_pretty(&tokenizer)
        .map_err(|e| Error::corrupt(&dir.join("tokenizer_config.json"), e.to_string()))?;
    mopo_data::write_atomically(&dir.join("tokenizer_config.json"), &text)?;
    settings.clone().with_statistics(*scores).save(dir)?;
    // Replaces an identical one if the run was killed between this and its result.
    Ok(partial.place()?)
}
