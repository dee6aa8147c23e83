//! A request's next token from its logits: penalties, then greedy, or temperature, top-k, top-p and min-p. On the host,
//! from the request's own random stream.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::mix::log_total;
use crate::GenerationConfig;

/// The sampler of one request.
#[derive(Debug)]
pub(super) struct RowSampler {
    config: GenerationConfig,
    /// Tokens of the prompt, for the repetition penalty.
    prompt: HashSet<u32>,
    /// How often each token was drawn, for the penalties.
    drawn: HashMap<u32, u32>,
    rng: ChaCha8Rng,
}

/// A token that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drawn {
    pub(super) token: u32,
    pub(super) log_probs: Option<TokenLogProbs>,
}

/// How probable a token was under the model: before penalties, temperature, and whatever limits the choice.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogProbs {
    /// The token's log-probability, in nats.
    pub log_prob: f32,
    /// The most probable tokens with theirs, in falling order; equal ones by their ids.
    pub top: Vec<(u32, f32)>,
}

impl RowSampler {
    pub(super) fn new(config: &GenerationConfig, row_id: u64, prompt: &[u32]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        rng.set_stream(row_id);
        let prompt = match config.repetition_penalty == 1.0 {
            true => HashSet::new(),
            false => prompt.iter().copied().collect(),
        };
        Self { config: config.clone(), prompt, drawn: HashMap::new(), rng }
    }

    /// The next token, and what was asked about it.
    pub(super) fn draw(&mut self, logits: &[f32]) -> Drawn {
        let token = self.sample(logits);
        let log_probs = self.config.log_probs.map(|n| {
            let log_total = log_total(logits);
            let of = |id: u32| (f64::from(logits[id as usize]) - log_total) as f32;
            let by_logit = |a: &u32, b: &u32| falling(logits, *a as usize, *b as usize);
            let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
            keep_first(&mut ids, n, by_logit);
            TokenLogProbs {
                log_prob: of(token),
                top: ids.into_iter().map(|id| (id, of(id))).collect(),
            }
        });
        Drawn { token, log_probs }
    }

    /// The next token. Ties go to the lowest id.
    fn sample(&mut self, logits: &[f32]) -> u32 {
        let token = match self.penalised(logits) {
            Some(logits) => self.choose(&logits),
            None => self.choose(logits),
        };
        *self.drawn.entry(token).or_default() += 1;
        token
    }

    /// The logits after the penalties, if there are any.
    fn penalised(&self, logits: &[f32]) -> Option<Vec<f32>> {
        let GenerationConfig { repetition_penalty, presence_penalty, frequency_penalty, .. } =
            self.config;
        if (repetition_penalty, presence_penalty, frequency_penalty) == (1.0, 0.0, 0.0) {
            return None;
        }
        let mut logits = logits.to_vec();
        if repetition_penalty != 1.0 {
            let seen = self.drawn.keys().filter(|id| !self.prompt.contains(id));
            for id in self.prompt.iter().chain(seen) {
                // Prompts may have tokens beyond those that may be chosen.
                if let Some(logit) = logits.get_mut(*id as usize) {
                    let x = f64::from(*logit);
                    let x = if x > 0.0 { x / repetition_penalty } else { x * repetition_penalty };
                    *logit = x as f32;
                }
            }
        }
        for (id, n) in &self.drawn {
            let logit = &mut logits[*id as usize];
            let penalty = presence_penalty + frequency_penalty * f64::from(*n);
            *logit = (f64::from(*logit) - penalty) as f32;
        }
        Some(logits)
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        let best = (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a });
        let best = best.expect("a vocabulary");
        let GenerationConfig { temperature, top_k, top_p, min_p, .. } = self.config;
        if temperature == 0.0 {
            return best as u32;
        }
        let max = f64::from(logits[best]);
        let weights: Vec<f64> =
            logits.iter().map(|l| ((f64::from(*l) - max) / temperature).exp()).collect();
        // One draw per token, whatever the settings.
        let draw: f64 = self.rng.random();
        let n = if top_k == 0 { weights.len() } else { top_k.min(weights.len()) };
        if top_p >= 1.0 && min_p <= 0.0 && n == weights.len() {
            let total: f64 = weights.iter().sum();
            return pick(0..n, &weights, draw * total);
        }
        // Top-p applies to the distribution that top-k leaves, min-p to what both leave. The most likely token has
        // weight 1.
        let total: f64 = match n == weights.len() {
            true => weights.iter().sum(),
            false => heaviest(&weights, n).iter().map(|token| weights[*token]).sum(),
        };
        let (mut kept, mut mass, mut first) = (0, 0.0, 64);
        let mut tokens = heaviest(&weights, first.min(n));
        while kept < n && (top_p >= 1.0 || mass < top_p * total) {
            if kept == tokens.len() {
                first *= 8;
                tokens = heaviest(&weights, first.min(n));
            }
            let weight = weights[tokens[kept]];
            if weight < min_p {
                break;
            }
            mass += weight;
            kept += 1;
        }
        pick(tokens[..kept].iter().copied(), &weights, draw * mass)
    }
}

/// By falling value, then by index.
fn falling<T: PartialOrd>(values: &[T], a: usize, b: usize) -> Ordering {
    let order = values[b].partial_cmp(&values[a]).unwrap_or(Ordering::Equal);
    order.then(a.cmp(&b))
}

/// Sorts the first `n` to the beginning, and drops the others.
fn keep_first<T>(items: &mut Vec<T>, n: usize, mut order: impl FnMut(&T, &T) -> Ordering) {
    if n < items.len() {
        if n > 0 {
            items.select_nth_unstable_by(n - 1, &mut order);
        }
        items.truncate(n);
    }
    items.sort_unstable_by(order);
}

/// The first `n` indices by falling weight.
fn heaviest(weights: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    keep_first(&mut order, n, |a, b| falling(weights, *a, *b));
    order
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
        let mut sampler = RowSampler::new(config, 3, &[]);
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
        assert_eq!(RowSampler::new(&greedy, 0, &[]).sample(&logits), 1);
    }

    #[test]
    fn rows_and_seeds_have_streams_of_their_own() {
        let draws = |seed, row| -> Vec<u32> {
            let config = GenerationConfig { seed, ..Default::default() };
            let mut sampler = RowSampler::new(&config, row, &[]);
            (0..20).map(|_| sampler.sample(&[0.0; 50])).collect()
        };
        assert_eq!(draws(1, 2), draws(1, 2));
        assert_ne!(draws(1, 2), draws(1, 3));
        assert_ne!(draws(1, 2), draws(2, 2));
    }

    #[test]
    fn min_p_is_relative_to_the_most_likely_token() {
        let p = [0.4f64, 0.1, 0.2, 0.3];
        let logits: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        let with = |min_p, top_k| {
            let config = GenerationConfig { min_p, top_k, seed: 5, ..Default::default() };
            frequencies(&config, &logits)
        };
        assert_frequencies(&with(0.3, 0), &[4.0 / 9.0, 0.0, 2.0 / 9.0, 3.0 / 9.0]);
        assert_frequencies(&with(0.6, 0), &[4.0 / 7.0, 0.0, 0.0, 3.0 / 7.0]);
        assert_frequencies(&with(0.3, 2), &[4.0 / 7.0, 0.0, 0.0, 3.0 / 7.0]);
        assert_frequencies(&with(1.0, 0), &[1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn limits_on_many_tokens_are_those_of_a_sorted_list() {
        // Weights with many ties, in no order.
        let logits: Vec<f32> = (0..3000).map(|i| ((i * 7919) % 500) as f32 * -0.01).collect();
        let mut sorted: Vec<usize> = (0..3000).collect();
        sorted.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let weights: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
        let total: f64 = weights.iter().sum();
        assert_eq!(heaviest(&weights, 700), sorted[..700]);
        let mut mass = 0.0;
        let n = sorted.iter().take_while(|i| {
            let before = mass;
            mass += weights[**i];
            before < 0.5 * total
        });
        let n = n.count();
        assert!(n > 64 && n < 2000);
        let config = GenerationConfig { top_p: 0.5, ..Default::default() };
        let mut sampler = RowSampler::new(&config, 0, &[]);
        let found: HashSet<usize> = (0..40_000).map(|_| sampler.sample(&logits) as usize).collect();
        assert_eq!(found, sorted[..n].iter().copied().collect());
    }

    #[test]
    fn penalties_follow_their_formulas() {
        let with = |change: fn(&mut GenerationConfig)| {
            let mut config = GenerationConfig { temperature: 0.0, ..Default::default() };
            change(&mut config);
            let mut sampler = RowSampler::new(&config, 0, &[1, 9]);
            let tokens: Vec<u32> = (0..3).map(|_| sampler.sample(&[2.0, 2.3, -0.5])).collect();
            (tokens, sampler.penalised(&[2.0, 2.3, -0.5]))
        };
        assert_eq!(with(|_| ()), (vec![1, 1, 1], None));
        // Tokens of the prompt count, and those beyond the vocabulary do no harm.
        let (tokens, logits) = with(|config| config.repetition_penalty = 2.0);
        assert_eq!((tokens, logits.unwrap()), (vec![0, 1, 1], vec![1.0, 1.15, -0.5]));
        let (_, logits) = with(|config| config.repetition_penalty = 0.1);
        assert_eq!(logits.unwrap(), [2.0, 23.0, -0.5]);
        let (tokens, logits) = with(|config| config.presence_penalty = 1.0);
        assert_eq!((tokens, logits.unwrap()), (vec![1, 0, 1], vec![1.0, 1.3, -0.5]));
        let (tokens, logits) = with(|config| config.frequency_penalty = 0.5);
        assert_eq!((tokens, logits.unwrap()), (vec![1, 0, 1], vec![1.5, 1.3, -0.5]));
    }

    #[test]
    fn log_probabilities_are_the_models_own() {
        let logits: Vec<f32> = [0.5f64, 0.2, 0.3].iter().map(|p| p.ln() as f32 + 1.0).collect();
        let config = GenerationConfig {
            temperature: 0.0,
            presence_penalty: 1.0,
            log_probs: Some(2),
            ..Default::default()
        };
        let mut sampler = RowSampler::new(&config, 0, &[]);
        for (token, p) in [(0, 0.5f32), (2, 0.3), (1, 0.2)] {
            let Drawn { token: found, log_probs } = sampler.draw(&logits);
            let log_probs = log_probs.unwrap();
            assert_eq!(found, token);
            assert!((log_probs.log_prob - p.ln()).abs() < 1e-6);
            assert_eq!(log_probs.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 2]);
            assert!((log_probs.top[1].1 - 0.3f32.ln()).abs() < 1e-6);
        }
        let config = GenerationConfig { log_probs: None, ..config };
        assert_eq!(RowSampler::new(&config, 0, &[]).draw(&logits).log_probs, None);
    }
}
