//! One row's next token from its logits: greedy, temperature, top-p. On the host, from a random
//! stream of the row's own.

use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::GenerationConfig;

/// The sampler of one row.
pub(super) struct RowSampler {
    temperature: f64,
    top_p: f64,
    rng: ChaCha8Rng,
}

impl RowSampler {
    pub(super) fn new(config: &GenerationConfig, row_id: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        rng.set_stream(row_id);
        Self { temperature: config.temperature, top_p: config.top_p, rng }
    }

    /// The next token. Ties go to the lowest id.
    pub(super) fn sample(&mut self, logits: &[f32]) -> u32 {
        let best = (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a });
        let best = best.expect("a vocabulary");
        if self.temperature == 0.0 {
            return best as u32;
        }
        let max = f64::from(logits[best]);
        let weights: Vec<f64> =
            logits.iter().map(|l| ((f64::from(*l) - max) / self.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        // One draw for each token, whatever the settings.
        let draw: f64 = self.rng.random();
        if self.top_p >= 1.0 {
            return pick(0..weights.len(), &weights, draw * total);
        }
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
        let (mut kept, mut mass) = (0, 0.0);
        while kept < order.len() && mass < self.top_p * total {
            mass += weights[order[kept]];
            kept += 1;
        }
        pick(order[..kept].iter().copied(), &weights, draw * mass)
    }
}

/// The first token at which the running sum exceeds `threshold`.
fn pick(tokens: impl Iterator<Item = usize>, weights: &[f64], threshold: f64) -> u32 {
    let (mut sum, mut last) = (0.0, 0);
    for token in tokens {
        // Rounding may leave the threshold at the very end of the sum: never a token of weight 0.
        if weights[token] > 0.0 {
            sum += weights[token];
            last = token;
            if sum > threshold {
                break;
            }
        }
    }
    last as u32
}
