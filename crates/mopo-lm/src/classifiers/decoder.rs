//! Classifiers on decoders, as transformers' `LlamaForSequenceClassification` and its like for other families: the
//! decoder without its output layer, and one linear layer without a bias on the state at one token of each text.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use mopo_hub::{TensorWriter, WEIGHTS};
use mopo_ops::FusedBackend;
use serde_json::json;

use super::labels::{label_keys, labels};
use super::{ClassifierShape, TokenRow, read_config, serial_family};
use crate::decoder::{Architecture, SerialFamily, open_config};
use crate::hub_config::HubConfig;
use crate::layers::dense::{linear, normal};
use crate::serial::SerialDecoder;
use crate::weights::Source;
use crate::{
    CausalLm, Decoder, DecoderShape, LoadDtype, LoadOptions, LoraAdapter, PackedBatch, Result,
    merge,
};

/// Standard deviation of a fresh `score`, that of transformers.
const INITIALIZER_RANGE: f64 = 0.02;
const SCORE: &str = "score.weight";

/// The names of the classes in transformers.
const CLASSES: [(&str, &str); 8] = [
    ("llama", "LlamaForSequenceClassification"),
    ("mistral", "MistralForSequenceClassification"),
    ("qwen2", "Qwen2ForSequenceClassification"),
    ("qwen3", "Qwen3ForSequenceClassification"),
    ("gemma2", "Gemma2ForSequenceClassification"),
    ("gemma3_text", "Gemma3TextForSequenceClassification"),
    ("starcoder2", "Starcoder2ForSequenceClassification"),
    ("phi3", "Phi3ForSequenceClassification"),
];

/// A classifier on a decoder. Linear layers may be quantised; then they are constants.
#[derive(Module, Debug)]
pub struct DecoderClassifier<B: Backend> {
    /// Embedding, blocks and final norm.
    pub decoder: SerialDecoder<B>,
    /// `[hidden_size, n_labels]`.
    pub score: Param<Tensor<B, 2>>,
    #[module(skip)]
    shape: ClassifierShape,
    #[module(skip)]
    pad_token_id: Option<u32>,
}

/// The shape of a classifier on a decoder of this family.
pub(super) fn shape(hub: &HubConfig, family: SerialFamily) -> Result<ClassifierShape> {
    let (architecture, read) = family;
    let config = read(hub)?;
    Ok(ClassifierShape {
        architecture,
        labels: labels(hub, 2)?,
        max_tokens: config.max_position_embeddings,
        vocab_size: config.vocab_size,
    })
}

impl<B: Backend> DecoderClassifier<B> {
    /// Loads a classifier from a Hugging Face model directory; `dtype` is that of the large matrices.
    ///
    /// # Errors
    /// An unsupported architecture; a key of the configuration; missing, unexpected or misshapen
    /// tensors, by name.
    pub fn load(dir: impl AsRef<Path>, dtype: LoadDtype, device: &B::Device) -> Result<Self> {
        let dir = dir.as_ref();
        let hub = read_config(dir)?;
        let family = serial_family(&hub)?;
        let shape = shape(&hub, family)?;
        let config = (family.1)(&hub)?.without_output();
        let options = LoadOptions { dtype, ..LoadOptions::default() };
        let mut files = Source::files(dir)?;
        let decoder = SerialDecoder::read(&mut files, config, options, device)?;
        let d = decoder.width();
        let score = files.transposed(SCORE, [d, shape.labels.len()], device)?;
        files.finish()?;
        let score = Param::from_tensor(score);
        Ok(Self { decoder, score, shape, pad_token_id: hub.token("pad_token_id")? })
    }

    /// The names of the labels, and the sizes.
    pub fn shape(&self) -> &ClassifierShape {
        &self.shape
    }

    /// The same with this padding token where the model names none.
    pub fn with_pad_token(mut self, token: Option<u32>) -> Self {
        self.pad_token_id = self.pad_token_id.or(token);
        self
    }

    /// The padding token of the configuration.
    pub fn pad_token(&self) -> Option<u32> {
        self.pad_token_id
    }
}

impl<B: FusedBackend> DecoderClassifier<B> {
    /// A fresh `score` on a language model: on a Hugging Face model directory or a GGUF file, with the model's own
    /// adapter merged into it if it has one. Deterministic after `B::seed`.
    ///
    /// # Errors
    /// Those of [`CausalLm::load`]; a decoder without classifiers in transformers, such as phi.
    pub fn fresh(
        dir_or_file: impl AsRef<Path>,
        labels: Vec<String>,
        options: LoadOptions,
        device: &B::Device,
    ) -> Result<Self> {
        let dir = dir_or_file.as_ref();
        let hub = open_config(dir)?;
        let (architecture, _) = serial_family(&hub)?;
        let model = CausalLm::<B>::load(dir, options, device)?;
        let model = match model.own_adapter() {
            Some((adapter, _)) => merge(&model, adapter)?,
            None => model,
        };
        let Architecture::Serial(decoder) = model.architecture else {
            unreachable!("a serial family")
        };
        let decoder = decoder.without_output();
        let of_decoder = decoder.shape();
        let score = normal([of_decoder.hidden_size, labels.len()], INITIALIZER_RANGE, device);
        let shape = ClassifierShape {
            architecture,
            labels,
            max_tokens: of_decoder.max_position_embeddings,
            vocab_size: of_decoder.vocab_size,
        };
        Ok(Self { decoder, score, shape, pad_token_id: hub.token("pad_token_id")? })
    }

    /// Logits of texts, `[n_rows, n_labels]`; each depends only on its row. Panics for an id beyond the vocabulary, and
    /// for a text without tokens or longer than the model's positions: see
    /// [`Classifier::check`](super::Classifier::check).
    pub fn forward(&self, rows: &[TokenRow]) -> Tensor<B, 2> {
        let texts: Vec<Vec<u32>> = rows.iter().map(|row| seen(row).to_vec()).collect();
        let batch = PackedBatch::prompts(&texts).expect("texts with tokens");
        let ends = batch.rows.rows().iter().map(|row| (row.start + row.prompt) as i32 - 1);
        let ends = ends.collect();
        self.classified(&batch, ends, None, self.score.val())
    }

    /// The same with an adapter and another `score`, `[hidden_size, n_labels]`. Tokens that a text and the next both
    /// begin with, such as the prompt of a pair's responses, are computed once; so a row's logits depend on the
    /// others, by rounding.
    pub fn forward_with(
        &self,
        adapter: &LoraAdapter<B>,
        score: Tensor<B, 2>,
        rows: &[TokenRow],
    ) -> Tensor<B, 2> {
        let texts: Vec<&[u32]> = rows.iter().map(seen).collect();
        let (batch, ends) = PackedBatch::texts(&texts).expect("texts with tokens");
        self.classified(&batch, ends, Some(adapter), score)
    }

    /// Logits at these tokens of a batch.
    fn classified(
        &self,
        batch: &PackedBatch,
        ends: Vec<i32>,
        adapter: Option<&LoraAdapter<B>>,
        score: Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let device = score.device();
        let hidden = self.decoder.hidden_states_packed(&batch.inputs(&device), adapter);
        let ends = Tensor::<B, 1, Int>::from_data(ends.as_slice(), &device);
        let no_bias = Tensor::zeros([score.dims()[1]], &device);
        linear(None, hidden.select(0, ends), score, no_bias)
    }

    /// The sizes of the decoder, which an adapter must fit.
    pub fn decoder_shape(&self) -> DecoderShape {
        self.decoder.shape()
    }

    /// The classifier with an adapter merged into its weights, and another `score`.
    ///
    /// # Errors
    /// An adapter of another model.
    pub fn merged(&self, adapter: &LoraAdapter<B>, score: Tensor<B, 2>) -> Result<Self> {
        let decoder = merge(&self.decoder, adapter)?;
        Ok(Self { decoder, score: Param::from_tensor(score), ..self.clone() })
    }

    /// Writes `config.json` and `model.safetensors` to `dir`, which is created if needed, in the form of
    /// transformers' class for this family. Each file is written whole or not at all; quantised weights become
    /// F32.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        mopo_hub::create_dir(dir)?;
        let mut out = TensorWriter::with_dtype(None).finite_only();
        self.decoder.write(&mut out);
        out.transposed(SCORE, self.score.val());
        out.write(&dir.join(WEIGHTS))?;
        let mut config = self.decoder.hub_config();
        let class = CLASSES.iter().find(|(name, _)| *name == self.shape.architecture);
        config["architectures"] =
            json!(class.map(|(_, class)| class).into_iter().collect::<Vec<_>>());
        config["torch_dtype"] = self.decoder.weight_dtype().hub_name().into();
        config["pad_token_id"] = json!(self.pad_token_id);
        for (key, value) in label_keys(&self.shape.labels) {
            config[key] = value;
        }
        Ok(mopo_hub::write_json(&dir.join("config.json"), &config)?)
    }
}

/// The part of a text on which its logits depend: the classified token does not see what follows it.
fn seen(row: &TokenRow) -> &[u32] {
    &row.ids[..=row.pool]
}
