//! Log-probs under a lagged reference, and its ratios to the initial policy clipped token by token.

use burn::tensor::Tensor;
use mopo_lm::{CausalLm, Decoder, PolicyParams, token_log_probs_by_head};
use mopo_ops::FusedBackend;

use super::{LogProbs, batch_log_probs, passes};
use crate::{Pairs, Result};

/// [`batch_log_probs`] under `reference`. With a `token_clip` as many lists follow, in the same order:
///
///   Σ_t clip(log π_ref(y_t) − log π_0(y_t), ±token_clip)
///
/// where π_0 is the base model with its own output layer.
pub(crate) fn reference_log_probs<B: FusedBackend>(
    base: &CausalLm<B>,
    reference: &PolicyParams<B>,
    pairs: &Pairs,
    indices: &[usize],
    token_clip: Option<f64>,
    device: &B::Device,
) -> Result<Vec<LogProbs>> {
    let Some(clip) = token_clip else {
        return batch_log_probs(base, Some(reference), pairs, indices, device);
    };
    let batch = pairs.pack(indices, &vec![[true, true]; indices.len()])?;
    let inputs = batch.inputs::<B>(device);
    let responses: Vec<usize> = (0..batch.responses.len()).collect();
    // Of all tokens of all responses, for each head.
    let by_token = |params: Option<&PolicyParams<B>>| {
        let mut of_heads: Vec<Vec<f64>> = Vec::new();
        for (adapter, heads) in passes(base, params) {
            let hidden: Tensor<B, 2> = base.hidden_states_packed(&inputs, adapter);
            let by_head = token_log_probs_by_head(hidden, &heads, &batch, &responses);
            of_heads.extend(by_head.into_iter().map(|tokens| tokens.into_data().iter().collect()));
        }
        of_heads
    };
    let summed = |tokens: &[f64]| {
        let mut rows = vec![[0.0; 2]; indices.len()];
        let mut rest = tokens;
        for response in &batch.responses {
            let (own, others) = rest.split_at(response.targets.len());
            rest = others;
            rows[response.pair][response.in_pair] = own.iter().sum::<f64>() as f32;
        }
        rows
    };
    let initial = by_token(None).swap_remove(0);
    let by_head = by_token(Some(reference));
    let clipped = by_head.iter().map(|of| {
        let both = of.iter().zip(&initial);
        summed(&both.map(|(of, initial)| (of - initial).clamp(-clip, clip)).collect::<Vec<_>>())
    });
    Ok(by_head.iter().map(|of| summed(of)).chain(clipped).collect())
}

#[cfg(test)]
mod tests {
    use mopo_data::PairTokens;
    use mopo_lm::{AdapterSharing, LoraConfig, PhiConfig};
    use mopo_testkit::TestBackend as B;

    use super::*;

    /// A base, a reference with two heads whose adapter does something, and pairs.
    fn setup() -> (CausalLm<B>, PolicyParams<B>, Pairs) {
        let config = PhiConfig {
            vocab_size: 20,
            hidden_size: 16,
            intermediate_size: 32,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            max_position_embeddings: 32,
            ..PhiConfig::phi_1_5()
        };
        let device = Default::default();
        let base: CausalLm<B> = config.init(&device).into();
        // A head that another model has: its log-probs differ from the base's own.
        let other: CausalLm<B> = config.init(&device).into();
        let lora = LoraConfig::default();
        let mut reference = PolicyParams::init(&base, &lora, 2, AdapterSharing::Shared, &device);
        reference.heads.heads[1] = other.lm_head();
        let ids = |n: u32, of: u32| (0..n).map(|i| (i * 7 + of) % 20).collect::<Vec<u32>>();
        let tokens = (0..4)
            .map(|i| PairTokens { prompt: ids(3 + i, i), first: ids(2 + i, 5), second: ids(7, i) })
            .collect();
        (base, reference, Pairs::without_scores(tokens, vec![[vec![], vec![]]; 4]))
    }

    #[test]
    fn a_wide_clip_changes_nothing_and_a_narrow_one_bounds_each_token() {
        let (base, reference, pairs) = setup();
        let (device, all) = (Default::default(), [2, 0, 3, 1]);
        let with =
            |clip| reference_log_probs(&base, &reference, &pairs, &all, clip, &device).unwrap();
        let exact = with(None);
        let initial = batch_log_probs(&base, None, &pairs, &all, &device).unwrap().swap_remove(0);
        let (wide, narrow) = (with(Some(1e6)), with(Some(0.01)));
        assert_eq!((exact.len(), wide.len(), narrow.len()), (2, 4, 4));
        for h in 0..2 {
            for (row, &i) in all.iter().enumerate() {
                let [_, first, second] = pairs.tokens.lengths(i);
                for (r, n_tokens) in [first, second].into_iter().enumerate() {
                    let ratio = exact[h][row][r] - initial[row][r];
                    assert!((wide[h][row][r] - exact[h][row][r]).abs() < 1e-4);
                    assert!((wide[2 + h][row][r] - ratio).abs() < 1e-4);
                    assert!(narrow[2 + h][row][r].abs() <= 0.01 * n_tokens as f32 + 1e-6);
                }
            }
        }
        // The first head is the base's own, the second one is not.
        assert!(wide[2].iter().flatten().all(|ratio| ratio.abs() < 1e-4));
        assert!(wide[3].iter().flatten().any(|ratio| ratio.abs() > 0.1));
        assert_ne!(wide[3], narrow[3]);
    }
}
