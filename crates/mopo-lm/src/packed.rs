//! Preference pairs as rows: a prompt once, then both responses, which do not see each other. And
//! the log-probabilities of the responses, with the output layer applied only where it is needed.
//!
//! Packing works on plain integers; nothing here knows about policies or losses.

#[cfg(test)]
mod tests;

use burn::nn::Linear;
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, Int, Tensor, TensorData, activation};

use crate::{Error, Result};

/// Positions whose logits are held at once where no gradient needs them.
const CHUNK: usize = 1024;

/// What a position of a row belongs to; the values of [`PackedBatch::segments`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Segment {
    /// Seen by both responses.
    Prompt = 0,
    /// The first response.
    First = 1,
    /// The second response.
    Second = 2,
    /// Behind the end of the row.
    Padding = 3,
}

/// One pair as token ids. A single response (for supervised tuning) is a pair with an empty
/// `second` and `keep` `[true, false]`.
#[derive(Debug, Clone, Copy)]
pub struct PairSlices<'a> {
    /// The prompt; not empty if a response is kept.
    pub prompt: &'a [u32],
    /// The first response, its end-of-text token included.
    pub first: &'a [u32],
    /// The second response, likewise.
    pub second: &'a [u32],
    /// Which of the two responses to pack.
    pub keep: [bool; 2],
}

/// One response of the batch: a term of the losses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedTerm {
    /// Index of the pair in the slice given to [`PackedBatch::pack`].
    pub pair: usize,
    /// 0 the first, 1 the second response.
    pub side: usize,
    /// For each response token the flat index (`row * width + column`) of the position whose output
    /// predicts it; the prompt's last position for the first token of either response.
    pub predictors: Vec<i32>,
    /// The response tokens.
    pub targets: Vec<i32>,
}

/// A batch of rows, one for each pair with a kept response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    /// Rows; fewer than pairs if some keep nothing, and possibly 0.
    pub n_rows: usize,
    /// Columns: the longest row.
    pub width: usize,
    /// Token ids, `[n_rows * width]`.
    pub ids: Vec<i32>,
    /// Positions, `[n_rows * width]`; those of the second response restart after the prompt.
    pub positions: Vec<i32>,
    /// [`Segment`]s, `[n_rows * width]`.
    pub segments: Vec<u8>,
    /// The kept responses, by pair, first before second.
    pub terms: Vec<PackedTerm>,
}

/// A packed batch on a device.
#[derive(Debug, Clone)]
pub struct PackedInputs<B: Backend> {
    /// Token ids, `[n_rows, width]`.
    pub ids: Tensor<B, 2, Int>,
    /// Positions, `[n_rows, width]`.
    pub positions: Tensor<B, 2, Int>,
    /// True where the query may not attend to the key, `[n_rows, width, width]`.
    pub mask: Tensor<B, 3, Bool>,
}

impl PackedBatch {
    /// Packs pairs, one row each: the prompt, then the kept responses. A pair that keeps nothing
    /// makes no row and no term. `pad_id` fills rows up; it is never attended to.
    ///
    /// # Errors
    /// A kept response without tokens, or after an empty prompt (nothing would predict its first
    /// token); `index` is the pair's.
    pub fn pack(pairs: &[PairSlices<'_>], pad_id: u32) -> Result<Self> {
        let row_len = |pair: &PairSlices<'_>| {
            let first = if pair.keep[0] { pair.first.len() } else { 0 };
            let second = if pair.keep[1] { pair.second.len() } else { 0 };
            pair.prompt.len() + first + second
        };
        let kept = pairs.iter().enumerate().filter(|(_, pair)| pair.keep.contains(&true));
        let kept: Vec<_> = kept.collect();
        let width = kept.iter().map(|(_, pair)| row_len(pair)).max().unwrap_or(0);
        let n_rows = kept.len();

        let mut batch = Self {
            n_rows,
            width,
            ids: Vec::with_capacity(n_rows * width),
            positions: Vec::with_capacity(n_rows * width),
            segments: Vec::with_capacity(n_rows * width),
            terms: Vec::with_capacity(2 * n_rows),
        };
        for (row, (index, pair)) in kept.into_iter().enumerate() {
            let n_prompt = pair.prompt.len();
            if n_prompt == 0 {
                return Err(Error::EmptyPrompt { index });
            }
            let start = row * width;
            batch.push(pair.prompt, 0, Segment::Prompt);
            for (side, response) in [pair.first, pair.second].into_iter().enumerate() {
                if !pair.keep[side] {
                    continue;
                }
                if response.is_empty() {
                    return Err(Error::EmptyResponse { index, side });
                }
                let at = batch.ids.len();
                let last_of_prompt = (start + n_prompt - 1) as i32;
                let inside = (at..at + response.len() - 1).map(|i| i as i32);
                batch.terms.push(PackedTerm {
                    pair: index,
                    side,
                    predictors: std::iter::once(last_of_prompt).chain(inside).collect(),
                    targets: response.iter().map(|id| *id as i32).collect(),
                });
                let segment = if side == 0 { Segment::First } else { Segment::Second };
                batch.push(response, n_prompt, segment);
            }
            batch.ids.resize(start + width, pad_id as i32);
            batch.positions.resize(start + width, 0);
            batch.segments.resize(start + width, Segment::Padding as u8);
        }
        Ok(batch)
    }

    fn push(&mut self, ids: &[u32], first_position: usize, segment: Segment) {
        self.ids.extend(ids.iter().map(|id| *id as i32));
        self.positions.extend((first_position..first_position + ids.len()).map(|p| p as i32));
        self.segments.resize(self.ids.len(), segment as u8);
    }

    /// Tokens that are not padding.
    pub fn n_tokens(&self) -> usize {
        self.segments.iter().filter(|s| **s != Segment::Padding as u8).count()
    }

    /// The attention mask, `[n_rows, width, width]`: true where the query (second axis) may not
    /// attend to the key. A position sees the prompt and its own segment, up to itself. So does padding,
    /// which nobody sees and nobody reads.
    pub fn mask<B: Backend>(&self, device: &B::Device) -> Tensor<B, 3, Bool> {
        let w = self.width;
        let mut mask = vec![true; self.n_rows * w * w];
        for (row, segments) in self.segments.chunks_exact(w.max(1)).enumerate() {
            for (query, segment) in segments.iter().enumerate() {
                let line = &mut mask[(row * w + query) * w..][..query + 1];
                for (masked, key) in line.iter_mut().zip(segments) {
                    *masked = key != segment && *key != Segment::Prompt as u8;
                }
            }
        }
        Tensor::from_data(TensorData::new(mask, [self.n_rows, w, w]), device)
    }

    /// Ids, positions and mask on a device. The batch must have a row.
    pub fn inputs<B: Backend>(&self, device: &B::Device) -> PackedInputs<B> {
        let shape = [self.n_rows, self.width];
        let table = |v: &Vec<i32>| Tensor::from_data(TensorData::new(v.clone(), shape), device);
        PackedInputs {
            ids: table(&self.ids),
            positions: table(&self.positions),
            mask: self.mask(device),
        }
    }

    /// The indices of the terms of one side, in order.
    pub fn terms_of_side(&self, side: usize) -> Vec<usize> {
        (0..self.terms.len()).filter(|i| self.terms[*i].side == side).collect()
    }
}

/// Log-probability of every response token of the chosen terms, one term after the other:
/// `[n_positions]`, in nats.
///
/// `hidden`: `[n_rows, width, hidden_size]` of `batch`; `head`: the output layer; `terms`: indices
/// into `batch.terms`, in any order, not empty.
pub fn token_log_probs<B: Backend>(
    hidden: Tensor<B, 3>,
    head: &Linear<B>,
    batch: &PackedBatch,
    terms: &[usize],
) -> Tensor<B, 1> {
    let [rows, width, d] = hidden.dims();
    assert_eq!([rows, width], [batch.n_rows, batch.width], "hidden states of another batch");
    assert!(!terms.is_empty(), "no terms: a batch without kept responses has no log-probabilities");
    let device = hidden.device();
    let join = |f: fn(&PackedTerm) -> &Vec<i32>| -> Vec<i32> {
        terms.iter().flat_map(|i| f(&batch.terms[*i]).iter().copied()).collect()
    };
    let (predictors, targets) = (join(|t| &t.predictors), join(|t| &t.targets));
    let n = targets.len();

    let flat = hidden.reshape([rows * width, d]);
    // The graph keeps all logits anyway; without one, only a chunk of them exists at a time.
    let chunk = if B::ad_enabled(&device) { n } else { CHUNK };
    let parts: Vec<Tensor<B, 1>> = predictors
        .chunks(chunk)
        .zip(targets.chunks(chunk))
        .map(|(predictors, targets)| {
            let n = targets.len();
            let at = Tensor::<B, 1, Int>::from_data(predictors, &device);
            let targets = Tensor::<B, 1, Int>::from_data(targets, &device).reshape([n, 1]);
            let logits = head.forward(flat.clone().select(0, at));
            activation::log_softmax(logits, 1).gather(1, targets).reshape([n])
        })
        .collect();
    if parts.len() == 1 { parts.into_iter().next().unwrap() } else { Tensor::cat(parts, 0) }
}

/// Log-probability of each chosen response given its prompt, summed over its tokens:
/// `[terms.len()]`, in nats. Arguments as of [`token_log_probs`].
pub fn sequence_log_probs<B: Backend>(
    hidden: Tensor<B, 3>,
    head: &Linear<B>,
    batch: &PackedBatch,
    terms: &[usize],
) -> Tensor<B, 1> {
    let device = hidden.device();
    let tokens = token_log_probs(hidden, head, batch, terms);
    let lens: Vec<usize> = terms.iter().map(|i| batch.terms[*i].targets.len()).collect();
    let longest = lens.iter().copied().max().unwrap_or(0);
    let shape = [terms.len(), longest];
    if lens.iter().all(|len| *len == longest) {
        return tokens.reshape(shape).sum_dim(1).reshape([terms.len()]);
    }
    // Laid out as a table and summed in f32: a product with a one-hot matrix would go through the
    // reduced precision of an accelerator's matrix units.
    let (mut at, mut real) = (vec![0i32; shape[0] * longest], vec![0f32; shape[0] * longest]);
    let mut start = 0;
    for (i, len) in lens.iter().enumerate() {
        for j in 0..*len {
            at[i * longest + j] = (start + j) as i32;
            real[i * longest + j] = 1.0;
        }
        start += len;
    }
    let at = Tensor::<B, 1, Int>::from_data(at.as_slice(), &device);
    let real = Tensor::<B, 2>::from_data(TensorData::new(real, shape), &device);
    (tokens.select(0, at).reshape(shape) * real).sum_dim(1).reshape([terms.len()])
}
