//! phi against transformers' forward pass written out, its cache, its gradients.

use burn::module::Module;
use mopo_testkit::{TestAutodiffBackend, TestBackend};

use super::*;
use crate::PackedBatch;
use crate::fixtures::{self, assert_close, values};

type B = TestBackend;

/// transformers' forward pass, written out with loops in f64 for one row: what this file must
/// equal.
fn written_out(phi: &Phi<B>, ids: &[u32]) -> Vec<f32> {
    let c = phi.config();
    let (d, dim, rot) = (c.hidden_size, c.head_dim(), c.rotary_dim());
    let f64s = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<_>>();
    let linear = |layer: &Projection<B>, x: &[f64]| -> Vec<f64> {
        let [n_in, n_out] = layer.dense_weight().dims();
        let w = f64s(values(layer.dense_weight()));
        let b = f64s(values(layer.bias.as_ref().unwrap().val()));
        (0..n_out).map(|o| b[o] + (0..n_in).map(|i| x[i] * w[i * n_out + o]).sum::<f64>()).collect()
    };
    let norm = |layer: &LayerNorm<B>, x: &[f64]| -> Vec<f64> {
        let gamma = f64s(values(layer.gamma.val()));
        let beta = f64s(values(layer.beta.as_ref().unwrap().val()));
        let mean = x.iter().sum::<f64>() / d as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
        let scale = 1.0 / (variance + c.layer_norm_eps).sqrt();
        (0..d).map(|i| (x[i] - mean) * scale * gamma[i] + beta[i]).collect()
    };
    let rotate = |x: &[f64], position: usize| -> Vec<f64> {
        let mut out = x.to_vec();
        for head in 0..c.num_attention_heads {
            for j in 0..rot {
                let half = rot / 2;
                let exponent = 2.0 * (j % half) as f64 / rot as f64;
                let angle = position as f64 / c.rope_theta.powf(exponent);
                let at = head * dim;
                let other = if j < half { -x[at + j + half] } else { x[at + j - half] };
                out[at + j] = x[at + j] * angle.cos() + other * angle.sin();
            }
        }
        out
    };
    let gelu = |x: f64| {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + u.tanh())
    };

    let table = f64s(values(phi.embed_tokens.weight.val()));
    let mut xs: Vec<Vec<f64>> =
        ids.iter().map(|id| table[*id as usize * d..][..d].to_vec()).collect();
    for layer in &phi.layers {
        let a = &layer.self_attn;
        let normed: Vec<_> = xs.iter().map(|x| norm(&layer.input_layernorm, x)).collect();
        let each = |l: &Projection<B>| normed.iter().map(|x| linear(l, x)).collect::<Vec<_>>();
        let turned = |l| each(l).iter().enumerate().map(|(p, x)| rotate(x, p)).collect();
        let (q, k): (Vec<_>, Vec<_>) = (turned(&a.q_proj), turned(&a.k_proj));
        let v = each(&a.v_proj);
        for t in 0..xs.len() {
            let mut mixed = vec![0.0; d];
            for head in 0..c.num_attention_heads {
                let span = head * dim..(head + 1) * dim;
                let weights: Vec<f64> = (0..=t)
                    .map(|s| {
                        let dot: f64 = span.clone().map(|i| q[t][i] * k[s][i]).sum();
                        (dot / (dim as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for i in span {
                    mixed[i] = (0..=t).map(|s| weights[s] * v[s][i]).sum::<f64>() / total;
                }
            }
            let attended = linear(&a.dense, &mixed);
            let inner: Vec<f64> =
                linear(&layer.mlp.fc1, &normed[t]).into_iter().map(gelu).collect();
            let fed = linear(&layer.mlp.fc2, &inner);
            for i in 0..d {
                xs[t][i] += attended[i] + fed[i];
            }
        }
    }
    xs.iter().flat_map(|x| norm(&phi.final_layernorm, x)).map(|x| x as f32).collect()
}

fn row(ids: &[u32]) -> PackedInputs<B> {
    let (prompt, first) = ids.split_at(1);
    let pair = ([prompt, first, &[]], [true, false]);
    PackedBatch::pack(&[pair]).unwrap().inputs(&Default::default())
}

#[test]
fn the_forward_pass_equals_that_of_transformers_written_out() {
    let phi = fixtures::base::<B>(1);
    let ids = [3, 17, 17, 0, 25, 31, 8, 8, 30, 1, 2];
    let found = values(phi.hidden_states_packed(&row(&ids), None));
    assert_close(&found, &written_out(&phi, &ids), 2e-5);
}

#[test]
fn a_cache_filled_in_pieces_changes_nothing() {
    let phi = fixtures::base::<B>(2);
    let ids = [3, 17, 5, 0, 25, 31, 8];
    let whole = values(phi.hidden_states_packed(&row(&ids), None));
    let device = Default::default();
    // Together with another row, so that rows of unequal length share a cache.
    let (mut cache, mut rows) = KvCache::for_sequences(&phi.shape(), [7, 20], &device);
    let prompts = [&ids[..3], &[9; 16][..]];
    let new = NewTokens::of_prompts(prompts.into_iter().zip(&mut rows), &device);
    let mut found = values(phi.next_states(&new, None, &mut cache).narrow(0, 0, 1));
    assert_eq!([rows[0].len, rows[1].len], [3, 16]);
    for id in &ids[3..] {
        let next = [&[*id][..], &[7]];
        let new = NewTokens::of_answers(next.into_iter().zip(&mut rows), &device);
        found.extend(values(phi.next_states(&new, None, &mut cache).narrow(0, 0, 1)));
    }
    assert_eq!([rows[0].len, rows[1].len], [7, 20]);
    assert_close(&found, &whole[2 * 24..], 1e-5);
}

#[test]
fn gradient_checkpointing_changes_no_gradient() {
    type Ad = TestAutodiffBackend;
    let base = fixtures::base::<Ad>(3);
    let params = fixtures::policies(&base, 1, 4);
    let pair = ([&[3, 1][..], &[2, 8, 5], &[9, 9]], [true; 2]);
    let batch = PackedBatch::pack(&[pair, pair]).unwrap();
    let inputs = batch.inputs::<Ad>(&Default::default());
    let gradients = |base: &Phi<Ad>| {
        let hidden = base.hidden_states_packed(&inputs, Some(params.adapter(0)));
        let head = &params.heads.heads[0];
        let loss = crate::sequence_log_probs(hidden, head, &batch, &[0, 1, 2, 3]).sum();
        let grads = loss.backward();
        let of = |linear| {
            let pair = params.adapter(0).pair(0, linear).unwrap();
            [&pair.a, &pair.b].map(|p| values(p.val().grad(&grads).unwrap())).concat()
        };
        [0, 1, 2, 3, 4, 5].map(of).concat()
    };
    let kept = gradients(&base);
    let again = gradients(&base.clone().with_gradient_checkpointing(true));
    assert_close(&again, &kept, 1e-6);
}

#[test]
fn a_fresh_model_depends_only_on_the_seed_and_counts_its_parameters() {
    let _guard = fixtures::BACKEND_RANDOM.lock();
    let device = Default::default();
    let weights = |seed, last_first: bool| {
        B::seed(&device, seed);
        let phi = fixtures::tiny().init::<B>(&device);
        assert_eq!(phi.num_params(), fixtures::tiny().num_params());
        let read = |last: bool| match last {
            true => values(phi.layers[1].mlp.fc2.dense_weight()),
            false => values(phi.embed_tokens.weight.val()),
        };
        // If anything were lazy, the order of reading would decide which parameter draws which
        // numbers.
        let one = read(last_first);
        let other = read(!last_first);
        if last_first { [other, one] } else { [one, other] }
    };
    let first = weights(7, false);
    assert_eq!(first, weights(7, true));
    assert_ne!(first, weights(8, false));
    let square = first[1].iter().map(|w| w * w).sum::<f32>() / first[1].len() as f32;
    assert!((square.sqrt() - 0.02).abs() < 0.002, "{square}");
}

#[test]
fn a_trainable_model_gets_gradients_everywhere_and_a_frozen_one_nowhere() {
    type Ad = TestAutodiffBackend;
    let phi = fixtures::base::<Ad>(3);
    let ids: [u32; 4] = [3, 17, 5, 0];
    let (prompt, first) = ids.split_at(1);
    let pair = ([prompt, first, &[]], [true, false]);
    let batch = PackedBatch::pack(&[pair]).unwrap();
    let inputs = batch.inputs::<Ad>(&Default::default());

    struct Count<'a>(&'a burn::optim::GradientsParams, usize, usize);
    impl burn::module::ModuleVisitor<Ad> for Count<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Ad, D>>) {
            self.1 += 1;
            if let Some(grad) = self.0.get::<B, D>(param.id) {
                self.2 += usize::from(values(grad.abs()).iter().sum::<f32>() > 0.0);
            }
        }
    }
    let mut trainable = phi.clone();
    trainable = trainable.map(&mut RequireGrad);
    let hidden = trainable.hidden_states_packed(&inputs, None);
    let loss = crate::sequence_log_probs(hidden, &trainable.lm_head, &batch, &[0]).sum();
    let grads = burn::optim::GradientsParams::from_grads(loss.backward(), &trainable);
    let mut count = Count(&grads, 0, 0);
    trainable.visit(&mut count);
    assert_eq!(count.1, 3 + phi.layers.len() * 14 + 2);
    assert_eq!(count.2, count.1);

    let hidden = phi.hidden_states_packed(&inputs, None);
    assert!(!hidden.is_require_grad());
}

struct RequireGrad;
impl<B: Backend> burn::module::ModuleMapper<B> for RequireGrad {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.set_require_grad(true)
    }
}
