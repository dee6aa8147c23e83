//! One output layer per policy. The base model's own is not among them.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::layers::in_f32;
use crate::{Error, LowRankUpdate, OutputLayer, Result, Weight};

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
            weight: Weight::Dense(Param::from_tensor(in_f32(lm_head.dense()).detach())),
            update: None,
            bias: lm_head.bias.as_ref().map(|bias| Param::from_tensor(bias.val().detach())),
            soft_cap: lm_head.soft_cap,
        };
        Self { heads: (0..n_policies).map(|_| copy()).collect() }
    }

    /// A base model's output layer for each of `n_policies`, as a constant and in the form in which it is there.
    pub fn constants_of(lm_head: &OutputLayer<B>, n_policies: usize) -> Self {
        let constant = OutputLayer { weight: constant(&lm_head.weight), ..lm_head.clone() };
        Self { heads: vec![constant.no_grad(); n_policies] }
    }

    /// A base model's output layer as a constant, in the form in which it is there, with a low-rank update of `rank` for
    /// each of `n_policies`, which changes nothing yet: A is drawn as LoRA's, B is 0. Biases are trained as they are.
    pub fn updates_of(
        lm_head: &OutputLayer<B>,
        n_policies: usize,
        rank: usize,
        scale: f64,
    ) -> Self {
        let constant = constant(&lm_head.weight);
        let (shape, device) = (lm_head.weight.shape(), lm_head.weight.device());
        let policy = |_| OutputLayer {
            weight: constant.clone(),
            update: Some(LowRankUpdate::new(shape, rank, scale, true, &device)),
            bias: lm_head.bias.as_ref().map(|bias| Param::from_tensor(bias.val().detach())),
            soft_cap: lm_head.soft_cap,
        };
        Self { heads: (0..n_policies).map(policy).collect() }
    }

    /// The same heads as constants with a low-rank update of `rank` each, as in [`updates_of`](Self::updates_of).
    pub fn with_updates(self, rank: usize, scale: f64) -> Self {
        let update = |head: OutputLayer<B>| {
            let (weight, bias) = (head.weight, head.bias);
            let dense = weight.dense().set_require_grad(false);
            let update = LowRankUpdate::new(dense.dims(), rank, scale, false, &dense.device());
            OutputLayer {
                weight: Weight::Frozen(dense),
                update: Some(update),
                bias,
                soft_cap: head.soft_cap,
            }
        };
        Self { heads: self.heads.into_iter().map(update).collect() }
    }

    /// The heads as weights of their own, updates being part of them.
    pub fn merged(&self) -> Self {
        Self { heads: self.heads.iter().map(OutputLayer::merged).collect() }
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
        let weight = of(&|head| Some(head.dense())).expect("at least one head");
        let bias = of(&|head| Some(head.bias.as_ref()?.val().unsqueeze()));
        let head = OutputLayer {
            weight: Weight::Dense(Param::from_tensor(constant(weight))),
            update: None,
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

/// A weight as a constant.
fn constant<B: Backend>(weight: &Weight<B>) -> Weight<B> {
    match weight {
        Weight::Dense(weight) => Weight::Frozen(weight.val().set_require_grad(false)),
        constant => constant.clone(),
    }
}

#[cfg(test)]
mod tests {
    use burn::module::AutodiffModule;
    use burn::tensor::{DType, Distribution, FloatDType};
    use mopo_testkit::TestAutodiffBackend as B;

    use super::*;

    /// A base model's output layer with random weights, and with a bias of zeros or none.
    fn base(dtype: FloatDType, has_bias: bool) -> OutputLayer<B> {
        let device = Default::default();
        let weight = Tensor::<B, 2>::random([6, 9], Distribution::Normal(0.0, 1.0), &device);
        OutputLayer {
            weight: Weight::Dense(Param::from_tensor(weight.cast(dtype))),
            update: None,
            bias: has_bias.then(|| Param::from_tensor(Tensor::zeros([9], &device))),
            soft_cap: None,
        }
    }

    #[test]
    fn updates_of_a_base_keep_its_weight_as_it_is() {
        if !B::supports_dtype(&Default::default(), DType::BF16) {
            mopo_testkit::skip!("this backend has no bfloat16");
        }
        let base = base(FloatDType::BF16, true);
        let heads = PolicyHeads::updates_of(&base, 2, 3, 0.5).heads;
        assert!(OutputLayer::have_one_weight(&heads));
        for head in &heads {
            assert_eq!(head.weight.dtype(), base.weight.dtype());
            assert!(!head.weight.dense().is_require_grad());
            let update = head.update.as_ref().unwrap();
            assert!(update.a.val().is_require_grad() && update.b.val().is_require_grad());
            assert!(head.bias.as_ref().unwrap().val().is_require_grad());
        }
        // Those of other weights have one each.
        let own = PolicyHeads::from_base(&base, 2).with_updates(3, 0.5).heads;
        assert!(!OutputLayer::have_one_weight(&own) && OutputLayer::have_one_weight(&own[..1]));
    }

    #[test]
    fn constants_have_nothing_to_train_and_become_weights_of_their_own() {
        let base = base(FloatDType::F32, true);
        let heads = PolicyHeads::constants_of(&base, 2);
        let bias = heads.heads[1].bias.as_ref().unwrap();
        assert!(!heads.heads[1].dense().is_require_grad() && !bias.val().is_require_grad());
        // The bias is all that a saved state has of each.
        assert_eq!(heads.num_params(), 2 * 9);
        let merged = heads.merged();
        assert_eq!(merged.num_params(), 2 * (6 * 9 + 9));
        merged.heads[1].dense().into_data().assert_eq(&base.dense().into_data(), true);
    }

    #[test]
    fn updates_change_nothing_at_first_and_are_all_that_learns() {
        let device = Default::default();
        let base = base(FloatDType::F32, false);
        let mut head = PolicyHeads::from_base(&base, 1).with_updates(2, 0.5).heads.remove(0);
        let hidden = Tensor::<B, 2>::random([4, 6], Distribution::Normal(0.0, 1.0), &device);
        let values = |head: &OutputLayer<B>| -> Vec<f32> {
            head.valid().logits(hidden.clone().inner()).into_data().iter().collect()
        };
        assert_eq!(values(&head), values(&base));

        let gradients = head.dense().powi_scalar(2).sum().backward();
        let update = head.update.as_mut().expect("with one");
        assert!(
            update.a.val().grad(&gradients).is_some() && update.b.val().grad(&gradients).is_some()
        );
        assert!(head.weight.dense().grad(&gradients).is_none());

        // W + s A B, and the same once it is merged.
        update.b = Param::from_tensor(Tensor::ones([2, 9], &device));
        let a: Vec<f32> = update.a.val().into_data().iter().collect();
        let (old, new): (Vec<f32>, Vec<f32>) =
            (base.dense().into_data().iter().collect(), head.dense().into_data().iter().collect());
        for (i, (old, new)) in old.iter().zip(&new).enumerate() {
            let row = i / 9;
            assert!((new - old - 0.5 * (a[2 * row] + a[2 * row + 1])).abs() < 1e-5);
        }
        let merged = head.merged();
        assert!(merged.update.is_none());
        for (of_update, of_merged) in values(&head).into_iter().zip(values(&merged)) {
            assert!((of_update - of_merged).abs() < 1e-5, "{of_update}, {of_merged}");
        }
    }
}
