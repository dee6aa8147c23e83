//! One output layer per policy. The base model's own is not among them.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use crate::{Error, OutputLayer, Result, Weight};

/// The output layers of the policies, each `[hidden_size, vocab_size]`.
#[derive(Module, Debug)]
pub struct PolicyHeads<B: Backend> {
    /// In the order of the objectives.
    pub heads: Vec<OutputLayer<B>>,
}

impl<B: Backend> PolicyHeads<B> {
    /// `n_policies` trainable copies of a base model's output layer, in F32 whatever the base's
    /// type, detached from it and with their own parameter ids.
    pub fn from_base(lm_head: &OutputLayer<B>, n_policies: usize) -> Self {
        let copy = || OutputLayer {
            weight: Weight::Dense(Param::from_tensor(
                lm_head.weight.dense().detach().cast(FloatDType::F32),
            )),
            bias: lm_head.bias.as_ref().map(|bias| Param::from_tensor(bias.val().detach())),
            soft_cap: lm_head.soft_cap,
        };
        Self { heads: (0..n_policies).map(|_| copy()).collect() }
    }

    /// One head whose weights are means of these, with weights of sum 1. Its parameters are constants.
    pub(crate) fn mean(heads: &[(&OutputLayer<B>, f64)]) -> Self {
        if let [(only, _)] = heads {
            return Self { heads: vec![(*only).clone().no_grad()] };
        }
        let of = |tensor: &dyn Fn(&OutputLayer<B>) -> Option<Tensor<B, 2>>| {
            let parts = heads.iter().map(|(head, weight)| Some(tensor(head)?.mul_scalar(*weight)));
            parts.reduce(|a, b| Some(a? + b?)).flatten()
        };
        let constant = |tensor: Tensor<B, 2>| tensor.detach();
        let weight = of(&|head| Some(head.weight.dense())).expect("at least one head");
        let bias = of(&|head| Some(head.bias.as_ref()?.val().unsqueeze()));
        let head = OutputLayer {
            weight: Weight::Dense(Param::from_tensor(constant(weight))),
            bias: bias.map(|bias| Param::from_tensor(constant(bias).squeeze_dim(0))),
            soft_cap: heads[0].0.soft_cap,
        };
        Self { heads: vec![head.no_grad()] }
    }

    /// Number of policies.
    pub fn n_policies(&self) -> usize {
        self.heads.len()
    }

    /// The output layer of one policy.
    ///
    /// # Errors
    /// There are fewer policies.
    pub fn get(&self, index: usize) -> Result<&OutputLayer<B>> {
        let n_policies = self.heads.len();
        self.heads.get(index).ok_or(Error::PolicyOutOfRange { index, n_policies })
    }
}
