//! phi's weights in the hub's files: `config.json` with `model.safetensors` (or its shards), which
//! the reference library reads and writes too. Adapters and heads are in `adapter`.

use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::nn::{Embedding, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::backend::Backend;
use serde::Deserialize;

use crate::files::{self, TensorFiles, TensorWriter};
use crate::lora::LoraTarget;
use crate::phi::{PhiAttention, PhiLayer, PhiMlp, Rotary};
use crate::projection::{Projection, Weight};
use crate::{Phi, PhiConfig, Result};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// `model.safetensors.index.json`: which shard holds a tensor.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: std::collections::BTreeMap<String, String>,
}

/// Loads a phi model of that configuration from a directory of the hub (`model.safetensors`, or the
/// shards that `model.safetensors.index.json` names) or from one file. F16 and BF16 become F32. The
/// parameters are trainable; see [`Phi::freeze`].
///
/// # Errors
/// A file that cannot be read or is cut short; tensors missing, left over, of another shape or of
/// an unread data type, by name.
pub fn load_phi<B: Backend>(
    dir_or_file: impl AsRef<Path>,
    config: &PhiConfig,
    device: &B::Device,
) -> Result<Phi<B>> {
    config.check()?;
    let path = dir_or_file.as_ref();
    let (path, shards) = find_files(path)?;
    let mut files = TensorFiles::open(&path, &shards)?;
    // Older checkpoints of the reference library carry this constant.
    files.ignore(|name| name.ends_with("rotary_emb.inv_freq"));
    let (d, vocab) = (config.hidden_size, config.vocab_size);

    let embed = files.tensor("model.embed_tokens.weight", [vocab, d], device)?;
    let mut layers = vec![];
    for i in 0..config.num_hidden_layers {
        let mut at = |target: LoraTarget| {
            let name = format!("model.layers.{i}.{}", target.path());
            read_linear(&mut files, &name, target.shape(config), device).map(projection)
        };
        let self_attn = PhiAttention {
            q_proj: at(LoraTarget::QProj)?,
            k_proj: at(LoraTarget::KProj)?,
            v_proj: at(LoraTarget::VProj)?,
            dense: at(LoraTarget::Dense)?,
        };
        let mlp = PhiMlp { fc1: at(LoraTarget::Fc1)?, fc2: at(LoraTarget::Fc2)? };
        let name = format!("model.layers.{i}.input_layernorm");
        let input_layernorm = read_norm(&mut files, &name, config, device)?;
        layers.push(PhiLayer { input_layernorm, self_attn, mlp });
    }
    let final_layernorm = read_norm(&mut files, "model.final_layernorm", config, device)?;
    let lm_head = read_linear(&mut files, "lm_head", [d, vocab], device)?;
    files.finish()?;
    Ok(Phi {
        embed_tokens: Embedding { weight: Param::from_tensor(embed) },
        layers,
        final_layernorm,
        lm_head,
        rotary: Rotary::new(config, device),
        config: config.clone(),
        gradient_checkpointing: false,
    })
}

/// Writes `config.json` and `model.safetensors` (F32) into `dir`, which is created if need be: the
/// names and layout of the reference library's `PhiForCausalLM`.
///
/// # Errors
/// The file that could not be written.
pub fn save_phi<B: Backend>(phi: &Phi<B>, dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    files::create_dir(dir)?;
    let mut out = TensorWriter::default();
    out.tensor("model.embed_tokens.weight", phi.embed_tokens.weight.val());
    for (i, layer) in phi.layers.iter().enumerate() {
        for target in LoraTarget::ALL {
            let name = format!("model.layers.{i}.{}", target.path());
            let layer = layer.linear(target);
            out.transposed(&format!("{name}.weight"), layer.dense_weight());
            out.tensor(&format!("{name}.bias"), layer.bias.val());
        }
        write_norm(&mut out, &format!("model.layers.{i}.input_layernorm"), &layer.input_layernorm);
    }
    write_norm(&mut out, "model.final_layernorm", &phi.final_layernorm);
    write_linear(&mut out, "lm_head", &phi.lm_head);
    out.write(&dir.join(WEIGHTS))?;
    files::write_json(&dir.join("config.json"), &phi.config().to_hub())
}

fn find_files(path: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    if !path.is_dir() {
        return Ok((path.into(), vec![path.into()]));
    }
    let (single, index) = (path.join(WEIGHTS), path.join(INDEX));
    // One whole file wins; without either, reading it gives the error.
    if single.exists() || !index.exists() {
        return Ok((single.clone(), vec![single]));
    }
    let shards: ShardIndex = files::read_json(&index, "the index of a sharded checkpoint")?;
    let mut names: Vec<String> = shards.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    Ok((index, names.into_iter().map(|name| path.join(name)).collect()))
}

fn projection<B: Backend>(layer: Linear<B>) -> Projection<B> {
    let bias = layer.bias.expect("just read");
    Projection { weight: Weight::Dense(layer.weight), bias }
}

/// A linear layer of `[inputs, outputs]`, stored transposed.
pub(crate) fn read_linear<B: Backend>(
    files: &mut TensorFiles,
    name: &str,
    shape: [usize; 2],
    device: &B::Device,
) -> Result<Linear<B>> {
    let weight = files.transposed(&format!("{name}.weight"), shape, device)?;
    let bias = files.tensor(&format!("{name}.bias"), [shape[1]], device)?;
    Ok(Linear { weight: Param::from_tensor(weight), bias: Some(Param::from_tensor(bias)) })
}

/// The counterpart of [`read_linear`].
pub(crate) fn write_linear<B: Backend>(out: &mut TensorWriter, name: &str, layer: &Linear<B>) {
    out.transposed(&format!("{name}.weight"), layer.weight.val());
    let bias = layer.bias.as_ref().expect("every linear layer of phi has a bias");
    out.tensor(&format!("{name}.bias"), bias.val());
}

fn read_norm<B: Backend>(
    files: &mut TensorFiles,
    name: &str,
    config: &PhiConfig,
    device: &B::Device,
) -> Result<LayerNorm<B>> {
    let d = config.hidden_size;
    let mut norm = LayerNormConfig::new(d).with_epsilon(config.layer_norm_eps).init(device);
    norm.gamma = Param::from_tensor(files.tensor(&format!("{name}.weight"), [d], device)?);
    norm.beta = Some(Param::from_tensor(files.tensor(&format!("{name}.bias"), [d], device)?));
    Ok(norm)
}

fn write_norm<B: Backend>(out: &mut TensorWriter, name: &str, norm: &LayerNorm<B>) {
    out.tensor(&format!("{name}.weight"), norm.gamma.val());
    let beta = norm.beta.as_ref().expect("every LayerNorm of phi has a bias");
    out.tensor(&format!("{name}.bias"), beta.val());
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};
    use mopo_testkit::TestBackend;
    use safetensors::SafeTensors;
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;
    use crate::fixtures::{self, values};

    type B = TestBackend;
    type Stored = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

    fn stored(file: &Path) -> Stored {
        let bytes = std::fs::read(file).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        tensors
            .tensors()
            .into_iter()
            .map(|(name, v)| (name, v.dtype(), v.shape().to_vec(), v.data().to_vec()))
            .collect()
    }

    fn store(file: &Path, tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        std::fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    fn all(phi: &Phi<B>) -> Vec<f32> {
        let linear = |l: &Linear<B>| {
            [values(l.weight.val()), values(l.bias.as_ref().unwrap().val())].concat()
        };
        let norm = |n: &LayerNorm<B>| {
            [values(n.gamma.val()), values(n.beta.as_ref().unwrap().val())].concat()
        };
        let mut all = values(phi.embed_tokens.weight.val());
        for layer in &phi.layers {
            for target in LoraTarget::ALL {
                let layer = layer.linear(target);
                all.extend([values(layer.dense_weight()), values(layer.bias.val())].concat());
            }
            all.extend(norm(&layer.input_layernorm));
        }
        all.extend(norm(&phi.final_layernorm));
        all.extend(linear(&phi.lm_head));
        all
    }

    fn message(result: Result<Phi<B>>) -> String {
        match result {
            Ok(_) => panic!("it loaded"),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn a_saved_model_loads_bit_equal_from_directory_file_and_shards() {
        let dir = tempfile::tempdir().unwrap();
        let device = Default::default();
        let phi = fixtures::base::<B>(4);
        save_phi(&phi, dir.path()).unwrap();
        let config = PhiConfig::from_file(dir.path().join("config.json")).unwrap();
        assert_eq!(&config, phi.config());
        let file = dir.path().join(WEIGHTS);
        assert_eq!(all(&phi), all(&load_phi(dir.path(), &config, &device).unwrap()));
        assert_eq!(all(&phi), all(&load_phi(&file, &config, &device).unwrap()));

        let tensors = stored(&file);
        std::fs::remove_file(&file).unwrap();
        let (one, two) = tensors.split_at(9);
        let mut map = serde_json::Map::new();
        for (name, part) in [("a.safetensors", one), ("b.safetensors", two)] {
            store(&dir.path().join(name), part);
            part.iter().for_each(|t| drop(map.insert(t.0.clone(), name.into())));
        }
        files::write_json(&dir.path().join(INDEX), &serde_json::json!({ "weight_map": map }))
            .unwrap();
        assert_eq!(all(&phi), all(&load_phi(dir.path(), &config, &device).unwrap()));
    }

    #[test]
    fn names_and_layout_are_the_hubs() {
        let dir = tempfile::tempdir().unwrap();
        let phi = fixtures::base::<B>(4);
        save_phi(&phi, dir.path()).unwrap();
        let tensors = stored(&dir.path().join(WEIGHTS));
        assert_eq!(tensors.len(), 1 + 2 * 14 + 4);
        let find = |name: &str| tensors.iter().find(|t| t.0 == name).unwrap();
        let fc1 = find("model.layers.1.mlp.fc1.weight");
        assert_eq!(fc1.2, [48, 24]);
        // Row `output`, column `input` there; the other way round here.
        let (output, input) = (30, 5);
        let at = (output * 24 + input) * 4;
        let there = f32::from_le_bytes(fc1.3[at..at + 4].try_into().unwrap());
        assert_eq!(there, values(phi.layers[1].mlp.fc1.dense_weight())[input * 48 + output]);
        find("model.layers.0.input_layernorm.bias");
        find("model.final_layernorm.weight");
    }

    #[test]
    fn half_precision_files_become_f32() {
        let dir = tempfile::tempdir().unwrap();
        let phi = fixtures::base::<B>(4);
        save_phi(&phi, dir.path()).unwrap();
        let file = dir.path().join(WEIGHTS);
        let whole = stored(&file);
        let expected = all(&phi);
        for (dtype, burn_dtype, digits) in
            [(Dtype::F16, DType::F16, 1e-3), (Dtype::BF16, DType::BF16, 8e-3)]
        {
            let mut half = whole.clone();
            for (_, d, shape, bytes) in &mut half {
                let data = TensorData::from_bytes_vec(bytes.clone(), shape.clone(), DType::F32);
                *bytes = data.convert_dtype(burn_dtype).as_bytes().to_vec();
                *d = dtype;
            }
            store(&file, &half);
            let found = all(&load_phi(&file, phi.config(), &Default::default()).unwrap());
            // Below 2⁻¹⁴ half precision has a fixed step of 2⁻²⁴, of which rounding takes half.
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= digits * b.abs() + 2f32.powi(-25);
            assert!(found.iter().zip(&expected).all(close));
            assert_ne!(found, expected);
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let phi = fixtures::base::<B>(4);
        let load = |config: &PhiConfig| message(load_phi(dir.path(), config, &Default::default()));
        assert!(load(phi.config()).contains("model.safetensors"), "{}", load(phi.config()));
        save_phi(&phi, dir.path()).unwrap();
        let file = dir.path().join(WEIGHTS);
        let whole = stored(&file);

        let wide = PhiConfig { intermediate_size: 50, ..phi.config().clone() };
        let error = load(&wide);
        assert!(error.contains("fc1.weight` has shape [48, 24]"), "{error}");
        assert!(error.contains("[50, 24]"), "{error}");
        let deep = PhiConfig { num_hidden_layers: 3, ..phi.config().clone() };
        let error = load(&deep);
        assert!(error.contains("lacks 14") && error.contains("model.layers.2."), "{error}");
        let shallow = PhiConfig { num_hidden_layers: 1, ..phi.config().clone() };
        let error = load(&shallow);
        assert!(error.contains("holds 14") && error.contains("model.layers.1."), "{error}");

        let mut changed = whole.clone();
        changed.retain(|t| t.0 != "lm_head.bias");
        let inv_freq = "model.layers.0.self_attn.rotary_emb.inv_freq";
        changed.push((inv_freq.into(), Dtype::F32, vec![1], vec![0; 4]));
        store(&file, &changed);
        let error = load(phi.config());
        assert!(error.contains("lacks 1 ") && error.contains("lm_head.bias"), "{error}");

        changed.push(("lm_head.bias".into(), Dtype::I64, vec![40], vec![0; 320]));
        store(&file, &changed);
        let error = load(phi.config());
        assert!(error.contains("`lm_head.bias` has data type I64"), "{error}");

        store(&file, &whole);
        let bytes = std::fs::read(&file).unwrap();
        for n in [0, 5, 200, bytes.len() - 1] {
            std::fs::write(&file, &bytes[..n]).unwrap();
            let error = load(phi.config());
            assert!(error.contains("not a complete safetensors file"), "{error}");
        }
    }
}
