//! A policy's files: the adapter as PEFT writes it (or one for each policy, in `adapters/NAME/`), the
//! heads (`heads.safetensors`), and `policy.json`, written last, which describes them. Neither the
//! base model nor the state of a training run.

use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use mopo_hub::{TensorFiles, TensorWriter};
use mopo_ops::FusedBackend;
use serde::{Deserialize, Serialize};

use crate::peft;
use crate::weights::Source;
use crate::{
    Decoder, DecoderShape, Error, LoadOptions, LoraConfig, Mixing, OutputLayer, PolicyHeads,
    PolicyParams, Result,
};

const META: &str = "policy.json";
const HEADS: &str = "heads.safetensors";
/// The folder of the adapters of policies that do not share one.
const ADAPTERS: &str = "adapters";

/// `policy.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyMeta {
    /// Version of the layout; 1.
    pub format: u32,
    /// The adapter's size; the first one's, if there are several.
    pub lora: LoraConfig,
    /// The sizes of the policies' adapters, if each has its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<LoraConfig>,
    /// How the policies make another one for preference weights.
    #[serde(default, skip_serializing_if = "Mixing::is_default")]
    pub mixing: Mixing,
    /// One objective for each head, in the heads' order.
    pub objectives: Vec<String>,
    /// The base model that it belongs to.
    pub base: BaseShape,
}

impl PolicyMeta {
    /// The size of each adapter.
    pub fn loras(&self) -> &[LoraConfig] {
        match &self.adapters[..] {
            [] => std::slice::from_ref(&self.lora),
            several => several,
        }
    }

    /// The directory of each adapter.
    fn adapter_dirs(&self, dir: &Path) -> Vec<PathBuf> {
        match &self.adapters[..] {
            [] => vec![dir.to_path_buf()],
            _ => self.objectives.iter().map(|name| dir.join(ADAPTERS).join(name)).collect(),
        }
    }
}

/// What a policy's tensors imply about its base model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseShape {
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
}

/// Reads and checks `policy.json` only.
///
/// # Errors
/// Names the file: it is missing (the directory is not a policy, or was not completed), is not
/// JSON, has another format, or has an invalid configuration.
pub fn read_policy_meta(dir: impl AsRef<Path>) -> Result<PolicyMeta> {
    let path = dir.as_ref().join(META);
    let meta: PolicyMeta = mopo_hub::read_json(&path, "the description of a saved policy")?;
    let check = || {
        if meta.format != 1 {
            return Err(Error::InvalidParameter {
                field: "format",
                value: meta.format.to_string(),
                expected: "this version reads format 1; use the version that wrote it".into(),
            });
        }
        if ![0, meta.objectives.len()].contains(&meta.adapters.len()) {
            return Err(Error::InvalidParameter {
                field: "adapters",
                value: format!("for {} policies", meta.adapters.len()),
                expected: format!("there are {}", meta.objectives.len()),
            });
        }
        // Names of folders.
        mopo_core::Objectives::new(meta.objectives.iter().cloned()).map_err(|e| {
            let (value, expected) = (format!("{:?}", meta.objectives), e.to_string());
            Error::InvalidParameter { field: "objectives", value, expected }
        })?;
        meta.loras().iter().try_for_each(LoraConfig::check)
    };
    check().map_err(|e| Error::InFile { path, source: Box::new(e) })?;
    Ok(meta)
}

/// Writes a policy to `dir`, which is created if needed; `objectives` names the heads, `loras` has the size of each
/// adapter. Each file is written atomically, and `policy.json` is absent while they are being replaced.
///
/// # Errors
/// `objectives` is empty or does not have one name per head; `loras` does not match the adapters; a
/// file cannot be written.
pub fn save_policy<B: Backend>(
    params: &PolicyParams<B>,
    model: &DecoderShape,
    loras: &[LoraConfig],
    objectives: &[String],
    mixing: Mixing,
    dir: impl AsRef<Path>,
) -> Result<()> {
    loras.iter().try_for_each(LoraConfig::check)?;
    let Some(head) = params.heads.heads.first().filter(|_| objectives.len() == params.n_policies())
    else {
        return Err(Error::InvalidParameter {
            field: "objectives",
            value: format!("{objectives:?}"),
            expected: format!(
                "there are {} heads; each needs a name, and there must be at least one",
                params.n_policies()
            ),
        });
    };
    if loras.len() != params.adapters.len() {
        return Err(Error::InvalidParameter {
            field: "lora",
            value: format!("for {} adapters", loras.len()),
            expected: format!("there are {}", params.adapters.len()),
        });
    }
    let [hidden_size, vocab_size] = head.weight.shape();
    let num_hidden_layers = params.adapters[0].layers.len();
    let meta = PolicyMeta {
        format: 1,
        lora: loras[0].clone(),
        adapters: if loras.len() > 1 { loras.to_vec() } else { vec![] },
        mixing,
        objectives: objectives.to_vec(),
        base: BaseShape { num_hidden_layers, hidden_size, vocab_size },
    };
    let dir = dir.as_ref();
    mopo_hub::create_dir(dir)?;
    let meta_path = dir.join(META);
    if let Err(source) = std::fs::remove_file(&meta_path)
        && source.kind() != std::io::ErrorKind::NotFound
    {
        return Err(mopo_hub::Error::Io { action: "replace", path: meta_path, source }.into());
    }

    for ((adapter, lora), dir) in params.adapters.iter().zip(loras).zip(meta.adapter_dirs(dir)) {
        peft::save_adapter(adapter, model, lora, dir)?;
    }
    let mut out = TensorWriter::default().finite_only();
    for (k, head) in params.heads.heads.iter().enumerate() {
        head.write(&mut out, &format!("heads.{k}"));
    }
    out.write(&dir.join(HEADS))?;
    Ok(mopo_hub::write_json(&meta_path, &meta)?)
}

/// Loads a policy written by [`save_policy`]; the parameters are trainable, with fresh ids.
/// `adapter_config.json` determines size and scale of the adapter.
///
/// # Errors
/// Those of [`read_policy_meta`] and [`load_adapter`](crate::load_adapter); a policy of a base
/// model of another shape; missing, unexpected or misshapen tensors, by name.
pub fn load_policy<B: FusedBackend>(
    dir: impl AsRef<Path>,
    base: &impl Decoder<B>,
    device: &B::Device,
) -> Result<(PolicyParams<B>, PolicyMeta)> {
    let dir = dir.as_ref();
    let mut meta = read_policy_meta(dir)?;
    let shape = base.shape();
    for (field, found, expected) in [
        ("hidden_size", meta.base.hidden_size, shape.hidden_size),
        ("num_hidden_layers", meta.base.num_hidden_layers, shape.num_hidden_layers),
        ("vocab_size", meta.base.vocab_size, shape.vocab_size),
    ] {
        if found != expected {
            return Err(Error::BaseMismatch {
                path: dir.join(META),
                field,
                found: found.to_string(),
                expected: expected.to_string(),
            });
        }
    }

    // An adapter's own file is authoritative; `policy.json` is used only if it is missing.
    let (mut loras, mut adapters) = (meta.loras().to_vec(), vec![]);
    for (dir, lora) in meta.adapter_dirs(dir).iter().zip(&mut loras) {
        if peft::has_adapter(dir) {
            *lora = peft::read_config(dir)?;
        }
        adapters.push(peft::read_tensors(dir, lora, &shape, device)?);
    }
    meta.lora = loras[0].clone();
    if !meta.adapters.is_empty() {
        meta.adapters = loras;
    }
    let path = dir.join(HEADS);
    let mut source = Source::Files(TensorFiles::open(&path)?);
    let shape = [shape.hidden_size, shape.vocab_size];
    let own = base.lm_head();
    let kind = (own.bias.is_some(), own.soft_cap);
    let heads = (0..meta.objectives.len())
        .map(|k| {
            OutputLayer::read(
                &mut source,
                &format!("heads.{k}"),
                shape,
                kind,
                LoadOptions::f32(),
                device,
            )
        })
        .collect::<Result<_>>()?;
    source.finish()?;
    Ok((PolicyParams { adapters, heads: PolicyHeads { heads } }, meta))
}

#[cfg(test)]
mod tests {
    use mopo_testkit::TestBackend;

    use super::*;
    use crate::TargetModules;
    use crate::fixtures::{self, values};
    use crate::peft::{CONFIG as PEFT, TENSORS as ADAPTER};

    type B = TestBackend;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|k| format!("objective-{k}")).collect()
    }

    fn save(
        params: &PolicyParams<B>,
        base: &crate::Phi<B>,
        lora: &LoraConfig,
        n: usize,
        dir: &Path,
    ) -> Result<()> {
        let loras = vec![lora.clone(); params.adapters.len()];
        save_policy(params, &base.shape(), &loras, &names(n), Mixing::default(), dir)
    }

    #[test]
    fn policies_with_adapters_of_their_own_load_bit_equal() {
        let dir = tempfile::tempdir().unwrap();
        let base = fixtures::base::<B>(1);
        let mut params = fixtures::policies(&base, 2, 2);
        params.adapters.push(fixtures::policies(&base, 1, 5).adapters.remove(0));
        let loras = [fixtures::lora(), fixtures::lora()];
        let shape = base.shape();
        save_policy(&params, &shape, &loras, &names(2), Mixing::Parameters, dir.path()).unwrap();
        let (loaded, meta) = load_policy::<B>(dir.path(), &base, &Default::default()).unwrap();
        let ranks: Vec<usize> = meta.loras().iter().map(|lora| lora.rank).collect();
        assert_eq!((meta.mixing, &ranks[..]), (Mixing::Parameters, &[4, 4][..]));
        for (k, a) in params.adapters.iter().enumerate() {
            let b = loaded.adapter(k);
            for linear in 0..6 {
                let of = |x: &crate::LoraAdapter<B>| values(x.pair(1, linear).unwrap().b.val());
                assert_eq!(of(a), of(b));
            }
            // Each as PEFT reads it.
            let place = dir.path().join(ADAPTERS).join(format!("objective-{k}"));
            crate::load_adapter::<B>(&place, &shape, &Default::default()).unwrap();
        }
        let one =
            save_policy(&params, &shape, &loras[..1], &names(2), Mixing::default(), dir.path());
        assert!(one.unwrap_err().to_string().contains("there are 2"));
    }

    #[test]
    fn a_saved_policy_loads_bit_equal() {
        let dir = tempfile::tempdir().unwrap();
        let base = fixtures::base::<B>(1);
        let params = fixtures::policies(&base, 2, 2);
        // Twice: the second call overwrites the first.
        save(&params, &base, &fixtures::lora(), 2, dir.path()).unwrap();
        save(&params, &base, &fixtures::lora(), 2, dir.path()).unwrap();
        let (loaded, meta) = load_policy::<B>(dir.path(), &base, &Default::default()).unwrap();
        assert_eq!((meta.lora.rank, meta.objectives), (4, names(2)));
        for (a, b) in params.adapters[0].layers.iter().zip(&loaded.adapters[0].layers) {
            for (a, b) in a.pairs.iter().flatten().zip(b.pairs.iter().flatten()) {
                assert_eq!(a.scale, b.scale);
                assert_eq!(values(a.a.val()), values(b.a.val()));
                assert_eq!(values(a.b.val()), values(b.b.val()));
            }
        }
        for (a, b) in params.heads.heads.iter().zip(&loaded.heads.heads) {
            assert_eq!(values(a.weight.dense()), values(b.weight.dense()));
            let bias = |head: &OutputLayer<B>| values(head.bias.as_ref().unwrap().val());
            assert_eq!(bias(a), bias(b));
        }
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [PEFT, ADAPTER, HEADS, META]);
    }

    #[test]
    fn the_adapter_has_peft_names_and_layout() {
        let dir = tempfile::tempdir().unwrap();
        let base = fixtures::base::<B>(1);
        let params = fixtures::policies(&base, 1, 2);
        save(&params, &base, &fixtures::lora(), 1, dir.path()).unwrap();
        let bytes = std::fs::read(dir.path().join(ADAPTER)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let shape = |name: &str| tensors.tensor(name).unwrap().shape().to_vec();
        let fc1 = "base_model.model.model.layers.1.mlp.fc1";
        assert_eq!(shape(&format!("{fc1}.lora_A.weight")), [4, 24]);
        assert_eq!(shape(&format!("{fc1}.lora_B.weight")), [48, 4]);
        assert_eq!(tensors.names().len(), 2 * 6 * 2);
        let peft: serde_json::Value = mopo_hub::read_json(&dir.path().join(PEFT), "").unwrap();
        assert_eq!(peft["target_modules"][0], "dense");
    }

    #[test]
    fn the_adapters_own_configuration_counts() {
        let dir = tempfile::tempdir().unwrap();
        let base = fixtures::base::<B>(1);
        let params = fixtures::policies(&base, 1, 2);
        save(&params, &base, &fixtures::lora(), 1, dir.path()).unwrap();
        let peft = dir.path().join(PEFT);
        let whole: serde_json::Value = mopo_hub::read_json(&peft, "").unwrap();
        let load = |key: &str, value: serde_json::Value| {
            let mut json = whole.clone();
            json[key] = value;
            mopo_hub::write_json(&peft, &json).unwrap();
            load_policy::<B>(dir.path(), &base, &Default::default())
        };
        let scale = |params: &PolicyParams<B>| params.adapter(0).pair(1, 2).unwrap().scale;
        // alpha / r, and alpha / √r.
        for (key, value, expected) in [
            ("lora_alpha", 24.0.into(), 24.0 / 4.0),
            ("use_rslora", true.into(), 6.0 / 2.0),
            ("use_rslora", false.into(), 6.0 / 4.0),
        ] {
            assert_eq!(scale(&load(key, value).unwrap().0), expected);
        }
        for (key, value) in [("use_dora", true.into()), ("r", 5.into()), ("bias", "all".into())] {
            let error = load(key, value).err().unwrap().to_string();
            let words = if key == "r" { "has shape [4, 24]" } else { key };
            assert!(error.contains(words), "{error}");
        }
        std::fs::remove_file(&peft).unwrap();
        let (loaded, _) = load_policy::<B>(dir.path(), &base, &Default::default()).unwrap();
        assert_eq!(scale(&loaded), 1.5);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let base = fixtures::base::<B>(1);
        let params = fixtures::policies(&base, 2, 2);
        let device = Default::default();
        let message = |result: Result<(PolicyParams<B>, PolicyMeta)>| match result {
            Ok(_) => panic!("it loaded"),
            Err(e) => e.to_string(),
        };
        let error = message(load_policy(dir.path(), &base, &device));
        assert!(error.contains("policy.json"), "{error}");
        let error = save(&params, &base, &fixtures::lora(), 1, dir.path()).unwrap_err();
        assert!(error.to_string().contains("there are 2 heads"), "{error}");
        let fewer =
            LoraConfig { target_modules: TargetModules::names(["fc1"]), ..fixtures::lora() };
        let error = save(&params, &base, &fewer, 2, dir.path()).unwrap_err();
        assert!(error.to_string().contains("lora.target_modules"), "{error}");
        // An interrupted save leaves no description, so nothing loads.
        assert!(message(load_policy(dir.path(), &base, &device)).contains("policy.json"));

        save(&params, &base, &fixtures::lora(), 2, dir.path()).unwrap();
        let other = {
            let _guard = fixtures::BACKEND_RANDOM.lock();
            crate::PhiConfig { vocab_size: 41, ..fixtures::tiny() }.init::<B>(&device)
        };
        let error = message(load_policy(dir.path(), &other, &device));
        assert!(error.contains("`vocab_size` is 40, but the base model has 41"), "{error}");

        let path = dir.path().join(META);
        let text = std::fs::read_to_string(&path).unwrap();
        for (from, to, words) in [
            ("\"objective-1\"", "\"objective-1\", \"third\"", "heads.2.weight"),
            (",\n    \"objective-1\"", "", "heads.1.bias, heads.1.weight"),
            ("\"format\": 1", "\"format\": 2", "`format` is 2"),
            ("\"rank\": 4", "\"rank\": 0", "lora.rank"),
        ] {
            assert!(text.contains(from), "{text}");
            std::fs::write(&path, text.replace(from, to)).unwrap();
            let error = message(load_policy(dir.path(), &base, &device));
            assert!(error.contains(words), "{error}");
        }
    }
}
