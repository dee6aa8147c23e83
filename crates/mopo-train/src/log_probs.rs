//! Sequence log-probs of many pairs without gradients: under the initial policy once for the
//! whole training set, and under the trained one for held-out pairs.

use std::path::Path;

use burn::tensor::{Tensor, backend::Backend};
use mopo_data::write_atomically;
use mopo_lm::{Phi, PolicyParams, sequence_log_probs};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

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
    let heads = match params {
        Some(p) => p.heads.heads.iter().collect(),
        None => vec![&base.lm_head],
    };
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

/// The same for all pairs, in fixed batches (so that the bits are the same every time).
pub(crate) fn all_log_probs<B: Backend>(
    base: &Phi<B>,
    params: Option<&PolicyParams<B>>,
    pairs: &Pairs,
    phase: &str,
    device: &B::Device,
    progress: &mut dyn Progress,
) -> Result<Vec<LogProbs>> {
    const BATCH: usize = 16;
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    let lengths = pairs.row_lengths();
    order.sort_by_key(|&i| (lengths[i], i));
    let n_heads = params.map_or(1, |p| p.heads.heads.len());
    let mut out = vec![vec![[0.0; 2]; pairs.len()]; n_heads];
    progress.begin(phase, 0, pairs.len().div_ceil(BATCH));
    for indices in order.chunks(BATCH) {
        let batch = batch_log_probs(base, params, pairs, indices, device)?;
        for (all, rows) in out.iter_mut().zip(batch) {
            for (&i, row) in indices.iter().zip(rows) {
                if let Some(value) = row.iter().find(|x| !x.is_finite()) {
                    return Err(Error::NonFinite {
                        phase: phase.into(),
                        step: i,
                        what: format!("the log-probability of a response of pair {i}"),
                        value: f64::from(*value),
                        state: "The weights that it was computed with are not sound.".into(),
                    });
                }
                all[i] = row;
            }
        }
        progress.advance("");
    }
    progress.end("");
    Ok(out)
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

/// `[n_terms]` on a device.
pub(crate) fn to_tensor<B: Backend>(values: &[f32], device: &B::Device) -> Tensor<B, 1> {
    Tensor::from_data(values, device)
}
