//! The parameters of methods that train one policy.

use burn::module::{AutodiffModule, Module};
use burn::tensor::backend::Backend;
use mopo_lm::{CausalLm, Decoder, LoraAdapter, OutputLayer, PolicyHeads, PolicyParams};
use mopo_ops::FusedAutodiffBackend;

/// An adapter, and a head if that is trained.
#[derive(Module, Debug)]
pub(crate) struct SinglePolicy<B: Backend> {
    pub(crate) adapter: LoraAdapter<B>,
    /// `None`: the base's own output layer, frozen.
    pub(crate) own_head: Option<OutputLayer<B>>,
}

impl<B: FusedAutodiffBackend> SinglePolicy<B> {
    /// The first of these policies; its head is left out if the base's own is to be used.
    pub(crate) fn new(params: PolicyParams<B>, train_head: bool) -> Self {
        let PolicyParams { adapters, heads } = params;
        Self {
            adapter: adapters.into_iter().next().expect("at least one"),
            own_head: heads.heads.into_iter().next().filter(|_| train_head),
        }
    }

    /// The output layer to use.
    pub(crate) fn head(&self, base: &CausalLm<B>) -> OutputLayer<B> {
        self.own_head.clone().unwrap_or_else(|| base.lm_head())
    }

    /// As a policy; its head is the base's if it was not trained.
    pub(crate) fn policy(&self, base: &CausalLm<B>) -> PolicyParams<B::InnerBackend> {
        let SinglePolicy { adapter, own_head } = self.valid();
        let heads = match own_head {
            Some(head) => PolicyHeads { heads: vec![head] },
            None => PolicyHeads::from_base(&base.lm_head().valid(), 1),
        };
        PolicyParams::shared(adapter, heads).merged()
    }
}
