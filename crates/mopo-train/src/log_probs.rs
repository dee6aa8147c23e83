//! Sequence log-probs of many pairs without gradients: under the frozen base once for the whole
//! training set, and under the trained policy for held-out pairs. What is kept of them between runs
//! is in [`crate::cache`].

use std::collections::BTreeMap;
use std::path::Path;

use burn::nn::Linear;
use burn::tensor::{Tensor, backend::Backend};
use mopo_data::write_atomically;
use mopo_lm::{PackedBatch, Phi, PolicyParams, Segment, sequence_log_probs, token_log_probs};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::cache::{Context, LogProbCache};
use crate::{Error, Pairs, Progress, Result};

/// log π(y|x) of both responses of every pair, in nats, summed over response tokens.
pub(crate) type LogProbs = Vec<[f32; 2]>;

/// The log-probs of the pairs `indices` in one packed batch: one list per head, in the order of
/// `indices`. Without `params`: the base model and its own output layer, as one list.
pub(crate) fn batch_log_probs<B: Backend>(
    base: &Phi<B>,
    params: Option<&PolicyParams<B>>,
    pairs: &Pairs,
    indices: &[usize],
    device: &B::Device,
) -> Result<Vec<LogProbs>> {
    let batch = pairs.pack(indices, &vec![[true, true]; indices.len()])?;
    let inputs = batch.inputs::<B>(device);
    let adapter = params.map(|p| &p.adapter);
    let hidden = base.hidden_states(inputs.ids, inputs.positions, inputs.mask, adapter);
    let terms: Vec<usize> = (0..batch.terms.len()).collect();
    let heads = heads(base, params);
    let mut out = Vec::with_capacity(heads.len());
    for head in heads {
        let values: Vec<f32> =
            sequence_log_probs(hidden.clone(), head, &batch, &terms).into_data().iter().collect();
        let mut rows = vec![[0.0; 2]; indices.len()];
        for (term, value) in batch.terms.iter().zip(values) {
            rows[term.pair][term.side] = value;
        }
        out.push(rows);
    }
    Ok(out)
}

/// Rows of a batch in [`all_log_probs`].
const BATCH: usize = 16;
/// Widths there are multiples of this.
const WIDTH_STEP: usize = 32;

/// log π of both responses of every pair: one list per head. Without `params`: the base model and
/// its own output layer, as one list.
///
/// A pair's values do not depend on the others: its row's width follows from its length alone, the
/// output layer is applied pair by pair, and tokens are summed one after the other. So a pair that
/// comes from a cache has the bits that it would have been computed with.
pub(crate) fn all_log_probs<B: Backend>(
    base: &Phi<B>,
    params: Option<&PolicyParams<B>>,
    pairs: &Pairs,
    phase: &str,
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<Vec<LogProbs>> {
    let n_heads = params.map_or(1, |p| p.heads.heads.len());
    let mut out = vec![vec![[0.0; 2]; pairs.len()]; n_heads];
    let every: Vec<usize> = (0..pairs.len()).collect();
    for_each_pair(base, params, pairs, &every, phase, device, progress, |i, head, row| {
        out[head][i] = row;
    })?;
    Ok(out)
}

/// log π of both responses of every pair under the frozen base, from the cache where it has them.
/// Says how many that were.
pub(crate) fn frozen_log_probs<B: Backend>(
    base: &Phi<B>,
    pairs: &Pairs,
    cache: Option<(&LogProbCache, &Context)>,
    phase: &str,
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<LogProbs> {
    let Some((cache, context)) = cache else {
        let mut all = all_log_probs(base, None, pairs, phase, device, progress)?;
        return Ok(all.swap_remove(0));
    };
    let mut open = cache.open(context);
    let found: Vec<Option<[f32; 2]>> = pairs.tokens.iter().map(|pair| open.get(pair)).collect();
    let missing: Vec<usize> = (0..found.len()).filter(|&i| found[i].is_none()).collect();
    let mut out: LogProbs = found.into_iter().map(Option::unwrap_or_default).collect();
    let done = for_each_pair(base, None, pairs, &missing, phase, device, progress, |i, _, row| {
        out[i] = row;
        open.insert(&pairs.tokens[i], row);
    });
    // What was computed before an error is worth keeping.
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

/// Computes the pairs `wanted` and hands on (pair, head, log-probs).
#[allow(clippy::too_many_arguments)] // of private plumbing
fn for_each_pair<B: Backend>(
    base: &Phi<B>,
    params: Option<&PolicyParams<B>>,
    pairs: &Pairs,
    wanted: &[usize],
    phase: &str,
    device: &B::Device,
    progress: &mut dyn Progress,
    mut take: impl FnMut(usize, usize, [f32; 2]),
) -> Result<()> {
    let lengths = pairs.row_lengths();
    let width = |i: usize| lengths[i].next_multiple_of(WIDTH_STEP);
    let mut order = wanted.to_vec();
    order.sort_by_key(|&i| (width(i), lengths[i], i));
    let batches: Vec<&[usize]> =
        order.chunk_by(|&a, &b| width(a) == width(b)).flat_map(|same| same.chunks(BATCH)).collect();
    progress.begin(phase, 0, batches.len());
    for indices in batches {
        let mut batch = pairs.pack(indices, &vec![[true, true]; indices.len()])?;
        widen(&mut batch, width(indices[0]), pairs.pad);
        let inputs = batch.inputs::<B>(device);
        let adapter = params.map(|p| &p.adapter);
        let hidden = base.hidden_states(inputs.ids, inputs.positions, inputs.mask, adapter);
        for (h, head) in heads(base, params).into_iter().enumerate() {
            for (row, &i) in indices.iter().enumerate() {
                let terms = [2 * row, 2 * row + 1];
                let tokens = token_log_probs(hidden.clone(), head, &batch, &terms);
                let tokens: Vec<f64> = tokens.into_data().iter().collect();
                let (first, second) = tokens.split_at(batch.terms[terms[0]].targets.len());
                let sums = [first, second].map(|tokens| tokens.iter().sum::<f64>() as f32);
                if let Some(value) = sums.iter().find(|x| !x.is_finite()) {
                    return Err(Error::NonFinite {
                        phase: phase.into(),
                        step: i,
                        what: format!("the log-probability of a response of pair {i}"),
                        value: f64::from(*value),
                        state: "The weights that it was computed with are not sound.".into(),
                    });
                }
                take(i, h, sums);
            }
        }
        progress.advance("");
    }
    progress.end("");
    Ok(())
}

fn heads<'a, B: Backend>(
    base: &'a Phi<B>,
    params: Option<&'a PolicyParams<B>>,
) -> Vec<&'a Linear<B>> {
    match params {
        Some(p) => p.heads.heads.iter().collect(),
        None => vec![&base.lm_head],
    }
}

/// Pads every row of a batch to `width` columns.
fn widen(batch: &mut PackedBatch, width: usize, pad: u32) {
    let (old, more) = (batch.width, width - batch.width);
    if more == 0 {
        return;
    }
    fn rows<T: Copy>(values: &[T], old: usize, more: usize, fill: T) -> Vec<T> {
        values
            .chunks_exact(old)
            .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(fill, more)))
            .collect()
    }
    batch.ids = rows(&batch.ids, old, more, pad as i32);
    batch.positions = rows(&batch.positions, old, more, 0);
    batch.segments = rows(&batch.segments, old, more, Segment::Padding as u8);
    for at in batch.terms.iter_mut().flat_map(|term| &mut term.predictors) {
        *at += (*at as usize / old * more) as i32;
    }
    batch.width = width;
}

/// Writes the initial policy's log-probs: they are needed all through training and cost a pass
/// over the data.
pub(crate) fn write(path: &Path, log_probs: &LogProbs) -> Result<()> {
    let bytes: Vec<u8> = log_probs.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let file = TensorView::new(Dtype::F32, vec![log_probs.len(), 2], &bytes)
        .and_then(|view| safetensors::serialize([("initial_log_probs", view)], None))
        .map_err(|e| Error::corrupt(path, e.to_string()))?;
    Ok(write_atomically(path, &file)?)
}

/// Reads them back.
pub(crate) fn read(path: &Path, n_pairs: usize) -> Result<LogProbs> {
    let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
    let remedy = "delete it and resume: it is computed again";
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::corrupt(path, format!("{e}; {remedy}")))?;
    let view = file
        .tensor("initial_log_probs")
        .map_err(|e| Error::corrupt(path, format!("{e}; {remedy}")))?;
    if view.shape() != [n_pairs, 2] || view.dtype() != Dtype::F32 {
        return Err(Error::corrupt(
            path,
            format!("it has shape {:?}, the data has {n_pairs} pairs; {remedy}", view.shape()),
        ));
    }
    let (values, _) = view.data().as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let (rows, _) = values.as_chunks::<2>();
    Ok(rows.to_vec())
}

/// Log-probs under a lagged reference, computed at most once per pair and refresh window.
///
/// It is a part of MOPO's checkpoints: a resumed run would meet the pairs in other batches than the
/// run that was not cut off, and the last bits of a log-prob may depend on the batch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WindowLogProbs {
    n_policies: usize,
    /// Pair → one row per policy.
    rows: BTreeMap<usize, LogProbs>,
}

impl WindowLogProbs {
    pub(crate) fn new(n_policies: usize) -> Self {
        Self { n_policies, rows: BTreeMap::new() }
    }

    pub(crate) fn get(&self, pair: usize) -> Option<&LogProbs> {
        self.rows.get(&pair)
    }

    /// `of_pair`: one row per policy.
    pub(crate) fn insert(&mut self, pair: usize, of_pair: LogProbs) {
        assert_eq!(of_pair.len(), self.n_policies, "one row per policy");
        self.rows.insert(pair, of_pair);
    }

    /// A new window begins.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
    }

    /// Per pair its index (u64) and two f32 per policy, little-endian.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.rows.len() * (8 + 8 * self.n_policies));
        for (pair, row) in &self.rows {
            out.extend((*pair as u64).to_le_bytes());
            out.extend(row.iter().flatten().flat_map(|x| x.to_le_bytes()));
        }
        out
    }

    /// None if the bytes are not those of as many policies.
    pub(crate) fn from_bytes(n_policies: usize, bytes: &[u8]) -> Option<Self> {
        let chunks = bytes.chunks_exact(8 + 8 * n_policies);
        if !chunks.remainder().is_empty() {
            return None;
        }
        let rows = chunks.map(|chunk| {
            let (words, _) = chunk.as_chunks::<8>();
            let half = |w: &[u8; 8], i: usize| f32::from_le_bytes([0, 1, 2, 3].map(|j| w[i + j]));
            let row = words[1..].iter().map(|w| [half(w, 0), half(w, 4)]).collect();
            (u64::from_le_bytes(words[0]) as usize, row)
        });
        Some(Self { n_policies, rows: rows.collect() })
    }
}

/// `[n_terms]` on a device.
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
        Pairs { tokens, terms: vec![[vec![], vec![]]; n], pad: 0 }
    }

    fn base() -> Phi<TestBackend> {
        let config = PhiConfig {
            vocab_size: 40,
            hidden_size: 16,
            intermediate_size: 32,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            max_position_embeddings: 64,
            ..PhiConfig::phi_1_5()
        };
        // From the process's one random state: any weights do.
        config.init::<TestBackend>(&Default::default())
    }

    fn bits(log_probs: &[[f32; 2]]) -> Vec<[u32; 2]> {
        log_probs.iter().map(|row| row.map(f32::to_bits)).collect()
    }

    #[test]
    fn a_pairs_log_probs_are_the_same_bits_among_any_others() {
        let (base, all) = (base(), pairs(60));
        let device = Default::default();
        let run = |pairs: &Pairs, cache: Option<(&LogProbCache, &Context)>| {
            frozen_log_probs(&base, pairs, cache, "test", &device, &mut Silent).unwrap()
        };
        let whole = run(&all, None);
        // One batch holds 16: alone, in threes, and every second one.
        for part in [vec![7], vec![59, 3, 21], (0..60).step_by(2).collect::<Vec<_>>()] {
            let some = Pairs {
                tokens: part.iter().map(|&i| all.tokens[i].clone()).collect(),
                terms: vec![[vec![], vec![]]; part.len()],
                pad: 0,
            };
            let expected: LogProbs = part.iter().map(|&i| whole[i]).collect();
            assert_eq!(bits(&run(&some, None)), bits(&expected), "{part:?}");
        }
        // And as what a half-full cache leaves over.
        let tmp = tempfile::tempdir().unwrap();
        let cache = LogProbCache::new(tmp.path());
        let context = Context { format: 1, ..Context::default() };
        let half = Pairs {
            tokens: all.tokens.iter().step_by(2).cloned().collect(),
            terms: vec![[vec![], vec![]]; 30],
            pad: 0,
        };
        run(&half, Some((&cache, &context)));
        let open = cache.open(&context);
        let found = all.tokens.iter().filter(|pair| open.get(pair).is_some()).count();
        assert_eq!(found, 30);
        assert_eq!(bits(&run(&all, Some((&cache, &context)))), bits(&whole));
    }

    #[test]
    fn padded_rows_have_the_log_probs_of_a_packed_batch() {
        let (base, all) = (base(), pairs(20));
        let device = Default::default();
        let indices: Vec<usize> = (0..20).collect();
        let packed = batch_log_probs(&base, None, &all, &indices, &device).unwrap();
        let fixed = all_log_probs(&base, None, &all, "test", &device, &mut Silent).unwrap();
        for (a, b) in packed[0].iter().flatten().zip(fixed[0].iter().flatten()) {
            assert!((a - b).abs() < 1e-4 * a.abs(), "{a} and {b}");
        }
    }

    #[test]
    fn the_log_probs_of_a_window_survive_as_bytes() {
        let mut window = WindowLogProbs::new(2);
        window.insert(70_000, vec![[-1.5, f32::MIN_POSITIVE], [0.1, -3e8]]);
        window.insert(3, vec![[-1.0, -2.0], [-3.0, -4.0]]);
        let bytes = window.to_bytes();
        assert_eq!(WindowLogProbs::from_bytes(2, &bytes), Some(window.clone()));
        assert_eq!(WindowLogProbs::from_bytes(2, &bytes[1..]), None);
        window.clear();
        assert_eq!(WindowLogProbs::from_bytes(2, &window.to_bytes()), Some(window));
    }
}
