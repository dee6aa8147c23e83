//! Decoders: what each provides, and the list of their families.
//!
//! A new family of serial decoders is one file in `families/`, a fixture of its published results, and
//! its row in [`FAMILIES`] below; a family of another form implements [`Decoder`] and becomes a variant
//! of [`CausalLm`]. Everything else (adapters, policies, generation, files, training) goes through
//! [`Decoder`], [`DecoderShape`] and [`CausalLm`].

use std::path::Path;

use burn::module::Module;
use burn::record::{BinBytesRecorder, FullPrecisionSettings, Recorder, RecorderError};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use mopo_hub::gguf::GgufFile;
use mopo_hub::{TensorWriter, WEIGHTS, WeightDtype};
use mopo_ops::FusedBackend;

use crate::families::{gemma, llama, phi_3, qwen, starcoder};
use crate::gguf::{self, gguf_file};
use crate::hub_config::HubConfig;
use crate::layers::{KvCache, NewTokens, OutputLayer, Projection};
use crate::lora::{LoraAdapter, LoraConfig};
use crate::peft::{has_adapter, load_adapter, save_adapter};
use crate::phi::Phi;
use crate::serial::{SerialConfig, SerialDecoder};
use crate::{LoadOptions, PackedInputs, PhiConfig, Result, load_phi};

/// A family of serial decoders: its `model_type`, and how `config.json` is read.
pub(crate) type SerialFamily = (&'static str, fn(&HubConfig) -> Result<SerialConfig>);

/// How a family's model is built from its `config.json`.
enum Family {
    /// phi's parallel blocks.
    Phi,
    /// Attention, then feed-forward.
    Serial(fn(&HubConfig) -> Result<SerialConfig>),
}

/// Every family: its `model_type` in `config.json`, and how that file is read.
const FAMILIES: [(&str, Family); 9] = [
    ("phi", Family::Phi),
    ("phi3", Family::Serial(phi_3::phi_3)),
    ("llama", Family::Serial(llama::llama)),
    ("mistral", Family::Serial(llama::mistral)),
    ("qwen2", Family::Serial(qwen::qwen_2)),
    ("qwen3", Family::Serial(qwen::qwen_3)),
    ("gemma2", Family::Serial(gemma::gemma_2)),
    ("gemma3_text", Family::Serial(gemma::gemma_3)),
    ("starcoder2", Family::Serial(starcoder::starcoder_2)),
];

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
    /// Width of all heads of queries.
    pub attention_width: usize,
    /// Width of all heads of keys, or of values.
    pub key_value_width: usize,
    /// Maximum length of a sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Parameters, embedding and output layer included.
    pub num_params: usize,
    /// The linear layers of a block, in the order of the forward pass.
    pub linears: Vec<LinearShape>,
}

/// A linear layer of every block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearShape {
    /// Its path within a block, as in Hugging Face's files: `self_attn.q_proj`.
    pub path: String,
    /// Inputs and outputs.
    pub shape: [usize; 2],
    /// Whether it reads the block's input, through a norm, and nothing of the block.
    pub reads_input: bool,
}

impl LinearShape {
    /// Inputs plus outputs.
    pub(crate) fn sides(&self) -> usize {
        self.shape.iter().sum()
    }
}

/// A decoder of some family: embedding, blocks, final norm. Its output layer is applied elsewhere, only
/// where it is needed.
pub trait Decoder<B: FusedBackend>: Module<B> {
    /// Its sizes.
    fn shape(&self) -> DecoderShape;

    /// The output layer; of a tied one, the embedding, whose gradient then has both parts.
    fn lm_head(&self) -> OutputLayer<B>;

    /// Whether the output layer is the embedding.
    fn is_tied(&self) -> bool {
        false
    }

    /// A linear layer of a block, by its index in [`DecoderShape::linears`]. Panics if there is no
    /// such layer.
    fn linear_mut(&mut self, block: usize, linear: usize) -> &mut Projection<B>;

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

    /// Adds new tokens to a cache. Returns their states before the final norm, `[n_tokens,
    /// hidden_size]`. No gradients.
    fn advance(
        &self,
        new: &NewTokens<B>,
        adapter: Option<&LoraAdapter<B>>,
        cache: &mut KvCache<B>,
    ) -> Tensor<B, 2>;

    /// The norm before the output layer.
    fn final_norm(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2>;

    /// Adds new tokens to a cache. Returns the states after the final norm of each sequence's last token, which predict
    /// the next ones, `[n_sequences, hidden_size]`. No gradients.
    fn next_states(
        &self,
        new: &NewTokens<B>,
        adapter: Option<&LoraAdapter<B>>,
        cache: &mut KvCache<B>,
    ) -> Tensor<B, 2> {
        let hidden = self.advance(new, adapter, cache);
        let ends: Vec<i32> = new.ends().into_iter().map(|end| end as i32).collect();
        let ends = Tensor::<B, 1, Int>::from_data(ends.as_slice(), &hidden.device());
        self.final_norm(hidden.select(0, ends))
    }

    /// The adapter that applies where none is given, if the model has one of its own.
    fn default_adapter(&self) -> Option<&LoraAdapter<B>> {
        None
    }

    /// The model without an adapter of its own.
    fn without_adapter(self) -> Self {
        self
    }

    /// Its `config.json`, but for the data type.
    fn hub_config(&self) -> serde_json::Value;

    /// Adds the tensors under transformers' names, with `lm_head` as the output layer if it is given.
    fn list_weights(&self, lm_head: Option<&OutputLayer<B>>, out: &mut TensorWriter);

    /// Writes the tensors of [`list_weights`](Self::list_weights) in safetensors, all in one data type or each
    /// in its own.
    ///
    /// # Errors
    /// A file cannot be written.
    fn write_weights(
        &self,
        lm_head: Option<&OutputLayer<B>>,
        dtype: Option<WeightDtype>,
        file: &Path,
    ) -> Result<()> {
        let mut out = TensorWriter::with_dtype(dtype).finite_only();
        self.list_weights(lm_head, &mut out);
        Ok(out.write(file)?)
    }

    /// Writes `config.json` and `model.safetensors` to `dir`, which is created if needed, in the layout
    /// of transformers. Each tensor keeps its data type, so nothing is lost; quantised weights become
    /// F32. `torch_dtype` is that of the embedding.
    ///
    /// # Errors
    /// A file cannot be written.
    fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        mopo_hub::create_dir(dir)?;
        self.write_weights(None, None, &dir.join(WEIGHTS))?;
        let mut config = self.hub_config();
        config["torch_dtype"] = self.weight_dtype().hub_name().into();
        Ok(mopo_hub::write_json(&dir.join("config.json"), &config)?)
    }
}

/// A decoder of any family.
#[derive(Module, Debug)]
pub enum Architecture<B: Backend> {
    /// phi and phi-1.5.
    Phi(Phi<B>),
    /// Llama, Mistral, Qwen and Gemma.
    Serial(SerialDecoder<B>),
}

/// A language model of any family, with an adapter of its own or without. A model directory has one if PEFT's files
/// stand beside its weights, as after SFT with LoRA; it applies wherever no other adapter is given.
#[derive(Module, Debug)]
pub struct CausalLm<B: Backend> {
    /// The decoder.
    pub architecture: Architecture<B>,
    adapter: Option<LoraAdapter<B>>,
    /// The adapter's configuration.
    #[module(skip)]
    lora: Option<LoraConfig>,
}

impl<B: Backend> From<Phi<B>> for CausalLm<B> {
    fn from(phi: Phi<B>) -> Self {
        Architecture::Phi(phi).into()
    }
}

impl<B: Backend> From<Architecture<B>> for CausalLm<B> {
    fn from(architecture: Architecture<B>) -> Self {
        Self { architecture, adapter: None, lora: None }
    }
}

/// The same expression for the decoder of either kind.
macro_rules! either {
    ($this:expr, $model:ident => $value:expr) => {
        match $this {
            Architecture::Phi($model) => $value,
            Architecture::Serial($model) => $value,
        }
    };
}

impl DecoderShape {
    /// Reads and checks the `config.json` of a Hugging Face model directory, or the metadata of a GGUF
    /// file.
    ///
    /// # Errors
    /// Names the file and the key: unreadable, another `model_type`, a missing key, a value
    /// that no model can be built from.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let (config, family) = read_config(dir.as_ref())?;
        match family {
            Family::Phi => Ok(PhiConfig::from_config(&config)?.shape()),
            Family::Serial(read) => Ok(read(&config)?.shape()),
        }
    }
}

impl<B: Backend> CausalLm<B> {
    /// Loads a Hugging Face model directory or a GGUF file; the parameters are trainable, but for blocks
    /// of a GGUF file, which stay as they are.
    ///
    /// # Errors
    /// Names the file, and the key or tensor in it.
    pub fn load(dir: &Path, options: LoadOptions, device: &B::Device) -> Result<Self> {
        let (config, family) = read_config(dir)?;
        let (architecture, shape) = match family {
            Family::Phi => {
                let config = PhiConfig::from_config(&config)?;
                (Architecture::Phi(load_phi(dir, &config, options, device)?), config.shape())
            }
            Family::Serial(read) => {
                let config = read(&config)?;
                let shape = config.shape();
                let model = SerialDecoder::load(dir, config, options, device)?;
                (Architecture::Serial(model), shape)
            }
        };
        let this = Self::from(architecture);
        match has_adapter(dir) {
            false => Ok(this),
            true => {
                let (adapter, lora) = load_adapter(dir, &shape, device)?;
                Ok(this.with_adapter(adapter, lora))
            }
        }
    }

    /// The model with an adapter of its own, made with this configuration.
    pub fn with_adapter(self, adapter: LoraAdapter<B>, lora: LoraConfig) -> Self {
        Self { adapter: Some(adapter), lora: Some(lora), ..self }
    }

    /// Its own adapter, and the configuration that it was made with.
    pub fn own_adapter(&self) -> Option<(&LoraAdapter<B>, &LoraConfig)> {
        self.adapter.as_ref().zip(self.lora.as_ref())
    }

    /// All parameters but those of its own adapter with their ids, bit for bit: the decoder's own burn
    /// record, which does not say of which family it is.
    ///
    /// # Errors
    /// A parameter that cannot be recorded.
    pub fn to_record_bytes(&self) -> std::result::Result<Vec<u8>, RecorderError> {
        let recorder = BinBytesRecorder::<FullPrecisionSettings>::default();
        either!(&self.architecture, model => {
            Recorder::<B>::record(&recorder, model.clone().into_record(), ())
        })
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
        let architecture = match self.architecture {
            Architecture::Phi(model) => {
                let record = Recorder::<B>::load(&recorder, bytes, device)?;
                Architecture::Phi(model.load_record(record))
            }
            Architecture::Serial(model) => {
                let record = Recorder::<B>::load(&recorder, bytes, device)?;
                Architecture::Serial(model.load_record(record))
            }
        };
        Ok(Self { architecture, ..self })
    }
}

impl<B: FusedBackend> Decoder<B> for CausalLm<B> {
    fn shape(&self) -> DecoderShape {
        either!(&self.architecture, model => model.shape())
    }

    fn lm_head(&self) -> OutputLayer<B> {
        either!(&self.architecture, model => model.lm_head())
    }

    fn is_tied(&self) -> bool {
        either!(&self.architecture, model => model.is_tied())
    }

    fn linear_mut(&mut self, block: usize, linear: usize) -> &mut Projection<B> {
        either!(&mut self.architecture, model => model.linear_mut(block, linear))
    }

    fn weight_dtype(&self) -> WeightDtype {
        either!(&self.architecture, model => model.weight_dtype())
    }

    fn with_gradient_checkpointing(self, on: bool) -> Self {
        let architecture = match self.architecture {
            Architecture::Phi(model) => Architecture::Phi(model.with_gradient_checkpointing(on)),
            Architecture::Serial(model) => {
                Architecture::Serial(model.with_gradient_checkpointing(on))
            }
        };
        Self { architecture, ..self }
    }

    fn hidden_states_packed(
        &self,
        inputs: &PackedInputs<B>,
        adapter: Option<&LoraAdapter<B>>,
    ) -> Tensor<B, 2> {
        either!(&self.architecture, model => {
            model.hidden_states_packed(inputs, adapter.or(self.adapter.as_ref()))
        })
    }

    fn advance(
        &self,
        new: &NewTokens<B>,
        adapter: Option<&LoraAdapter<B>>,
        cache: &mut KvCache<B>,
    ) -> Tensor<B, 2> {
        either!(&self.architecture, model => {
            model.advance(new, adapter.or(self.adapter.as_ref()), cache)
        })
    }

    fn final_norm(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        either!(&self.architecture, model => model.final_norm(hidden))
    }

    fn hub_config(&self) -> serde_json::Value {
        either!(&self.architecture, model => model.hub_config())
    }

    fn list_weights(&self, lm_head: Option<&OutputLayer<B>>, out: &mut TensorWriter) {
        either!(&self.architecture, model => model.list_weights(lm_head, out))
    }

    fn default_adapter(&self) -> Option<&LoraAdapter<B>> {
        self.adapter.as_ref()
    }

    fn without_adapter(self) -> Self {
        Self { adapter: None, lora: None, ..self }
    }

    fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        // Before `config.json`, which says that a directory is complete.
        if let Some((adapter, lora)) = self.own_adapter() {
            save_adapter(adapter, &self.shape(), lora, dir)?;
        }
        either!(&self.architecture, model => model.save(dir))
    }
}

const CONFIG: &str = "config.json";

/// The `config.json` of a model directory, or what stands for it in a GGUF file.
pub(crate) fn open_config(dir: &Path) -> Result<HubConfig> {
    match gguf_file(dir) {
        Some(file) => gguf::config(&GgufFile::open(&file)?),
        None => HubConfig::read(&dir.join(CONFIG), "the config.json of a decoder"),
    }
}

/// The configuration of a model, and the family that it names.
fn read_config(dir: &Path) -> Result<(HubConfig, &'static Family)> {
    let config = open_config(dir)?;
    let name = config.model_type()?;
    let known = FAMILIES.iter().find(|(model_type, _)| *model_type == name);
    let (_, family) = known.ok_or_else(|| {
        let types = FAMILIES.map(|(model_type, _)| model_type).join(", ");
        let expected = format!("only models of these types are supported: {types}");
        config.invalid("model_type", format!("{name:?}"), &expected)
    })?;
    Ok((config, family))
}

/// The serial families.
pub(crate) fn serial_families() -> impl Iterator<Item = SerialFamily> {
    FAMILIES.iter().filter_map(|(model_type, family)| match family {
        Family::Phi => None,
        Family::Serial(read) => Some((*model_type, *read)),
    })
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
        assert_eq!(CausalLm::from(phi.clone()).to_record_bytes().unwrap(), own);
        let again = CausalLm::from(fixtures::base::<B>(2)).load_record_bytes(own, &device).unwrap();
        let Architecture::Phi(again) = again.architecture else { panic!("a phi") };
        assert_eq!(again.embed_tokens.weight.id, phi.embed_tokens.weight.id);
        assert_eq!(values(again.lm_head.weight.dense()), values(phi.lm_head.weight.dense()));
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
        let weight = |head: OutputLayer<B>| values(head.weight.dense());
        assert_eq!(weight(model.lm_head()), weight(phi.lm_head()));

        let path = dir.path().join("config.json");
        let whole: serde_json::Value = mopo_hub::read_json(&path, "").unwrap();
        for (value, expected) in [
            (Some("bert".into()), "`model_type` is \"bert\""),
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
