//! A model with an output layer as a plain Hugging Face model directory: weights, `config.json` and
//! `generation_config.json`. The tokenizer's files are the caller's.

use std::path::Path;

use mopo_hub::{WEIGHTS, WeightDtype};
use mopo_ops::FusedBackend;

use crate::{Decoder, HubGeneration, OutputLayer, Result};

/// Writes `model`, with `lm_head` as its output layer if that is given, to `dir`, which is created if needed, in the
/// layout of transformers; all tensors in `dtype`. `generation` becomes
/// `generation_config.json`; its special tokens are written to `config.json` too.
///
/// A plain directory has no adapter: [`merge`](crate::merge) it first.
///
/// # Errors
/// A file cannot be written.
pub fn export_hub<B: FusedBackend>(
    model: &impl Decoder<B>,
    lm_head: Option<&OutputLayer<B>>,
    dtype: WeightDtype,
    generation: &HubGeneration,
    dir: impl AsRef<Path>,
) -> Result<()> {
    let dir = dir.as_ref();
    mopo_hub::create_dir(dir)?;
    model.write_weights(lm_head, Some(dtype), &dir.join(WEIGHTS))?;
    generation.write(dir)?;
    let mut config = model.hub_config();
    config["torch_dtype"] = dtype.hub_name().into();
    if lm_head.is_some() {
        // Also where the model's own output layer is its embedding.
        config["tie_word_embeddings"] = false.into();
    }
    let tokens = serde_json::to_value(generation).expect("plain data");
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        config[key] = tokens[key].clone();
    }
    Ok(mopo_hub::write_json(&dir.join("config.json"), &config)?)
}

#[cfg(test)]
mod tests {
    use mopo_testkit::TestBackend;

    use super::*;
    use crate::fixtures::{self, values};
    use crate::{LoadOptions, PhiConfig, load_phi, merge};

    type B = TestBackend;

    #[test]
    fn an_exported_policy_is_a_model_with_its_head_and_without_its_adapter() {
        let dir = tempfile::tempdir().unwrap();
        let base = fixtures::base::<B>(1);
        let params = fixtures::policies(&base, 2, 2);
        let merged = merge(&base, params.adapter(0)).unwrap();
        let head = &params.heads.heads[1];
        let generation = HubGeneration { eos_token_id: vec![39], ..Default::default() };
        for (dtype, digits) in [(WeightDtype::F32, 0.0), (WeightDtype::Bf16, 4e-3)] {
            export_hub(&merged, Some(head), dtype, &generation, dir.path()).unwrap();
            let config = PhiConfig::from_file(dir.path().join("config.json")).unwrap();
            let again = load_phi::<B>(dir.path(), &config, LoadOptions::f32(), &Default::default());
            let again = again.unwrap();
            let (found, expected) =
                (values(again.lm_head.weight.dense()), values(head.weight.dense()));
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= digits * b.abs()));
            let json: serde_json::Value =
                mopo_hub::read_json(&dir.path().join("config.json"), "").unwrap();
            assert_eq!(json["torch_dtype"], dtype.hub_name());
            assert_eq!(json["architectures"][0], "PhiForCausalLM");
            assert_eq!((&json["eos_token_id"], &json["bos_token_id"]), (&39.into(), &().into()));
            assert_eq!(HubGeneration::read(dir.path()).unwrap().unwrap(), generation);
        }
    }
}
