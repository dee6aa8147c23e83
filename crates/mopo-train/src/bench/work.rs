//! The floating-point operations that a training step needs, counted from shapes, independent of
//! the implementation.
//!
//! Counted, with 2 operations per multiply-add:
//!
//! - every linear layer at every token of the batch, a shared prompt once: 2 · inputs ·
//!   outputs; its low-rank update 2 · rank · (inputs + outputs);
//! - attention, for every (query, key) inside the mask: 2 · hidden_size for the scores
//!   and as much for the values, in each block;
//! - the output layer at the positions that predict a response token, once for each policy that
//!   needs the response: 2 · hidden_size · vocab_size; with heads of low rank once for all of them, and an update for
//!   each: 2 · rank · (hidden_size + vocab_size);
//! - backward: the same again for gradients of inputs, except where nothing before them is trained
//!   (the linear layers of the first block that read the embedding); twice the forward count for
//!   attention; for
//!   a low-rank update the gradients of A and B and of its input; for a trained output layer the
//!   gradient of its weight.
//!
//! Not counted: gradients of frozen weights, anything that is recomputed in the backward pass
//! (logits,
//! scores, checkpointed blocks), and operations other than matrix products (norms, GELU, softmax,
//! rotary
//! embedding, optimiser).

use mopo_lm::{DecoderShape, LinearShape, LoraConfig, PackedBatch};

use super::n_outputs;

/// The size of one pass over a packed batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PassWork {
    /// Number of tokens.
    pub(crate) tokens: usize,
    /// Number of (query, key) pairs inside the mask.
    visible: usize,
    /// Rows of the output layer.
    positions: usize,
    /// Rows of the output layer, summed over policies.
    pub(crate) outputs: usize,
}

impl PassWork {
    /// `outputs`: rows of the output layer, summed over policies.
    pub(crate) fn new(batch: &PackedBatch, outputs: usize) -> Self {
        let visible = batch.rows.n_scores();
        Self { tokens: batch.n_tokens(), visible, positions: n_outputs(batch), outputs }
    }
}

/// The sizes needed for counting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes<'a> {
    pub(crate) model: &'a DecoderShape,
    pub(crate) lora: &'a LoraConfig,
    /// Rank of the updates that heads are, if they are no whole weights.
    pub(crate) head_rank: Option<usize>,
}

impl Sizes<'_> {
    /// Operations of a pass without gradient, with the adapter or without it.
    pub(crate) fn forward(&self, work: PassWork, adapter: bool) -> f64 {
        let layers = self.model.num_hidden_layers as f64;
        let updates = if adapter { self.updates(|_| true) } else { 0.0 };
        layers * (work.tokens as f64 * (self.linears(|_| true) + updates) + self.attention(work))
            + self.output(work)
            + self.head_updates(work)
    }

    /// Operations of the backward pass to the adapter's parameters, and to the output layers if
    /// they are `trained`. Otherwise the output layer is frozen.
    pub(crate) fn backward(&self, work: PassWork, trained: bool) -> f64 {
        let layers = self.model.num_hidden_layers as f64;
        let tokens = work.tokens as f64;
        // Some linear layers of the first block read the embedding, which is frozen.
        let reads_embedding = |linear: &LinearShape| linear.reads_input;
        let unneeded =
            self.linears(reads_embedding) + self.rank_side(reads_embedding, |[d_in, _]| d_in);
        let block = tokens * (self.linears(|_| true) + 2.0 * self.updates(|_| true))
            + 2.0 * self.attention(work);
        let weights = if trained && self.head_rank.is_none() { 2.0 } else { 1.0 };
        layers * block - tokens * unneeded
            + weights * self.output(work)
            + 2.0 * self.head_updates(work)
    }

    /// The linear layers of a block, for one token.
    fn linears(&self, of: impl Fn(&LinearShape) -> bool) -> f64 {
        let linears = self.model.linears.iter().filter(|linear| of(linear));
        linears.map(|linear| 2.0 * linear.shape.iter().product::<usize>() as f64).sum()
    }

    /// The low-rank updates of a block, for one token.
    fn updates(&self, of: impl Fn(&LinearShape) -> bool) -> f64 {
        self.rank_side(of, |[d_in, d_out]| d_in + d_out)
    }

    /// Of the layers that are targets in the first block.
    fn rank_side(
        &self,
        of: impl Fn(&LinearShape) -> bool,
        side: impl Fn([usize; 2]) -> usize,
    ) -> f64 {
        let ranks = self.lora.ranks(self.model).into_iter().zip(&self.model.linears);
        let used = ranks.filter(|(_, linear)| of(linear));
        used.map(|(rank, linear)| 2.0 * (rank * side(linear.shape)) as f64).sum()
    }

    /// The attention of a block: scores, and values.
    fn attention(&self, work: PassWork) -> f64 {
        4.0 * (work.visible * self.model.attention_width) as f64
    }

    fn output(&self, work: PassWork) -> f64 {
        let rows = if self.head_rank.is_some() { work.positions } else { work.outputs };
        2.0 * (rows * self.model.hidden_size * self.model.vocab_size) as f64
    }

    /// The low-rank updates of heads.
    fn head_updates(&self, work: PassWork) -> f64 {
        let rank = self.head_rank.unwrap_or(0);
        2.0 * (work.outputs * rank * (self.model.hidden_size + self.model.vocab_size)) as f64
    }
}

#[cfg(test)]
mod tests {
    use mopo_lm::PhiConfig;

    use super::*;

    fn batch() -> PackedBatch {
        let pair = [&[1, 2, 3][..], &[4, 5], &[6]];
        PackedBatch::pack(&[(pair, [true, true]), (pair, [false, true])]).unwrap()
    }

    fn shape() -> DecoderShape {
        let config = PhiConfig {
            vocab_size: 7,
            hidden_size: 4,
            intermediate_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            ..PhiConfig::phi_1_5()
        };
        config.shape()
    }

    #[test]
    fn what_may_see_each_other_is_what_the_mask_lets_through() {
        let batch = batch();
        let visible = batch.rows.rows().iter().map(|row| {
            let pairs =
                (0..row.len()).flat_map(|query| (0..row.len()).map(move |key| (query, key)));
            pairs.filter(|(query, key)| row.sees(*query, *key)).count()
        });
        let visible = visible.sum();
        let work = PassWork::new(&batch, 3);
        assert_eq!(work, PassWork { tokens: 10, visible, positions: 4, outputs: 3 });
    }

    #[test]
    fn operations_counted_by_hand() {
        let (model, lora) = (shape(), LoraConfig { rank: 1, ..LoraConfig::default() });
        let sizes = Sizes { model: &model, lora: &lora, head_rank: None };
        let work = PassWork { tokens: 1, visible: 1, positions: 1, outputs: 1 };
        // A block has 4 layers of 4 × 4, and two of 4 × 8: 128 weights; a score and a value: 16.
        // The output layer has 28 weights.
        let base = 2.0 * (2.0 * 128.0 + 16.0) + 2.0 * 28.0;
        assert_eq!(sizes.forward(work, false), base);
        // Updates of rank 1: 4 of 8 numbers, 2 of 12.
        let updates = 2.0 * 56.0;
        assert_eq!(sizes.forward(work, true), base + 2.0 * updates);
        // In the first block 3 layers of 4 × 4 and one of 4 × 8 need no gradient of their input, nor
        // have the A of their updates, of 4 numbers each.
        let unneeded = 2.0 * (3.0 * 16.0 + 32.0) + 2.0 * 16.0;
        let back = 2.0 * (256.0 + 2.0 * updates + 32.0) - unneeded;
        assert_eq!(sizes.backward(work, false), back + 56.0);
        assert_eq!(sizes.backward(work, true), back + 112.0);
        // Two policies with updates of rank 1, of 11 numbers each, share the output layer.
        let sizes = Sizes { head_rank: Some(1), ..sizes };
        let work = PassWork { outputs: 2, ..work };
        assert_eq!(sizes.forward(work, false), base + 2.0 * 22.0);
        assert_eq!(sizes.backward(work, true), back + 56.0 + 2.0 * 2.0 * 22.0);
    }
}
