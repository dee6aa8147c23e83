//! A row's next token from its logits: greedy, temperature, top-k, top-p. On the host, from the
//! row's own random stream.

use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::GenerationConfig;

/// The sampler of one row.
pub(super) struct RowSampler {
    temperature: f64,
    top_k: usize,
    top_p: f64,
    rng: ChaCha8Rng,
}

impl RowSampler {
    pub(super) fn new(config: &GenerationConfig, row_id: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        rng.set_stream(row_id);
        Self { temperature: config.temperature, top_k: config.top_k, top_p: config.top_p, rng }
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
        // One draw per token, whatever the settings.
        let draw: f64 = self.rng.random();
        let n = if self.top_k == 0 { weights.len() } else { self.top_k.min(weights.len()) };
        if self.top_p >= 1.0 && n == weights.len() {
            return pick(0..n, &weights, draw * total);
        }
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
        order.truncate(n);
        // Top-p applies to the distribution that top-k leaves.
        let total: f64 = order.iter().map(|token| weights[*token]).sum();
        let (mut kept, mut mass) = (0, 0.0);
        while kept < n && (self.top_p >= 1.0 || mass < self.top_p * total) {
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
        // Rounding may put the threshold at the very end of the sum: never choose a token of weight
        // 0.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(config: &GenerationConfig, logits: &[f32]) -> Vec<f64> {
        const DRAWS: usize = 20_000;
        let mut sampler = RowSampler::new(config, 3);
        let mut counts = vec![0.0; logits.len()];
        (0..DRAWS).for_each(|_| counts[sampler.sample(logits) as usize] += 1.0);
        counts.iter().map(|c| c / DRAWS as f64).collect()
    }

    fn assert_frequencies(found: &[f64], expected: &[f64]) {
        for (found, expected) in found.iter().zip(expected) {
            // Four standard deviations of 20 000 draws.
            assert!((found - expected).abs() < 0.0142, "{found} for {expected}");
            assert!(*expected > 0.0 || *found == 0.0, "a token that must not occur");
        }
    }

    #[test]
    fn draws_follow_temperature_and_top_p() {
        let p = [0.5f64, 0.1, 0.3, 0.1];
        let logits: Vec<f32> = p.iter().map(|p| p.ln() as f32 + 2.0).collect();
        let with = |temperature, top_p| {
            let config = GenerationConfig { temperature, top_p, seed: 5, ..Default::default() };
            frequencies(&config, &logits)
        };
        assert_frequencies(&with(1.0, 1.0), &p);
        // The square of each, normalised: 0.25 + 0.01 + 0.09 + 0.01.
        assert_frequencies(&with(0.5, 1.0), &[0.25 / 0.36, 0.01 / 0.36, 0.25, 0.01 / 0.36]);
        assert_frequencies(&with(1.0, 0.6), &[0.625, 0.0, 0.375, 0.0]);
        assert_frequencies(&with(1.0, 0.45), &[1.0, 0.0, 0.0, 0.0]);
        // The first of two equal tokens is kept.
        assert_frequencies(&with(1.0, 0.85), &[0.5 / 0.9, 0.1 / 0.9, 0.3 / 0.9, 0.0]);
        assert_eq!(with(0.0, 1.0), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn top_k_keeps_the_most_likely_and_top_p_its_share_of_them() {
        let p = [0.4f64, 0.1, 0.2, 0.3];
        let logits: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        let with = |top_k, top_p| {
            let config = GenerationConfig { top_k, top_p, seed: 5, ..Default::default() };
            frequencies(&config, &logits)
        };
        assert_frequencies(&with(0, 1.0), &p);
        assert_frequencies(&with(9, 1.0), &p);
        assert_frequencies(&with(2, 1.0), &[4.0 / 7.0, 0.0, 0.0, 3.0 / 7.0]);
        assert_frequencies(&with(1, 1.0), &[1.0, 0.0, 0.0, 0.0]);
        // 4/7 of the rest exceeds one half; 4/7 of the whole would not.
        assert_frequencies(&with(2, 0.5), &[1.0, 0.0, 0.0, 0.0]);
        assert_frequencies(&with(0, 0.5), &[4.0 / 7.0, 0.0, 0.0, 3.0 / 7.0]);
    }

    #[test]
    fn impossible_tokens_never_occur_and_ties_go_to_the_lowest_id() {
        let logits = [f32::NEG_INFINITY, 0.0, 0.0, f32::NEG_INFINITY];
        for top_p in [1.0, 0.999] {
            let config = GenerationConfig { top_p, ..Default::default() };
            assert_frequencies(&frequencies(&config, &logits), &[0.0, 0.5, 0.5, 0.0]);
        }
        let greedy = GenerationConfig { temperature: 0.0, ..Default::default() };
        assert_eq!(RowSampler::new(&greedy, 0).sample(&logits), 1);
    }

    #[test]
    fn rows_and_seeds_have_streams_of_their_own() {
        let draws = |seed, row| -> Vec<u32> {
            let config = GenerationConfig { seed, ..Default::default() };
            let mut sampler = RowSampler::new(&config, row);
            (0..20).map(|_| sampler.sample(&[0.0; 50])).collect()
        };
        assert_eq!(draws(1, 2), draws(1, 2));
        assert_ne!(draws(1, 2), draws(1, 3));
        assert_ne!(draws(1, 2), draws(2, 2));
    }
}
