//! The families of decoders: what each provides, and the list of them.
//!
//! A new family is one file beside `phi.rs`, which implements [`Decoder`], a fixture of its published
//! results, and its row in `families!` below. Everything else (adapters, policies, generation, files,
//! training) goes through [`Decoder`], [`DecoderShape`] and [`CausalLm`].

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::nn::Linear;
use burn::record::{BinBytesRecorder, FullPrecisionSettings, Recorder, RecorderError};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_hub::{WEIGHTS, WeightDtype};
use mopo_ops::FusedBackend;

use crate::lora::{LoraAdapter, LoraTarget};
use crate::phi::{KvCache, Phi};
use crate::projection::Projection;
use crate::{Error, LoadOptions, PackedInputs, PhiConfig, Result};

/// The sizes of a decoder that others need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderShape {
    /// Size of the vocabulary: rows of the embedding and outputs of the output layer.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Maximum length of a sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Parameters, embedding and output layer included.
    pub num_params: usize,
    /// The linear layers of a block, which adapters may change, each with `[inputs, outputs]`.
    pub linears: Vec<(LoraTarget, [usize; 2])>,
}

impl DecoderShape {
    /// `[inputs, outputs]` of a layer. Panics if the family has no such layer.
    pub fn linear(&self, target: LoraTarget) -> [usize; 2] {
        let found = self.linears.iter().find(|(of, _)| *of == target);
        found.unwrap_or_else(|| panic!("no layer {}", target.path())).1
    }
}

/// A decoder of some family: embedding, blocks, final norm. Its output layer is applied elsewhere, only
/// where it is needed.
pub trait Decoder<B: FusedBackend>: Module<B> {
    /// Loads a Hugging Face model directory; the parameters are trainable.
    ///
    /// # Errors
    /// Names the file, and the key or tensor in it.
    fn load(dir: &Path, options: LoadOptions, device: &B::Device) -> Result<Self>;

    /// Its sizes.
    fn shape(&self) -> DecoderShape;

    /// The output layer, `[hidden_size, vocab_size]`.
    fn lm_head(&self) -> &Linear<B>;

    /// A linear layer of a block. Panics if there is no such layer.
    fn linear_mut(&mut self, block: usize, target: LoraTarget) -> &mut Projection<B>;

    /// The data type of the large matrices, taken from the embedding.
    fn weight_dtype(&self) -> WeightDtype;

    /// The same model with gradient checkpointing: it keeps only the input of each block and
    /// recomputes the block in the backward pass. That takes about a third more time, and memory
    /// for one block's activations instead of all. The gradients are the same.
    fn with_gradient_checkpointing(self, on: bool) -> Self;

    /// States after the final norm at every token of a packed batch, `[n_tokens,
    /// hidden_size]`, f32. Without `adapter`, those of the base model. Panics if a position is not
    /// below `max_position_embeddings`.
    fn hidden_states_packed(
        &self,
        inputs: &PackedInputs<B>,
        adapter: Option<&LoraAdapter<B>>,
    ) -> Tensor<B, 2>;

    /// Fills an empty cache with the prompts, none of them empty. Returns the states that predict
    /// their next tokens, `[rows, hidden_size]`. No gradients.
    fn prefill(
        &self,
        prompts: &[Vec<u32>],
        adapter: Option<&LoraAdapter<B>>,
        cache: &mut KvCache<B>,
    ) -> Tensor<B, 2>;

    /// Adds one token per row to a filled cache. Returns the states that predict the next ones,
    /// `[rows, hidden_size]`. No gradients.
    fn step(
        &self,
        tokens: &[u32],
        adapter: Option<&LoraAdapter<B>>,
        cache: &mut KvCache<B>,
    ) -> Tensor<B, 2>;

    /// Its `config.json`, but for the data type.
    fn hub_config(&self) -> serde_json::Value;

    /// Writes the tensors under transformers' names, with `lm_head` as the output layer, all in one
    /// data type or each in its own.
    ///
    /// # Errors
    /// A file cannot be written.
    fn write_weights(
        &self,
        lm_head: &Linear<B>,
        dtype: Option<WeightDtype>,
        file: &Path,
    ) -> Result<()>;

    /// Writes `config.json` and `model.safetensors` to `dir`, which is created if needed, in the layout
    /// of transformers. Each tensor keeps its data type, so nothing is lost; quantised weights become
    /// F32. `torch_dtype` is that of the embedding.
    ///
    /// # Errors
    /// A file cannot be written.
    fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        mopo_hub::create_dir(dir)?;
        self.write_weights(self.lm_head(), None, &dir.join(WEIGHTS))?;
        let mut config = self.hub_config();
        config["torch_dtype"] = self.weight_dtype().hub_name().into();
        Ok(mopo_hub::write_json(&dir.join("config.json"), &config)?)
    }
}

/// Defines [`CausalLm`] and what depends on the list of families.
macro_rules! families {
    ($($(#[$doc:meta])* $family:ident: $model_type:literal, $config:ident;)+) => {
        /// A decoder of any family.
        #[derive(Module, Debug)]
        pub enum CausalLm<B: Backend> {
            $($(#[$doc])* $family($family<B>),)+
        }

        /// Every `model_type` of a `config.json` that is built here.
        const MODEL_TYPES: &[&str] = &[$($model_type),+];

        impl DecoderShape {
            /// Reads and checks the `config.json` of a Hugging Face model directory.
            ///
            /// # Errors
            /// Names the file and the key: unreadable, another `model_type`, a missing key, a value
            /// that no model can be built from.
            pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
                let (path, model_type) = model_type(dir.as_ref())?;
                match model_type.as_str() {
                    $($model_type => Ok($config::from_file(path)?.shape()),)+
                    other => Err(unknown(path, format!("{other:?}"))),
                }
            }
        }

        impl<B: Backend> CausalLm<B> {
            /// All parameters with their ids, bit for bit: the model's own burn record, which does not
            /// say of which family it is.
            ///
            /// # Errors
            /// A parameter that cannot be recorded.
            pub fn to_record_bytes(&self) -> std::result::Result<Vec<u8>, RecorderError> {
                let recorder = BinBytesRecorder::<FullPrecisionSettings>::default();
                match self {
                    $(Self::$family(model) => {
                        Recorder::<B>::record(&recorder, model.clone().into_record(), ())
                    })+
                }
            }

            /// The inverse, into a model of the same family and shape. Panics in burn on bytes that are
            /// no such record: whoever stores them must check that they come back unchanged.
            ///
            /// # Errors
            /// A record of another version of burn.
            pub fn load_record_bytes(
                self,
                bytes: Vec<u8>,
                device: &B::Device,
            ) -> std::result::Result<Self, RecorderError> {
                let recorder = BinBytesRecorder::<FullPrecisionSettings>::default();
                match self {
                    $(Self::$family(model) => {
                        let record = Recorder::<B>::load(&recorder, bytes, device)?;
                        Ok(Self::$family(model.load_record(record)))
                    })+
                }
            }
        }

        impl<B: FusedBackend> Decoder<B> for CausalLm<B> {
            fn load(dir: &Path, options: LoadOptions, device: &B::Device) -> Result<Self> {
                let (path, model_type) = model_type(dir)?;
                match model_type.as_str() {
                    $($model_type => Ok(Self::$family(Decoder::load(dir, options, device)?)),)+
                    other => Err(unknown(path, format!("{other:?}"))),
                }
            }

            fn shape(&self) -> DecoderShape {
                match self { $(Self::$family(model) => Decoder::shape(model),)+ }
            }

            fn lm_head(&self) -> &Linear<B> {
                match self { $(Self::$family(model) => Decoder::lm_head(model),)+ }
            }

            fn linear_mut(&mut self, block: usize, target: LoraTarget) -> &mut Projection<B> {
                match self { $(Self::$family(model) => model.linear_mut(block, target),)+ }
            }

            fn weight_dtype(&self) -> WeightDtype {
                match self { $(Self::$family(model) => model.weight_dtype(),)+ }
            }

            fn with_gradient_checkpointing(self, on: bool) -> Self {
                match self {
                    $(Self::$family(model) => Self::$family(model.with_gradient_checkpointing(on)),)+
                }
            }

            fn hidden_states_packed(
                &self,
                inputs: &PackedInputs<B>,
                adapter: Option<&LoraAdapter<B>>,
            ) -> Tensor<B, 2> {
                match self { $(Self::$family(model) => model.hidden_states_packed(inputs, adapter),)+ }
            }

            fn prefill(
                &self,
                prompts: &[Vec<u32>],
                adapter: Option<&LoraAdapter<B>>,
                cache: &mut KvCache<B>,
            ) -> Tensor<B, 2> {
                match self { $(Self::$family(model) => model.prefill(prompts, adapter, cache),)+ }
            }

            fn step(
                &self,
                tokens: &[u32],
                adapter: Option<&LoraAdapter<B>>,
                cache: &mut KvCache<B>,
            ) -> Tensor<B, 2> {
                match self { $(Self::$family(model) => model.step(tokens, adapter, cache),)+ }
            }

            fn hub_config(&self) -> serde_json::Value {
                match self { $(Self::$family(model) => model.hub_config(),)+ }
            }

            fn write_weights(
                &self,
                lm_head: &Linear<B>,
                dtype: Option<WeightDtype>,
                file: &Path,
            ) -> Result<()> {
                match self { $(Self::$family(model) => model.write_weights(lm_head, dtype, file),)+ }
            }
        }
    };
}

// A row: the type of the model, its `model_type` in `config.json`, and the type of its configuration,
// which has `from_file` and `shape`.
families! {
    /// phi and phi-1.5.
    Phi: "phi", PhiConfig;
}

/// The path of a directory's `config.json`, and its `model_type`.
fn model_type(dir: &Path) -> Result<(PathBuf, String)> {
    const EXPECTED: &str = "the config.json of a decoder";
    let path = dir.join("config.json");
    let json: serde_json::Value = mopo_hub::read_json(&path, EXPECTED)?;
    match json.get("model_type") {
        Some(serde_json::Value::String(name)) => Ok((path, name.clone())),
        Some(other) => Err(unknown(path, other.to_string())),
        None => {
            let reason = "missing field `model_type`".into();
            Err(mopo_hub::Error::Json { path, reason, expected: EXPECTED }.into())
        }
    }
}

fn unknown(path: PathBuf, value: String) -> Error {
    let source = Error::InvalidParameter {
        field: "model_type",
        value,
        expected: format!("only models of these types are supported: {}", MODEL_TYPES.join(", ")),
    };
    Error::InFile { path, source: source.into() }
}

#[cfg(test)]
mod tests {
    use mopo_testkit::TestBackend as B;

    use super::*;
    use crate::fixtures::{self, values};

    #[test]
    fn a_record_is_the_models_own_and_does_not_name_its_family() {
        let device = Default::default();
        let phi = fixtures::base::<B>(1);
        let recorder = BinBytesRecorder::<FullPrecisionSettings>::default();
        let own: Vec<u8> = Recorder::<B>::record(&recorder, phi.clone().into_record(), ()).unwrap();
        assert_eq!(CausalLm::Phi(phi.clone()).to_record_bytes().unwrap(), own);
        let CausalLm::Phi(again) =
            CausalLm::Phi(fixtures::base::<B>(2)).load_record_bytes(own, &device).unwrap();
        assert_eq!(again.lm_head.weight.id, phi.lm_head.weight.id);
        assert_eq!(values(again.lm_head.weight.val()), values(phi.lm_head.weight.val()));
    }

    #[test]
    fn a_directory_says_of_which_family_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let phi = fixtures::base::<B>(1);
        phi.save(dir.path()).unwrap();
        let shape = DecoderShape::read(dir.path()).unwrap();
        assert_eq!(shape, phi.shape());
        assert_eq!(shape.num_params, phi.num_params());
        let model =
            CausalLm::<B>::load(dir.path(), LoadOptions::f32(), &Default::default()).unwrap();
        assert_eq!(model.shape(), shape);
        let weight = |head: &Linear<B>| values(head.weight.val());
        assert_eq!(weight(model.lm_head()), weight(&phi.lm_head));

        let path = dir.path().join("config.json");
        let whole: serde_json::Value = mopo_hub::read_json(&path, "").unwrap();
        for (value, expected) in [
            (Some("llama".into()), "`model_type` is \"llama\""),
            (Some(7.into()), "`model_type` is 7"),
            (None, "missing field `model_type`"),
        ] {
            let mut json = whole.clone();
            match value {
                Some(value) => json["model_type"] = value,
                None => drop(json.as_object_mut().unwrap().remove("model_type")),
            }
            mopo_hub::write_json(&path, &json).unwrap();
            let error = DecoderShape::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("config.json"), "{error}");
            let model = CausalLm::<B>::load(dir.path(), LoadOptions::f32(), &Default::default());
            assert_eq!(model.unwrap_err().to_string(), error);
        }
    }
}
