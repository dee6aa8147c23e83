//! A reward model on a language model: an adapter and a linear layer are trained, the rest is frozen.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_lm::{DecoderClassifier, LoraAdapter, LoraConfig, Result, TokenRow};
use mopo_ops::FusedBackend;

use super::method::Scorer;

/// The trained part.
#[derive(Module, Debug)]
pub(crate) struct ScoreAdapter<B: Backend> {
    adapter: LoraAdapter<B>,
    /// `[hidden_size, n_labels]`.
    score: Param<Tensor<B, 2>>,
}

impl<B: FusedBackend> ScoreAdapter<B> {
    /// A fresh adapter, which changes nothing yet, and the classifier's own `score`.
    pub(crate) fn new(model: &DecoderClassifier<B>, lora: &LoraConfig, device: &B::Device) -> Self {
        let adapter = lora.init(&model.decoder_shape(), device);
        Self { adapter, score: Param::from_tensor(model.score.val().detach()) }
    }

    /// The classifier with what was trained.
    pub(crate) fn merged(&self, model: &DecoderClassifier<B>) -> Result<DecoderClassifier<B>> {
        model.merged(&self.adapter, self.score.val())
    }
}

impl<B: FusedBackend> Scorer<B> for ScoreAdapter<B> {
    type Frozen = DecoderClassifier<B>;

    fn logits(&self, frozen: &DecoderClassifier<B>, rows: &[TokenRow]) -> Tensor<B, 2> {
        frozen.forward_with(&self.adapter, self.score.val(), rows)
    }
}
