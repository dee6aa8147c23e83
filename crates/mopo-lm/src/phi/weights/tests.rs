//! phi's files: read back, named errors, precision.

use burn::tensor::{DType, Tensor, TensorData};
use mopo_testkit::TestBackend;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use burn::nn::LayerNorm;
use mopo_hub::{WEIGHTS, WeightDtype};

use super::*;
use crate::fixtures::{self, values};
use crate::layers::{OutputLayer, Projection, Weight};
use crate::{Decoder, QuantFormat};

type B = TestBackend;

const INDEX: &str = "model.safetensors.index.json";
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

fn load(path: impl AsRef<Path>, config: &PhiConfig) -> Result<Phi<B>> {
    load_phi(path, config, LoadOptions::default(), &Default::default())
}

fn all(phi: &Phi<B>) -> Vec<f32> {
    let linear = |l: &OutputLayer<B>| {
        [values(l.weight.dense()), values(l.bias.as_ref().unwrap().val())].concat()
    };
    let projection = |l: &Projection<B>| {
        [values(l.dense_weight()), values(l.bias.as_ref().unwrap().val())].concat()
    };
    let norm =
        |n: &LayerNorm<B>| [values(n.gamma.val()), values(n.beta.as_ref().unwrap().val())].concat();
    let mut all = values(phi.embed_tokens.weight.val());
    for layer in &phi.layers {
        layer.linears().into_iter().for_each(|linear| all.extend(projection(linear)));
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
    let phi = fixtures::base::<B>(4);
    phi.save(dir.path()).unwrap();
    let config = PhiConfig::from_file(dir.path().join("config.json")).unwrap();
    assert_eq!(&config, phi.config());
    let file = dir.path().join(WEIGHTS);
    assert_eq!(all(&phi), all(&load(dir.path(), &config).unwrap()));
    assert_eq!(all(&phi), all(&load(&file, &config).unwrap()));

    let tensors = stored(&file);
    std::fs::remove_file(&file).unwrap();
    let (one, two) = tensors.split_at(9);
    let mut map = serde_json::Map::new();
    for (name, part) in [("a.safetensors", one), ("b.safetensors", two)] {
        store(&dir.path().join(name), part);
        part.iter().for_each(|t| drop(map.insert(t.0.clone(), name.into())));
    }
    mopo_hub::write_json(&dir.path().join(INDEX), &serde_json::json!({ "weight_map": map }))
        .unwrap();
    assert_eq!(all(&phi), all(&load(dir.path(), &config).unwrap()));
}

#[test]
fn names_and_layout_are_the_hubs() {
    let dir = tempfile::tempdir().unwrap();
    let phi = fixtures::base::<B>(4);
    phi.save(dir.path()).unwrap();
    let tensors = stored(&dir.path().join(WEIGHTS));
    assert_eq!(tensors.len(), 1 + 2 * 14 + 4);
    let find = |name: &str| tensors.iter().find(|t| t.0 == name).unwrap();
    let fc1 = find("model.layers.1.mlp.fc1.weight");
    assert_eq!(fc1.2, [48, 24]);
    // Row `output`, column `input` in the file; the other way round in memory.
    let (output, input) = (30, 5);
    let at = (output * 24 + input) * 4;
    let there = f32::from_le_bytes(fc1.3[at..at + 4].try_into().unwrap());
    assert_eq!(there, values(phi.layers[1].mlp.fc1.dense_weight())[input * 48 + output]);
    find("model.layers.0.input_layernorm.bias");
    find("model.final_layernorm.weight");
}

/// The same file in another data type.
fn in_dtype(whole: &Stored, dtype: WeightDtype) -> Stored {
    let convert = |(name, _, shape, bytes): &(String, Dtype, Vec<usize>, Vec<u8>)| {
        let data = TensorData::from_bytes_vec(bytes.clone(), shape.clone(), DType::F32);
        let bytes = data.convert_dtype(dtype.burn()).as_bytes().to_vec();
        (name.clone(), dtype.stored(), shape.clone(), bytes)
    };
    whole.iter().map(convert).collect()
}

fn dtypes(phi: &Phi<B>) -> [DType; 5] {
    let fc1 = &phi.layers[1].mlp.fc1;
    [
        phi.embed_tokens.weight.val().dtype(),
        fc1.dense_weight().dtype(),
        phi.lm_head.weight.dense().dtype(),
        fc1.bias.as_ref().unwrap().val().dtype(),
        phi.final_layernorm.gamma.val().dtype(),
    ]
}

#[test]
fn matrices_keep_the_files_data_type_or_become_f32() {
    let dir = tempfile::tempdir().unwrap();
    let phi = fixtures::base::<B>(4);
    phi.save(dir.path()).unwrap();
    let file = dir.path().join(WEIGHTS);
    let whole = stored(&file);
    let expected = all(&phi);
    for (dtype, digits) in [(WeightDtype::F16, 1e-3), (WeightDtype::Bf16, 8e-3)] {
        store(&file, &in_dtype(&whole, dtype));
        let f32 = load_phi(&file, phi.config(), LoadOptions::f32(), &Default::default()).unwrap();
        assert_eq!(dtypes(&f32), [DType::F32; 5]);
        let found = all(&f32);
        // Below 2⁻¹⁴ half precision has a fixed step of 2⁻²⁴, of which rounding takes half.
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= digits * b.abs() + 2f32.powi(-25);
        assert!(found.iter().zip(&expected).all(close));
        assert_ne!(found, expected);

        let kept = load(&file, phi.config()).unwrap();
        let known = <B as burn::tensor::backend::Backend>::supports_dtype(
            &Default::default(),
            dtype.burn(),
        );
        let matrix = if known { dtype.burn() } else { DType::F32 };
        assert_eq!(dtypes(&kept), [matrix, matrix, matrix, DType::F32, DType::F32]);
        assert_eq!(all(&kept), found);
        // Trained heads are in F32 anyway.
        let head = &crate::PolicyHeads::from_base(&kept.lm_head, 1).heads[0];
        assert_eq!(head.weight.dense().dtype(), DType::F32);

        // Written in its type and read again: the same values and types.
        let again = dir.path().join(dtype.hub_name());
        kept.save(&again).unwrap();
        let stored_dtype =
            |name: &str| stored(&again.join(WEIGHTS)).into_iter().find(|t| t.0 == name).unwrap().1;
        let name = if known { dtype.hub_name() } else { "float32" };
        assert_eq!(stored_dtype("lm_head.weight"), WeightDtype::of(matrix).stored());
        assert_eq!(stored_dtype("lm_head.bias"), Dtype::F32);
        let config: serde_json::Value =
            mopo_hub::read_json(&again.join("config.json"), "").unwrap();
        assert_eq!(config["torch_dtype"], name);
        let again = load(&again, phi.config()).unwrap();
        assert_eq!((all(&again), dtypes(&again)), (found, dtypes(&kept)));
    }
}

#[test]
fn a_loaded_matrix_is_a_view_of_the_files_layout_with_the_right_values() {
    let dir = tempfile::tempdir().unwrap();
    let phi = fixtures::base::<B>(4);
    phi.save(dir.path()).unwrap();
    let loaded = load(dir.path(), phi.config()).unwrap();
    let [saved, loaded] = [&phi, &loaded].map(|phi| phi.layers[0].mlp.fc2.dense_weight());
    assert_eq!(loaded.dims(), [48, 24]);
    // Sliced, multiplied and written again, the view is the matrix.
    let part = |w: &Tensor<B, 2>| w.clone().slice([3..17, 5..20]);
    assert_eq!(values(part(&loaded)), values(part(&saved)));
    let x = Tensor::<B, 2>::ones([3, 48], &Default::default());
    let sums = |w: &Tensor<B, 2>| values(x.clone().matmul(w.clone()));
    fixtures::assert_close(&sums(&loaded), &sums(&saved), 1e-5);
}

/// Written by PyTorch: see tests/parity/make_fixtures.py.
fn pytorch() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures/pytorch")
}

#[test]
fn a_pytorch_checkpoint_loads_whole_and_from_shards() {
    let config = PhiConfig::from_file(pytorch().join("config.json")).unwrap();
    let whole = load(pytorch(), &config).unwrap();
    assert_eq!(all(&whole).len(), config.num_params());
    let file = load(pytorch().join("pytorch_model.bin"), &config).unwrap();
    assert_eq!(all(&whole), all(&file));
    let shards = pytorch().with_file_name("pytorch_shards");
    assert_eq!(all(&whole), all(&load(shards, &config).unwrap()));
    let deep = PhiConfig { num_hidden_layers: 2, ..config };
    let error = message(load(pytorch(), &deep));
    assert!(error.contains("lacks 14") && error.contains("model.layers.1."), "{error}");
}

#[test]
fn damaged_and_foreign_pytorch_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = PhiConfig::from_file(pytorch().join("config.json")).unwrap();
    let whole = std::fs::read(pytorch().join("pytorch_model.bin")).unwrap();
    let file = dir.path().join("pytorch_model.bin");
    let error = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        message(load(dir.path(), &config))
    };
    for n in [0, 4, 1000, whole.len() / 2, whole.len() - 1] {
        let error = error(&whole[..n]);
        assert!(error.contains("not a complete PyTorch file"), "{n}: {error}");
        assert!(error.contains("pytorch_model.bin"), "{n}: {error}");
    }
    for foreign in [&b"{\"a\": 1}"[..], b"version https://git-lfs.github.com/spec/v1\noid sha256:0"]
    {
        let error = error(foreign);
        assert!(error.contains("not a complete PyTorch file"), "{error}");
    }
    assert!(error(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
    // A pickle that would call something is not a state dict: it is refused, and nothing is called.
    let called = dir.path().join("called");
    let call = format!("cposix\nsystem\n(S'touch {}'\ntR.", called.display());
    assert!(error(call.as_bytes()).contains("pytorch_model.bin"));
    assert!(!called.exists());
    // Damage inside a tensor: detected by the container's checksum.
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 0xff;
    let error = error(&changed);
    assert!(error.contains("pytorch_model.bin"), "{error}");
}

#[test]
fn what_is_wrong_in_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let phi = fixtures::base::<B>(4);
    let load = |config: &PhiConfig| {
        message(super::load_phi(dir.path(), config, LoadOptions::default(), &Default::default()))
    };
    let error = load(phi.config());
    assert!(error.contains("model.safetensors") && error.contains("pytorch_model.bin"), "{error}");
    phi.save(dir.path()).unwrap();
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
    assert!(error.contains("has 14 tensors") && error.contains("model.layers.1."), "{error}");

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

#[test]
fn a_checkpoint_is_quantised_while_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let base = fixtures::base::<B>(4);
    base.save(dir.path()).unwrap();
    for format in [QuantFormat::Nf4 { double_quant: true }, QuantFormat::Int8] {
        let options = LoadOptions::quantised(format);
        let load = |path: &Path| load_phi::<B>(path, base.config(), options, &Default::default());
        let found = load(dir.path()).unwrap();
        let expected = base.clone().quantise(format).unwrap();
        assert_eq!(all(&found), all(&expected));
        for linear in found.layers[1].linears() {
            let Weight::Quantised(weight) = &linear.weight else { panic!("{linear:?}") };
            assert_eq!(weight.layout().format, format);
        }
        // Saved again, the codes' values are the weights.
        let again = tempfile::tempdir().unwrap();
        found.save(again.path()).unwrap();
        let again =
            load_phi::<B>(again.path(), base.config(), LoadOptions::default(), &Default::default());
        assert_eq!(all(&again.unwrap()), all(&found));

        let file = dir.path().join("model.safetensors");
        let whole = stored(&file);
        let name = "model.layers.1.self_attn.dense.weight";
        let bad = whole.iter().cloned().map(|(n, dtype, shape, mut bytes)| {
            if n == name {
                bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
            }
            (n, dtype, shape, bytes)
        });
        let bad: Stored = bad.collect();
        let other = dir.path().join("bad.safetensors");
        store(&other, &bad);
        let said = message(load(&other));
        assert!(said.contains("bad.safetensors") && said.contains(name), "{said}");
        assert!(said.contains("NaN") && said.contains("[0, 2]"), "{said}");
    }
}
