//! Means of adapters, in the space of the updates they make.

use burn::module::{Module, Param};
use burn::nn::DropoutConfig;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{LoraAdapter, LoraLayer, LoraPair};

impl<B: Backend> LoraAdapter<B> {
    /// The adapter whose updates are Σ_i w_i s_i A_i B_i: the ranks side by side, so that nothing is lost. Its
    /// parameters are constants, and it has no dropout. Adapters of one model; an update that one of them lacks is 0 there.
    pub(crate) fn interpolated(adapters: &[(&Self, f64)]) -> Self {
        if let [(only, 1.0)] = adapters {
            return Self { dropout: DropoutConfig::new(0.0).init(), ..(*only).clone() }.no_grad();
        }
        let n_layers = adapters.first().map_or(0, |(adapter, _)| adapter.layers.len());
        let layers = (0..n_layers).map(|block| {
            let n_pairs = adapters[0].0.layers[block].pairs.len();
            let pairs = (0..n_pairs).map(|linear| {
                let of: Vec<_> = adapters
                    .iter()
                    .filter_map(|(adapter, weight)| Some((adapter.pair(block, linear)?, *weight)))
                    .collect();
                (!of.is_empty()).then(|| LoraPair::side_by_side(&of))
            });
            LoraLayer { pairs: pairs.collect() }
        });
        Self { layers: layers.collect(), dropout: DropoutConfig::new(0.0).init() }.no_grad()
    }
}

impl<B: Backend> LoraPair<B> {
    fn side_by_side(parts: &[(&Self, f64)]) -> Self {
        let a = parts.iter().map(|(pair, _)| pair.a.val().detach()).collect();
        let b = parts.iter().map(|(pair, w)| pair.b.val().detach().mul_scalar(w * pair.scale));
        Self {
            a: Param::from_tensor(Tensor::cat(a, 1)),
            b: Param::from_tensor(Tensor::cat(b.collect(), 0)),
            scale: 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use mopo_testkit::TestBackend;

    use crate::fixtures::{self, assert_close, values};
    use crate::{
        AdapterSharing, Decoder, LoraConfig, PackedBatch, PolicyHeads, PolicyParams, merge,
    };

    type B = TestBackend;

    /// Two policies with adapters of their own, of ranks 4 and 2.
    fn policies(base: &impl Decoder<B>) -> PolicyParams<B> {
        let _guard = fixtures::BACKEND_RANDOM.lock();
        let adapters = [(4, 6.0), (2, 3.0)].into_iter().enumerate().map(|(i, (rank, alpha))| {
            let lora = LoraConfig { rank, alpha, dropout: 0.0, ..Default::default() };
            fixtures::filled(lora.init(&base.shape(), &Default::default()), i as u64, 0.2)
        });
        let heads = PolicyHeads::from_base(&base.lm_head(), 2);
        PolicyParams { adapters: adapters.collect(), heads: fixtures::filled(heads, 9, 0.2) }
    }

    #[test]
    fn a_soup_is_the_mean_of_merged_weights() {
        let base = fixtures::base::<B>(1);
        let params = policies(&base);
        assert_eq!(params.sharing(), AdapterSharing::PerPolicy);
        let soup = params.interpolated(&[0.25, 0.75]).unwrap();
        assert_eq!((soup.n_policies(), soup.adapters.len()), (1, 1));
        let merged: Vec<_> =
            params.adapters.iter().map(|adapter| merge(&base, adapter).unwrap()).collect();
        let mixed = merge(&base, soup.adapter(0)).unwrap();
        for block in 0..base.layers.len() {
            let of = |model: &crate::Phi<B>| -> Vec<Vec<f32>> {
                let linears = model.layers[block].linears();
                linears.into_iter().map(|linear| values(linear.dense_weight())).collect()
            };
            let (first, second) = (of(&merged[0]), of(&merged[1]));
            for (linear, found) in of(&mixed).iter().enumerate() {
                let expected: Vec<f32> = first[linear]
                    .iter()
                    .zip(&second[linear])
                    .map(|(a, b)| 0.25 * a + 0.75 * b)
                    .collect();
                assert_close(found, &expected, 1e-5);
            }
        }
        let head =
            |params: &PolicyParams<B>, k: usize| values(params.heads.heads[k].weight.dense());
        let expected: Vec<f32> = head(&params, 0)
            .iter()
            .zip(head(&params, 1))
            .map(|(a, b)| 0.25 * a + 0.75 * b)
            .collect();
        assert_close(&head(&soup, 0), &expected, 1e-6);
    }

    #[test]
    fn a_soup_of_one_policy_is_that_policy() {
        let base = fixtures::base::<B>(1);
        let params = policies(&base);
        let pair = ([&[1, 2, 3][..], &[4, 5], &[6]], [true, true]);
        let inputs = PackedBatch::pack(&[pair]).unwrap().inputs(&Default::default());
        for (k, weights) in [[1.0, 0.0], [0.0, 1.0]].iter().enumerate() {
            let soup = params.interpolated(weights).unwrap();
            let of = |params: &PolicyParams<B>, k: usize| {
                let hidden = base.hidden_states_packed(&inputs, Some(params.adapter(k)));
                values(params.heads.heads[k].logits(hidden))
            };
            assert_eq!(of(&soup, 0), of(&params, k));
        }
        for wrong in [&[0.5][..], &[0.7, 0.7], &[1.5, -0.5]] {
            assert!(params.interpolated(wrong).is_err(), "{wrong:?}");
        }
    }
}
