//! What a method on rollouts trains: adapter, perhaps an output layer, perhaps a value head.

use burn::module::{AutodiffModule, Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mopo_lm::{CausalLm, Decoder, PolicyHeads, PolicyParams};
use mopo_ops::FusedAutodiffBackend;

use crate::single::SinglePolicy;

/// The parameters that are trained.
#[derive(Module, Debug)]
pub(super) struct RolloutParams<B: Backend> {
    pub(super) policy: SinglePolicy<B>,
    pub(super) value: Option<ValueHead<B>>,
}

/// Expected returns, linear in the last hidden states.
#[derive(Module, Debug)]
pub(super) struct ValueHead<B: Backend> {
    /// `[hidden_size, 1]`.
    weight: Param<Tensor<B, 2>>,
    /// `[1]`.
    bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> ValueHead<B> {
    /// 0 everywhere.
    fn new(hidden_size: usize, device: &B::Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::zeros([hidden_size, 1], device)),
            bias: Param::from_tensor(Tensor::zeros([1], device)),
        }
    }

    /// The values of states `[n, hidden_size]`: `[n]`.
    pub(super) fn values(&self, states: Tensor<B, 2>) -> Tensor<B, 1> {
        let n = states.dims()[0];
        states.matmul(self.weight.val()).reshape([n]) + self.bias.val()
    }
}

impl<B: FusedAutodiffBackend> RolloutParams<B> {
    /// The policy that equals the base. The adapter has no dropout: ratios compare the policy with itself, and masks
    /// drawn anew for each pass would be taken for a change of it.
    ///
    /// `values`: the width of the hidden states, if there is to be a value head.
    pub(super) fn new(params: PolicyParams<B>, values: Option<usize>, train_head: bool) -> Self {
        let mut policy = SinglePolicy::new(params, train_head);
        policy.adapter = policy.adapter.without_dropout();
        let device = policy.adapter.device();
        Self { policy, value: values.map(|hidden_size| ValueHead::new(hidden_size, &device)) }
    }

    /// The policy that samples, on a base without gradients.
    pub(super) fn sampling(
        &self,
        base: &CausalLm<B::InnerBackend>,
    ) -> PolicyParams<B::InnerBackend> {
        let SinglePolicy { adapter, own_head } = self.policy.valid();
        let head = own_head.unwrap_or_else(|| base.lm_head());
        PolicyParams::shared(adapter, PolicyHeads { heads: vec![head] }).merged()
    }
}
