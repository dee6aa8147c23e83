//! Packed rows against separate ones, their layout, their gradients.

use burn::module::AutodiffModule;
use burn::optim::GradientsParams;
use mopo_testkit::{TestAutodiffBackend, TestBackend};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use burn::tensor::activation;

use super::*;
use crate::fixtures::{self, assert_close, tokens, values};
use crate::{Decoder, Phi, PolicyHeads, PolicyParams};

type B = TestBackend;
type Ad = TestAutodiffBackend;
type Owned = (Vec<u32>, Vec<u32>, Vec<u32>);

fn random_pairs(n: usize, rng: &mut ChaCha8Rng) -> Vec<Owned> {
    (0..n)
        .map(|_| {
            let mut piece = |max: usize| {
                let n = rng.random_range(1..=max);
                tokens(n, rng)
            };
            (piece(9), piece(7), piece(7))
        })
        .collect()
}

/// A pair as [`PackedBatch::pack`] takes it.
type Pair<'a> = ([&'a [u32]; 3], [bool; 2]);

fn slices<'a>(pairs: &'a [Owned], keep: &[[bool; 2]]) -> Vec<Pair<'a>> {
    let one = |((prompt, first, second), keep): (&'a Owned, &[bool; 2])| -> Pair<'a> {
        ([prompt, first, second], *keep)
    };
    pairs.iter().zip(keep).map(one).collect()
}

/// Log-probabilities of all responses of the pairs, packed.
fn packed(base: &Phi<B>, params: &PolicyParams<B>, k: usize, pairs: &[Pair<'_>]) -> Vec<f32> {
    let batch = PackedBatch::pack(pairs).unwrap();
    let inputs = batch.inputs::<B>(&Default::default());
    let hidden = base.hidden_states_packed(&inputs, Some(params.adapter(0)));
    let responses: Vec<usize> = (0..batch.responses.len()).collect();
    values(sequence_log_probs(hidden, params.heads.get(k).unwrap(), &batch, &responses))
}

/// The same, one row for each response, its logits computed everywhere.
fn separate(
    base: &Phi<B>,
    params: &PolicyParams<B>,
    k: usize,
    prompt: &[u32],
    response: &[u32],
) -> f32 {
    let row: Vec<u32> = prompt.iter().chain(response).copied().collect();
    let n = row.len();
    let pair = ([&row[..], &[0], &[]], [true, false]);
    let inputs = PackedBatch::pack(&[pair]).unwrap().inputs::<B>(&Default::default());
    let hidden = base.hidden_states_packed(&inputs, Some(params.adapter(0)));
    let logits = params.heads.get(k).unwrap().logits(hidden);
    let vocab = logits.dims()[1];
    let log_probs = values(activation::log_softmax(logits, 1));
    (prompt.len()..n).map(|t| log_probs[(t - 1) * vocab + row[t] as usize]).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    #[test]
    fn packed_pairs_equal_separate_rows(seed in any::<u64>(), n in 1usize..5) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let base = fixtures::base::<B>(seed);
        let params = fixtures::policies(&base, 2, seed ^ 1);
        let pairs = random_pairs(n, &mut rng);
        let keep: Vec<[bool; 2]> = (0..n).map(|_| [rng.random(), rng.random()]).collect();
        prop_assume!(keep.iter().any(|k| k[0] || k[1]));

        let found = packed(&base, &params, 1, &slices(&pairs, &keep));
        let mut expected = vec![];
        for ((prompt, first, second), keep) in pairs.iter().zip(&keep) {
            for (response, kept) in [first, second].into_iter().zip(keep) {
                if *kept {
                    expected.push(separate(&base, &params, 1, prompt, response));
                }
            }
        }
        let scale = expected.iter().fold(1f32, |a, b| a.max(b.abs()));
        prop_assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(&expected) {
            prop_assert!((a - b).abs() <= 1e-5 * scale, "{a} and {b}");
        }
    }
}

#[test]
fn the_layout_is_prompt_first_second_row_by_row() {
    let pairs =
        [(vec![1, 2], vec![3, 4], vec![5]), (vec![6], vec![7], vec![8]), (vec![9], vec![], vec![])];
    let keep = [[true, true], [false, true], [false, false]];
    let batch = PackedBatch::pack(&slices(&pairs, &keep)).unwrap();
    assert_eq!((batch.rows.rows().len(), batch.n_tokens()), (2, 7));
    assert_eq!(batch.ids, [1, 2, 3, 4, 5, 6, 8]);
    assert_eq!(batch.positions, [0, 1, 2, 3, 2, 0, 1]);
    assert_eq!(batch.rows, PackedRows::new([[2, 2, 1], [1, 0, 1]]));
    let response = |pair, in_pair, predictors: &[i32], targets: &[i32]| PackedResponse {
        pair,
        in_pair,
        predictors: predictors.into(),
        targets: targets.into(),
    };
    let expected =
        [response(0, 0, &[1, 2], &[3, 4]), response(0, 1, &[1], &[5]), response(1, 1, &[5], &[8])];
    assert_eq!(batch.responses, expected);
    assert_eq!(batch.responses_at(1), [1, 2]);
}

#[test]
fn the_other_response_does_not_matter() {
    let base = fixtures::base::<B>(5);
    let params = fixtures::policies(&base, 1, 6);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut pairs = random_pairs(3, &mut rng);
    let both = packed(&base, &params, 0, &slices(&pairs, &[[true, true]; 3]));
    let second = packed(&base, &params, 0, &slices(&pairs, &[[false, true]; 3]));
    assert_close(&second, &[both[1], both[3], both[5]], 1e-5);
    for pair in &mut pairs {
        pair.1 = tokens(4, &mut rng);
    }
    let changed = packed(&base, &params, 0, &slices(&pairs, &[[true, true]; 3]));
    assert_close(&[changed[1], changed[3], changed[5]], &second, 1e-5);
    assert_ne!(changed[0], both[0]);
}

#[test]
fn responses_may_be_any_subset_in_any_order_and_chunks_do_not_show() {
    let base = fixtures::base::<B>(5);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let prompt = tokens(2, &mut rng);
    let response = tokens(60, &mut rng);
    let pair = ([&prompt[..], &response, &[]], [true, false]);
    let short = ([&prompt[..], &response[..3], &[]], [true, false]);
    // 22 · 60 positions: more than one chunk on a backend without gradients.
    let mut pairs = vec![pair; 22];
    pairs.push(short);
    let batch = PackedBatch::pack(&pairs).unwrap();
    let device = Default::default();
    let hidden = base.hidden_states_packed(&batch.inputs::<B>(&device), None);
    let all: Vec<usize> = (0..23).collect();
    let found = values(sequence_log_probs(hidden.clone(), &base.lm_head, &batch, &all));
    assert_close(&found[1..22], &[found[0]; 21], 1e-4);
    let two = values(sequence_log_probs(hidden.clone(), &base.lm_head, &batch, &[22, 3]));
    assert_close(&two, &[found[22], found[3]], 1e-4);
    let each = values(token_log_probs(hidden, &base.lm_head, &batch, &[22, 3]));
    assert_eq!(each.len(), 63);
    assert_close(&[each[..3].iter().sum(), each[3..].iter().sum()], &two, 1e-4);
}

#[test]
fn gradients_reach_adapter_and_head_and_nothing_else() {
    let base = fixtures::base::<Ad>(5);
    let params = fixtures::policies(&base, 2, 6);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let pairs = random_pairs(3, &mut rng);
    let batch = PackedBatch::pack(&slices(&pairs, &[[true, true]; 3])).unwrap();
    let responses: Vec<usize> = (0..6).collect();
    let loss = |params: &PolicyParams<Ad>| {
        let inputs = batch.inputs::<Ad>(&Default::default());
        let hidden = base.hidden_states_packed(&inputs, Some(params.adapter(0)));
        sequence_log_probs(hidden, &params.heads.heads[0], &batch, &responses).mean()
    };
    let grads = loss(&params).backward();
    let base_grads = base.layers[0].self_attn.q_proj.dense_weight().grad(&grads);
    assert!(base_grads.is_none() && base.lm_head.weight.dense().grad(&grads).is_none());
    assert!(base.embed_tokens.weight.val().grad(&grads).is_none());
    assert!(params.heads.heads[1].weight.dense().grad(&grads).is_none());
    let grads = GradientsParams::from_grads(grads, &params);
    let inner = params.valid();
    let inner_base = base.valid();
    let step = 2e-2;
    for layer in 0..2 {
        for linear in 0..6 {
            let pair = params.adapter(0).pair(layer, linear).unwrap();
            for param in [&pair.a, &pair.b] {
                let grad = grads.get::<B, 2>(param.id).unwrap();
                // Along the gradient itself, by central differences.
                let norm: f32 = values(grad.clone().powf_scalar(2.0).sum())[0].sqrt();
                let direction = grad / norm;
                let at = |size: f32| {
                    let mut moved = inner.clone();
                    let pair = moved.adapters[0].layers[layer].pairs[linear].as_mut().unwrap();
                    let which = if param.id == pair.a.id { &mut pair.a } else { &mut pair.b };
                    *which = which.clone().map(|t| t + direction.clone() * size);
                    let inputs = batch.inputs::<B>(&Default::default());
                    let hidden = inner_base.hidden_states_packed(&inputs, Some(moved.adapter(0)));
                    let head = &moved.heads.heads[0];
                    values(sequence_log_probs(hidden, head, &batch, &responses).mean())[0]
                };
                let slope = (at(step) - at(-step)) / (2.0 * step);
                // Relative to the slope alone: none is 0.
                assert!((slope - norm).abs() < 0.005 * slope.abs(), "{linear}: {slope} {norm}");
            }
        }
    }
}

#[test]
fn what_cannot_be_predicted_is_an_error() {
    let pack =
        |prompt: &[u32], first: &[u32], keep| PackedBatch::pack(&[([prompt, first, &[1]], keep)]);
    let error = pack(&[], &[1], [true, true]).unwrap_err();
    assert!(matches!(error, Error::EmptyPrompt { index: 0 }), "{error}");
    let error = pack(&[1], &[], [true, true]).unwrap_err();
    assert!(matches!(error, Error::EmptyResponse { index: 0, in_pair: 0 }), "{error}");
    let nothing = pack(&[], &[], [false, false]).unwrap();
    assert_eq!((nothing.rows.rows().len(), nothing.n_tokens(), nothing.responses.len()), (0, 0, 0));
    assert!(pack(&[1], &[], [false, true]).is_ok());
}

#[test]
fn prompts_without_responses_have_the_same_states() {
    let device = Default::default();
    let base: Phi<B> = fixtures::base(4);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let prompts = [tokens(5, &mut rng), tokens(1, &mut rng), tokens(8, &mut rng)];
    let alone = PackedBatch::prompts(&prompts).unwrap();
    assert!(alone.responses.is_empty() && alone.n_tokens() == 14);
    let states = values(base.hidden_states_packed(&alone.inputs::<B>(&device), None));
    let d = base.config().hidden_size;
    let mut start = 0;
    for prompt in &prompts {
        let response = tokens(3, &mut rng);
        let pair = ([&prompt[..], &response, &[]], [true, false]);
        let batch = PackedBatch::pack(&[pair]).unwrap();
        let with = values(base.hidden_states_packed(&batch.inputs::<B>(&device), None));
        let n = prompt.len() * d;
        assert_close(&states[start..start + n], &with[..n], 1e-5);
        start += n;
    }
    let e = PackedBatch::prompts(&[vec![1], vec![]]).unwrap_err();
    assert!(matches!(e, Error::EmptyPrompt { index: 1 }), "{e}");
}

#[test]
fn log_probs_at_a_temperature_are_those_that_sampling_draws_from() {
    let device = Default::default();
    let base: Phi<B> = fixtures::base(4);
    let params = fixtures::policies(&base, 1, 6);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let pairs = random_pairs(2, &mut rng);
    let batch = PackedBatch::pack(&slices(&pairs, &[[true, true]; 2])).unwrap();
    let hidden = base.hidden_states_packed(&batch.inputs::<B>(&device), Some(params.adapter(0)));
    let all = [0, 1, 2, 3];
    for soft_cap in [None, Some(0.7)] {
        let mut head = params.heads.heads[0].clone();
        head.soft_cap = soft_cap;
        let states = response_states(hidden.clone(), &batch, &all);
        let targets: Vec<i32> =
            batch.responses.iter().flat_map(|response| response.targets.clone()).collect();
        for temperature in [1.0, 0.5, 1.7] {
            let found =
                values(token_log_probs_at(hidden.clone(), &head, &batch, &all, temperature));
            let logits = head.logits(states.clone()).div_scalar(temperature);
            let vocab = logits.dims()[1];
            let whole = values(activation::log_softmax(logits, 1));
            let expected: Vec<f32> =
                targets.iter().enumerate().map(|(i, id)| whole[i * vocab + *id as usize]).collect();
            assert_close(&found, &expected, 1e-5);
        }
        let plain = values(token_log_probs(hidden.clone(), &head, &batch, &all));
        assert_eq!(values(token_log_probs_at(hidden.clone(), &head, &batch, &all, 1.0)), plain);
    }
}

#[test]
fn heads_of_low_rank_share_a_product_and_give_what_each_gives_alone() {
    let device = Default::default();
    let base: Phi<Ad> = fixtures::base(4);
    let params = fixtures::policies(&base, 1, 6);
    let mut heads = PolicyHeads::updates_of(&base.lm_head, 3, 2, 0.7).heads;
    for (k, head) in heads.iter_mut().enumerate() {
        head.update = fixtures::filled(head.update.take(), k as u64, 0.5);
        head.bias = fixtures::filled(head.bias.take(), k as u64, 0.5);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let pairs = random_pairs(3, &mut rng);
    let batch = PackedBatch::pack(&slices(&pairs, &[[true, true]; 3])).unwrap();
    let inputs = batch.inputs::<Ad>(&device);
    // The second policy needs nothing, the third few, in an order of its own.
    let wanted = [vec![0, 1, 2, 3, 4, 5], vec![], vec![4, 1]];
    let hidden = || base.hidden_states_packed(&inputs, Some(params.adapter(0)));
    let together = sequence_log_probs_by_head(hidden(), &heads, &batch, &wanted);
    assert!(together[1].is_none());
    let tokens = token_log_probs_by_head(hidden(), &heads, &batch, &wanted[0]);
    for (k, wanted) in wanted.iter().enumerate().filter(|(_, wanted)| !wanted.is_empty()) {
        let merged = heads[k].merged();
        let expected = values(sequence_log_probs(hidden(), &merged, &batch, wanted));
        assert_close(&values(together[k].clone().unwrap()), &expected, 1e-4);
        let alone = values(sequence_log_probs(hidden(), &heads[k], &batch, wanted));
        assert_close(&alone, &expected, 1e-4);
        for temperature in [1.0, 1.7] {
            let at = |head: &OutputLayer<Ad>| {
                values(token_log_probs_at(hidden(), head, &batch, &[2, 5], temperature))
            };
            assert_close(&at(&heads[k]), &at(&merged), 1e-5);
        }
        let whole = values(token_log_probs(hidden(), &merged, &batch, &[0, 1, 2, 3, 4, 5]));
        assert_close(&values(tokens[k].clone()), &whole, 1e-5);
    }

    // A head that nothing needs learns nothing; the others do, and their weight does not.
    let losses = together.into_iter().flatten().map(|of| of.mean());
    let grads = losses.reduce(|a, b| a + b).unwrap().backward();
    for (k, head) in heads.iter().enumerate() {
        let update = head.update.as_ref().unwrap();
        let size = |x: Option<Tensor<B, 2>>| x.map_or(0.0, |x| values(x.abs().sum())[0]);
        let sizes = [update.a.val().grad(&grads), update.b.val().grad(&grads)].map(size);
        assert_eq!(sizes.map(|x| x > 0.0), [k != 1; 2], "{k}: {sizes:?}");
        assert!(head.weight.dense().grad(&grads).is_none());
    }
}
