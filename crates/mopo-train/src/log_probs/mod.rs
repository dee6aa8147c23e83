//! Sequence log-probs of many pairs without gradients: under the frozen base once for the whole
//! training set, and under the trained policy for held-out pairs. The cache between runs is in
//! [`crate::cache`].

mod initial;
mod reference;
mod window;

use burn::tensor::{Tensor, backend::Backend};
use mopo_lm::{
    CausalLm, Decoder, LoraAdapter, OutputLayer, PolicyParams, sequence_log_probs_by_head,
    token_log_probs_by_head,
};
use mopo_ops::FusedBackend;

pub(crate) use initial::{read, write};
pub(crate) use reference::reference_log_probs;
pub(crate) use window::WindowLogProbs;

use crate::cache::{Context, LogProbCache};
use crate::communicator::Communicator;
use crate::{Error, Pairs, Progress, Result, Unit};

/// log π(y|x) of both responses of every pair, in nats, summed over response tokens.
pub(crate) type LogProbs = Vec<[f32; 2]>;

/// The log-probs of the pairs `indices` in one packed batch: one list per head, in the order of
/// `indices`. Without `params`, those of the base model with its own output layer, as one list.
pub(crate) fn batch_log_probs<B: FusedBackend>(
    base: &CausalLm<B>,
    params: Option<&PolicyParams<B>>,
    pairs: &Pairs,
    indices: &[usize],
    device: &B::Device,
) -> Result<Vec<LogProbs>> {
    let batch = pairs.pack(indices, &vec![[true, true]; indices.len()])?;
    let inputs = batch.inputs::<B>(device);
    let responses: Vec<usize> = (0..batch.responses.len()).collect();
    let mut out = Vec::new();
    for (adapter, heads) in passes(base, params) {
        let hidden = base.hidden_states_packed(&inputs, adapter);
        let of_heads = vec![responses.clone(); heads.len()];
        let by_head = sequence_log_probs_by_head(hidden, &heads, &batch, &of_heads);
        for values in by_head.into_iter().flatten() {
            let values: Vec<f32> = values.into_data().iter().collect();
            let mut rows = vec![[0.0; 2]; indices.len()];
            for (response, value) in batch.responses.iter().zip(values) {
                rows[response.pair][response.in_pair] = value;
            }
            out.push(rows);
        }
    }
    Ok(out)
}

/// Pairs between two progress reports.
const REPORT: usize = 16;

/// log π of both responses of every pair: one list per head. Without `params`, those of the base
/// model with
/// its own output layer, as one list.
///
/// Pair by pair, so that a pair's values do not depend on the others: a cached value has
/// the same bits as a computed one.
#[allow(clippy::too_many_arguments)] // of private plumbing
pub(crate) fn all_log_probs<B: FusedBackend>(
    base: &CausalLm<B>,
    params: Option<&PolicyParams<B>>,
    pairs: &Pairs,
    phase: &str,
    device: &B::Device,
    communicator: &dyn Communicator,
    progress: &mut dyn Progress,
) -> Result<Vec<LogProbs>> {
    let n_heads = params.map_or(1, |p| p.heads.heads.len());
    let mut out = vec![vec![[0.0; 2]; pairs.len()]; n_heads];
    let every: Vec<usize> = (0..pairs.len()).collect();
    let mut take = |i: usize, head: usize, row| out[head][i] = row;
    for_each_pair(base, params, pairs, &every, phase, device, communicator, progress, &mut take)?;
    Ok(out)
}

/// log π of both responses of every pair under the frozen base, from the cache if it has them. Also
/// returns how many were cached.
pub(crate) fn frozen_log_probs<B: FusedBackend>(
    base: &CausalLm<B>,
    pairs: &Pairs,
    cache: Option<(&LogProbCache, &Context)>,
    phase: &str,
    device: &B::Device,
    communicator: &dyn Communicator,
    progress: &mut dyn Progress,
) -> Result<LogProbs> {
    let Some((cache, context)) = cache else {
        let mut all = all_log_probs(base, None, pairs, phase, device, communicator, progress)?;
        return Ok(all.swap_remove(0));
    };
    let mut open = cache.open(context);
    // That of rank 0: every rank computes the same pairs.
    let found: Vec<Option<[f32; 2]>> = communicator
        .by_first(|| pairs.tokens.iter().map(|pair| Ok(open.get(&*pair?))).collect())?;
    let missing: Vec<usize> = (0..found.len()).filter(|&i| found[i].is_none()).collect();
    let mut out: LogProbs = found.into_iter().map(Option::unwrap_or_default).collect();
    let mut take = |i: usize, _, row| {
        out[i] = row;
        // What cannot be read any more is only not cached.
        if communicator.is_first()
            && let Ok(tokens) = pairs.tokens.get(i)
        {
            open.insert(&tokens, row);
        }
    };
    let done = for_each_pair(
        base,
        None,
        pairs,
        &missing,
        phase,
        device,
        communicator,
        progress,
        &mut take,
    );
    // What was computed before an error is kept.
    open.flush();
    for warning in open.take_warnings() {
        progress.note(&warning);
    }
    done?;
    progress.note(&format!(
        "log-probs of the {phase}: {} of {} pairs from the cache {}, {} computed",
        pairs.len() - missing.len(),
        pairs.len(),
        cache.dir().display(),
        missing.len()
    ));
    Ok(out)
}

/// Computes the pairs `wanted`, dealt out over the ranks, and passes on (pair, head, log-probs) of all of them.
#[allow(clippy::too_many_arguments)] // of private plumbing
fn for_each_pair<B: FusedBackend>(
    base: &CausalLm<B>,
    params: Option<&PolicyParams<B>>,
    pairs: &Pairs,
    wanted: &[usize],
    phase: &str,
    device: &B::Device,
    communicator: &dyn Communicator,
    progress: &mut dyn Progress,
    take: &mut dyn FnMut(usize, usize, [f32; 2]),
) -> Result<()> {
    // Short ones first, so that the progress bar never overestimates the speed.
    let lengths = pairs.row_lengths();
    let mut order = wanted.to_vec();
    order.sort_by_key(|&i| (lengths[i], i));
    let passes = passes(base, params);
    let block = REPORT * communicator.world();
    progress.begin(phase, 0, order.len().div_ceil(block) as u64, Unit::Steps);
    for some in order.chunks(block) {
        let found = communicator.deal(some.len(), |at| {
            let i = some[at];
            let batch = pairs.pack(&[i], &[[true, true]])?;
            let inputs = batch.inputs::<B>(device);
            let of_passes = passes.iter().flat_map(|(adapter, heads)| {
                let hidden = base.hidden_states_packed(&inputs, *adapter);
                token_log_probs_by_head(hidden, heads, &batch, &[0, 1])
            });
            let mut by_head = Vec::new();
            for tokens in of_passes {
                let tokens: Vec<f64> = tokens.into_data().iter().collect();
                let (first, second) = tokens.split_at(batch.responses[0].targets.len());
                let sums = [first, second].map(|tokens| tokens.iter().sum::<f64>() as f32);
                if let Some(value) = sums.iter().find(|x| !x.is_finite()) {
                    return Err(Error::NonFinite {
                        phase: phase.into(),
                        step: i,
                        what: format!("the log-probability of a response of pair {i}"),
                        value: f64::from(*value),
                        state: "The weights that computed it are damaged.".into(),
                    });
                }
                by_head.push(sums);
            }
            Ok(by_head)
        })?;
        for (&i, by_head) in some.iter().zip(found) {
            by_head.into_iter().enumerate().for_each(|(h, sums)| take(i, h, sums));
        }
        progress.advance(1, "");
    }
    progress.end("");
    Ok(())
}

/// An adapter, and the heads that take its hidden states.
type Pass<'a, B> = (Option<&'a LoraAdapter<B>>, Vec<OutputLayer<B>>);

/// The forward passes that all policies need, in the policies' order.
fn passes<'a, B: FusedBackend>(
    base: &CausalLm<B>,
    params: Option<&'a PolicyParams<B>>,
) -> Vec<Pass<'a, B>> {
    match params {
        Some(params) => params
            .by_adapter()
            .map(|(adapter, policies)| (Some(adapter), params.heads.heads[policies].to_vec()))
            .collect(),
        None => vec![(None, vec![base.lm_head()])],
    }
}

/// `[n_responses]` on a device.
pub(crate) fn to_tensor<B: Backend>(values: &[f32], device: &B::Device) -> Tensor<B, 1> {
    Tensor::from_data(values, device)
}

#[cfg(test)]
mod tests {
    use mopo_data::PairTokens;
    use mopo_lm::PhiConfig;
    use mopo_testkit::TestBackend;

    use super::*;
    use crate::Silent;
    use crate::communicator::Solo;

    /// Pairs of many lengths, with tokens from a fixed sequence.
    fn pairs(n: usize) -> Pairs {
        let mut state = 1u32;
        let mut ids = |n: usize| -> Vec<u32> {
            let next = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) % 40
            };
            (0..n).map(next).collect()
        };
        let tokens = (0..n)
            .map(|i| PairTokens {
                prompt: ids(1 + i * 7 % 23),
                first: ids(1 + i * 5 % 19),
                second: ids(1 + i * 3 % 29),
            })
            .collect();
        Pairs::without_scores(tokens, vec![[vec![], vec![]]; n])
    }

    fn base() -> CausalLm<TestBackend> {
        let config = PhiConfig {
            vocab_size: 40,
            hidden_size: 16,
            intermediate_size: 32,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            max_position_embeddings: 64,
            ..PhiConfig::phi_1_5()
        };
        // Drawn from the process's one random state: any weights will do.
        config.init(&Default::default()).into()
    }

    fn bits(log_probs: &[[f32; 2]]) -> Vec<[u32; 2]> {
        log_probs.iter().map(|row| row.map(f32::to_bits)).collect()
    }

    #[test]
    fn a_pairs_log_probs_are_the_same_bits_among_any_others() {
        let (base, all) = (base(), pairs(60));
        let device = Default::default();
        let run = |pairs: &Pairs, cache: Option<(&LogProbCache, &Context)>| {
            frozen_log_probs(&base, pairs, cache, "test", &device, &Solo, &mut Silent).unwrap()
        };
        let whole = run(&all, None);
        // A single one, some in threes, and every second one.
        for part in [vec![7], vec![59, 3, 21], (0..60).step_by(2).collect::<Vec<_>>()] {
            let some = Pairs::without_scores(
                part.iter().map(|&i| all.tokens.get(i).unwrap().into_owned()).collect(),
                vec![[vec![], vec![]]; part.len()],
            );
            let expected: LogProbs = part.iter().map(|&i| whole[i]).collect();
            assert_eq!(bits(&run(&some, None)), bits(&expected), "{part:?}");
        }
        // And those that a half-full cache does not have.
        let tmp = tempfile::tempdir().unwrap();
        let cache = LogProbCache::new(tmp.path());
        let context = Context { format: 1, ..Context::default() };
        let half = Pairs::without_scores(
            all.tokens.iter().step_by(2).map(|pair| pair.unwrap().into_owned()).collect(),
            vec![[vec![], vec![]]; 30],
        );
        run(&half, Some((&cache, &context)));
        let open = cache.open(&context);
        let tokens = all.tokens.iter().map(Result::unwrap);
        let found = tokens.filter(|pair| open.get(pair).is_some()).count();
        assert_eq!(found, 30);
        assert_eq!(bits(&run(&all, Some((&cache, &context)))), bits(&whole));
    }

    #[test]
    fn single_pairs_have_the_log_probs_of_a_packed_batch() {
        let (base, all) = (base(), pairs(20));
        let device = Default::default();
        let indices: Vec<usize> = (0..20).collect();
        let packed = batch_log_probs(&base, None, &all, &indices, &device).unwrap();
        let fixed = all_log_probs(&base, None, &all, "test", &device, &Solo, &mut Silent).unwrap();
        for (a, b) in packed[0].iter().flatten().zip(fixed[0].iter().flatten()) {
            assert!((a - b).abs() < 1e-4 * a.abs(), "{a} and {b}");
        }
    }
}
