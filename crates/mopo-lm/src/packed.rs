//! Preference pairs as rows: the prompt once, then both responses, which do not see each other;
//! rows follow one another without padding. And log-probabilities of the responses, with the output
//! layer applied only where it is needed.
//!
//! Packing works on plain integers; nothing here knows about policies or losses.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::slice;
use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use mopo_ops::{FusedBackend, PackedRows, primitive, tensor};

use crate::layers::updated_layers;
use crate::{Error, OutputLayer, Result};

/// One response of the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedResponse {
    /// Index of the pair in the slice given to [`PackedBatch::pack`].
    pub pair: usize,
    /// 0 for the first response of the pair, 1 for the second.
    pub in_pair: usize,
    /// For each response token the index of the batch's token whose output predicts it; the prompt's
    /// last token for the first token of either response.
    pub predictors: Vec<i32>,
    /// The response tokens.
    pub targets: Vec<i32>,
}

/// A batch of rows, one for each pair with a kept response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    /// Which tokens belong to which row. Pairs that keep nothing have no row.
    pub rows: PackedRows,
    /// Token ids, `[n_tokens]`.
    pub ids: Vec<i32>,
    /// Positions, `[n_tokens]`; those of the second response restart after the prompt.
    pub positions: Vec<i32>,
    /// The kept responses, by pair, first before second.
    pub responses: Vec<PackedResponse>,
}

/// A packed batch on a device.
#[derive(Debug, Clone)]
pub struct PackedInputs<B: Backend> {
    /// Token ids, `[n_tokens]`.
    pub ids: Tensor<B, 1, Int>,
    /// Positions, `[n_tokens]`.
    pub positions: Tensor<B, 1, Int>,
    /// Which tokens see each other.
    pub rows: Arc<PackedRows>,
}

impl PackedBatch {
    /// Packs pairs, one row each: the prompt, then the kept responses. A pair is its prompt and both
    /// responses as token ids, end of text included, and which of the responses to keep; without any
    /// it has no row.
    ///
    /// # Errors
    /// A kept response has no tokens, or an empty prompt (nothing would predict its first token);
    /// `index` is the pair's.
    pub fn pack(pairs: &[([&[u32]; 3], [bool; 2])]) -> Result<Self> {
        let kept = pairs.iter().enumerate().filter(|(_, (_, keep))| keep.contains(&true));
        let mut lengths = vec![];
        let mut batch =
            Self { rows: PackedRows::default(), ids: vec![], positions: vec![], responses: vec![] };
        for (index, ([prompt, first, second], keep)) in kept {
            let n_prompt = prompt.len();
            if n_prompt == 0 {
                return Err(Error::EmptyPrompt { index });
            }
            let start = batch.ids.len();
            let mut row = [n_prompt, 0, 0];
            batch.push(prompt, 0);
            for (in_pair, response) in [first, second].into_iter().enumerate() {
                if !keep[in_pair] {
                    continue;
                }
                if response.is_empty() {
                    return Err(Error::EmptyResponse { index, in_pair });
                }
                let at = batch.ids.len();
                let last_of_prompt = (start + n_prompt - 1) as i32;
                let inside = (at..at + response.len() - 1).map(|i| i as i32);
                batch.responses.push(PackedResponse {
                    pair: index,
                    in_pair,
                    predictors: std::iter::once(last_of_prompt).chain(inside).collect(),
                    targets: response.iter().map(|id| *id as i32).collect(),
                });
                batch.push(response, n_prompt);
                row[in_pair + 1] = response.len();
            }
            lengths.push(row);
        }
        batch.rows = PackedRows::new(lengths);
        Ok(batch)
    }

    /// Rows of prompts without responses, for their hidden states.
    ///
    /// # Errors
    /// A prompt has no tokens; `index` is its position.
    pub fn prompts(prompts: &[Vec<u32>]) -> Result<Self> {
        if let Some(index) = prompts.iter().position(Vec::is_empty) {
            return Err(Error::EmptyPrompt { index });
        }
        let mut batch = Self::pack(&[])?;
        for prompt in prompts {
            batch.push(prompt, 0);
        }
        batch.rows = PackedRows::new(prompts.iter().map(|prompt| [prompt.len(), 0, 0]));
        Ok(batch)
    }

    /// Rows of texts, with the index of each text's last token. Where a text and the next begin with the same tokens,
    /// as the two of a pair do, these are there once.
    ///
    /// # Errors
    /// A text has no tokens; `index` is its position.
    pub(crate) fn texts(texts: &[&[u32]]) -> Result<(Self, Vec<i32>)> {
        if let Some(index) = texts.iter().position(|text| text.is_empty()) {
            return Err(Error::EmptyPrompt { index });
        }
        let mut batch = Self::pack(&[])?;
        let (mut lengths, mut ends) = (vec![], vec![]);
        let mut rest = texts;
        while let [text, others @ ..] = rest {
            let next = others.first().copied().unwrap_or_default();
            let same = text.iter().zip(next).take_while(|(a, b)| a == b).count();
            // Both end in tokens of their own.
            let shared = same.min(text.len() - 1).min(next.len().saturating_sub(1));
            if shared == 0 {
                batch.push(text, 0);
                lengths.push([text.len(), 0, 0]);
                ends.push(batch.ids.len() as i32 - 1);
                rest = others;
                continue;
            }
            batch.push(&text[..shared], 0);
            for text in [text, next] {
                batch.push(&text[shared..], shared);
                ends.push(batch.ids.len() as i32 - 1);
            }
            lengths.push([shared, text.len() - shared, next.len() - shared]);
            rest = &others[1..];
        }
        batch.rows = PackedRows::new(lengths);
        Ok((batch, ends))
    }

    fn push(&mut self, ids: &[u32], first_position: usize) {
        self.ids.extend(ids.iter().map(|id| *id as i32));
        self.positions.extend((first_position..first_position + ids.len()).map(|p| p as i32));
    }

    /// Number of tokens in all rows.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Ids, positions and rows on a device.
    pub fn inputs<B: Backend>(&self, device: &B::Device) -> PackedInputs<B> {
        PackedInputs {
            ids: Tensor::from_data(self.ids.as_slice(), device),
            positions: Tensor::from_data(self.positions.as_slice(), device),
            rows: Arc::new(self.rows.clone()),
        }
    }

    /// The indices of the first (0) or second (1) responses of the pairs, in order.
    pub fn responses_at(&self, in_pair: usize) -> Vec<usize> {
        (0..self.responses.len()).filter(|i| self.responses[*i].in_pair == in_pair).collect()
    }
}

/// Log-probability of every token of the chosen responses, one response after the other:
/// `[n_positions]`, in nats. Logits are computed for a few tokens at a time.
///
/// `hidden`: `[n_tokens, hidden_size]` of `batch`; `head`: the output layer, which gets gradients
/// if it is trainable; `responses`: indices into `batch.responses`, in any order, not empty.
pub fn token_log_probs<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    head: &OutputLayer<B>,
    batch: &PackedBatch,
    responses: &[usize],
) -> Tensor<B, 1> {
    token_log_probs_at(hidden, head, batch, responses, 1.0)
}

/// [`token_log_probs`] under the distribution that sampling at `temperature` > 0 draws from, the softmax of the
/// logits divided by it, over the whole vocabulary.
pub fn token_log_probs_at<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    head: &OutputLayer<B>,
    batch: &PackedBatch,
    responses: &[usize],
    temperature: f64,
) -> Tensor<B, 1> {
    let mut states = response_states(hidden, batch, responses);
    if temperature != 1.0 {
        states = states.div_scalar(temperature);
    }
    if head.update.is_some() {
        let heads = slice::from_ref(head);
        return updated_log_probs(states, heads, batch, responses, temperature).swap_remove(0);
    }
    let layer = if temperature == 1.0 { head.params() } else { head.params_at(temperature) };
    let targets = join::<B>(batch, responses, |response| &response.targets, &states.device());
    tensor(B::linear_log_prob(primitive(states), layer, targets.into_primitive()))
}

/// [`token_log_probs`] under each of several heads. Those that are low-rank updates of the base model's own output layer
/// share its product with the states.
pub fn token_log_probs_by_head<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    heads: &[OutputLayer<B>],
    batch: &PackedBatch,
    responses: &[usize],
) -> Vec<Tensor<B, 1>> {
    if OutputLayer::have_one_weight(heads) {
        let states = response_states(hidden, batch, responses);
        return updated_log_probs(states, heads, batch, responses, 1.0);
    }
    let of = |head| token_log_probs(hidden.clone(), head, batch, responses);
    heads.iter().map(of).collect()
}

/// Log-probabilities under heads with one weight, at a temperature that the states are divided by already.
fn updated_log_probs<B: FusedBackend>(
    states: Tensor<B, 2>,
    heads: &[OutputLayer<B>],
    batch: &PackedBatch,
    responses: &[usize],
    temperature: f64,
) -> Vec<Tensor<B, 1>> {
    let targets = join::<B>(batch, responses, |response| &response.targets, &states.device());
    let (inner, layers) = updated_layers(heads, &states, temperature);
    let all: Tensor<B, 2> = tensor(B::updated_log_prob(
        primitive(states),
        primitive(inner),
        layers,
        targets.into_primitive(),
    ));
    (0..heads.len()).map(|k| all.clone().narrow(0, k, 1).squeeze_dim(0)).collect()
}

/// The hidden states that predict the tokens of the chosen responses, one response after the other:
/// `[n_positions, hidden_size]`, differentiable. Arguments as for [`token_log_probs`].
pub fn response_states<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    batch: &PackedBatch,
    responses: &[usize],
) -> Tensor<B, 2> {
    assert_eq!(hidden.dims()[0], batch.n_tokens(), "hidden states of another batch");
    assert!(
        !responses.is_empty(),
        "no responses: a batch without kept responses has no log-probabilities"
    );
    let at = join::<B>(batch, responses, |response| &response.predictors, &hidden.device());
    tensor(B::select_rows_op(primitive(hidden), at.into_primitive()))
}

/// A list of each of the responses, one after the other.
fn join<B: Backend>(
    batch: &PackedBatch,
    responses: &[usize],
    of: fn(&PackedResponse) -> &Vec<i32>,
    device: &B::Device,
) -> Tensor<B, 1, Int> {
    let all: Vec<i32> =
        responses.iter().flat_map(|i| of(&batch.responses[*i]).iter().copied()).collect();
    Tensor::from_data(all.as_slice(), device)
}

/// Log-probability of each chosen response given its prompt, summed over its tokens:
/// `[responses.len()]`, in nats. Arguments as for [`token_log_probs`].
pub fn sequence_log_probs<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    head: &OutputLayer<B>,
    batch: &PackedBatch,
    responses: &[usize],
) -> Tensor<B, 1> {
    summed(token_log_probs(hidden, head, batch, responses), batch, responses)
}

/// [`sequence_log_probs`] under each of several heads, of responses of its own: none for a head without any. Heads that
/// are low-rank updates of the base model's own output layer share its product with the states.
pub fn sequence_log_probs_by_head<B: FusedBackend>(
    hidden: Tensor<B, 2>,
    heads: &[OutputLayer<B>],
    batch: &PackedBatch,
    responses: &[Vec<usize>],
) -> Vec<Option<Tensor<B, 1>>> {
    let one_by_one = |(head, responses): (&OutputLayer<B>, &Vec<usize>)| {
        let of = || sequence_log_probs(hidden.clone(), head, batch, responses);
        (!responses.is_empty()).then(of)
    };
    let wanted: BTreeSet<usize> = responses.iter().flatten().copied().collect();
    if wanted.is_empty() || !OutputLayer::have_one_weight(heads) {
        return heads.iter().zip(responses).map(one_by_one).collect();
    }
    // The same positions for all, of which each takes its own.
    let all: Vec<usize> = wanted.into_iter().collect();
    let by_head = token_log_probs_by_head(hidden.clone(), heads, batch, &all);
    let own = |(tokens, responses): (Tensor<B, 1>, &Vec<usize>)| {
        let place = |r: &usize| all.binary_search(r).expect("it is one of all") as i32;
        let at: Vec<i32> = responses.iter().map(place).collect();
        let at = Tensor::<B, 1, Int>::from_data(at.as_slice(), &hidden.device());
        (!responses.is_empty()).then(|| summed(tokens, batch, &all).select(0, at))
    };
    by_head.into_iter().zip(responses).map(own).collect()
}

/// Sums of the responses' tokens, `[responses.len()]`.
fn summed<B: Backend>(
    tokens: Tensor<B, 1>,
    batch: &PackedBatch,
    responses: &[usize],
) -> Tensor<B, 1> {
    let device = tokens.device();
    let lens: Vec<usize> = responses.iter().map(|i| batch.responses[*i].targets.len()).collect();
    let longest = lens.iter().copied().max().unwrap_or(0);
    let shape = [responses.len(), longest];
    if lens.iter().all(|len| *len == longest) {
        return tokens.reshape(shape).sum_dim(1).reshape([responses.len()]);
    }
    // Gathered into a table and summed in f32: a product with a one-hot matrix would go through the
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
    (tokens.select(0, at).reshape(shape) * real).sum_dim(1).reshape([responses.len()])
}
