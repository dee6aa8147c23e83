//! Mixtures under each divergence against `mopo_core::divergence::mix` on the model without a cache.

use burn::tensor::Tensor;
use mopo_core::divergence::{Divergence, mix, worst_case};
use mopo_testkit::TestBackend;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::fixtures::{self, END, assert_close, tokens, values};
use crate::{LoraAdapter, PackedBatch, Phi};

type B = TestBackend;

const WEIGHTS: [f32; 3] = [0.2, 0.5, 0.3];

/// Divergences that need the reference, and reverse KL, which does not.
fn divergences() -> impl Iterator<Item = Divergence> {
    Divergence::ALL.into_iter().filter(Divergence::has_barrier)
}

fn decoding(divergence: Divergence, weights: &[f32]) -> Decoding {
    Decoding { head: HeadChoice::Mixture(weights.to_vec()), divergence }
}

fn prompts() -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    [4, 1, 7].into_iter().map(|n| tokens(n, &mut rng)).collect()
}

fn config(temperature: f64, max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig { max_new_tokens, temperature, seed: 2, ..Default::default() }
}

fn run(
    base: &Phi<B>,
    params: &PolicyParams<B>,
    decoding: impl Into<Decoding>,
    config: &GenerationConfig,
) -> Vec<Vec<u32>> {
    let device = Default::default();
    generate(base, Some(params), decoding, &prompts(), END, config, &device).unwrap()
}

/// The hidden states after `ids`: no cache, no other rows.
fn last_hidden(base: &Phi<B>, adapter: Option<&LoraAdapter<B>>, ids: &[u32]) -> Tensor<B, 2> {
    // A dummy response token turns the last of `ids` into a predictor.
    let pair = ([ids, &[0], &[]], [true, false]);
    let inputs = PackedBatch::pack(&[pair]).unwrap().inputs::<B>(&Default::default());
    base.hidden_states_packed(&inputs, adapter).narrow(0, ids.len() - 1, 1)
}

/// The policies' log-probabilities of the token after `ids`.
fn log_policies(base: &Phi<B>, params: &PolicyParams<B>, ids: &[u32]) -> Vec<Vec<f64>> {
    let of = |(k, head): (usize, &crate::OutputLayer<B>)| {
        log_softmax(&values(head.logits(last_hidden(base, Some(params.adapter(k)), ids))))
    };
    params.heads.heads.iter().enumerate().map(of).collect()
}

/// The mixture's log-probabilities by its definition.
fn defined(
    base: &Phi<B>,
    params: &PolicyParams<B>,
    divergence: Divergence,
    weights: &[f32],
    ids: &[u32],
) -> Vec<f64> {
    let policies = log_policies(base, params, ids);
    let policies: Vec<&[f64]> = policies.iter().map(Vec::as_slice).collect();
    let reference = log_softmax(&values(base.lm_head.logits(last_hidden(base, None, ids))));
    let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let weights: Vec<f64> = weights.iter().map(|weight| f64::from(*weight) / sum).collect();
    mix(divergence, &policies, &reference, &weights).unwrap()
}

/// Log-probabilities of the first token after each prompt, as generation has them.
fn first_step(base: &Phi<B>, params: &PolicyParams<B>, decoding: &Decoding) -> Vec<Vec<f32>> {
    let device = Default::default();
    let mut engine = Engine::new(base, Some(params), EngineConfig::default(), &device).unwrap();
    let mut all = HashMap::new();
    for (i, prompt) in prompts().into_iter().enumerate() {
        let request = Request {
            prompt,
            decoding: decoding.clone(),
            policies: None,
            generation: GenerationConfig { log_probs: Some(40), ..config(1.0, 1) },
            end_of_text: 4000,
            row_id: 0,
        };
        all.insert(engine.submit(request).unwrap(), i);
    }
    let mut found = vec![vec![]; all.len()];
    while !engine.is_idle() {
        for event in engine.step() {
            if let Event::Token { id, log_probs, .. } = event {
                let mut of = log_probs.unwrap().top;
                of.sort_by_key(|(token, _)| *token);
                found[all[&id]] = of.into_iter().map(|(_, log_prob)| log_prob).collect();
            }
        }
    }
    found
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = logits.iter().map(|logit| (f64::from(*logit) - max).exp()).sum();
    logits.iter().map(|logit| f64::from(*logit) - max - total.ln()).collect()
}

#[test]
fn a_step_is_the_exact_mixture_with_the_base_without_adapter_as_reference() {
    let base = fixtures::base::<B>(1);
    let params = fixtures::policies(&base, 3, 2);
    for divergence in divergences() {
        let found = first_step(&base, &params, &decoding(divergence, &WEIGHTS));
        for (prompt, found) in prompts().iter().zip(found) {
            let expected = defined(&base, &params, divergence, &WEIGHTS, prompt);
            let expected: Vec<f32> = expected.iter().map(|log| *log as f32).collect();
            assert_close(&found, &expected, 2e-5);
        }
    }
    // The mixture changes if the reference has the adapter, so the test would notice.
    let ids = &prompts()[0];
    let with =
        log_softmax(&values(base.lm_head.logits(last_hidden(&base, Some(params.adapter(0)), ids))));
    let without = log_softmax(&values(base.lm_head.logits(last_hidden(&base, None, ids))));
    assert!(with.iter().zip(&without).any(|(a, b)| (a - b).abs() > 1e-2));
}

#[test]
fn greedy_with_both_caches_equals_greedy_without() {
    let base = fixtures::base::<B>(1);
    for params in [fixtures::policies(&base, 3, 2), fixtures::policies_apart(&base, 3, 2)] {
        for divergence in divergences() {
            let found = run(&base, &params, decoding(divergence, &WEIGHTS), &config(0.0, 10));
            for (prompt, found) in prompts().iter().zip(found) {
                let expected =
                    greedy(prompt, |ids| defined(&base, &params, divergence, &WEIGHTS, ids));
                assert_eq!(found, expected, "{divergence}");
            }
        }
    }
}

/// The most likely tokens after a prompt, without a cache.
fn greedy(prompt: &[u32], logs: impl Fn(&[u32]) -> Vec<f64>) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..10 {
        let logs = logs(&ids);
        let best = (0..logs.len()).max_by(|a, b| logs[*a].total_cmp(&logs[*b])).unwrap();
        if best as u32 == END {
            break;
        }
        ids.push(best as u32);
    }
    ids.split_off(prompt.len())
}

#[test]
fn the_worst_case_is_the_mixture_with_the_worst_weights_of_each_token() {
    let base = fixtures::base::<B>(1);
    for params in [fixtures::policies(&base, 3, 2), fixtures::policies_apart(&base, 3, 2)] {
        let found = run(&base, &params, HeadChoice::WorstCase, &config(0.0, 10));
        for (prompt, found) in prompts().iter().zip(found) {
            let expected = greedy(prompt, |ids| {
                let policies = log_policies(&base, &params, ids);
                let of: Vec<&[f64]> = policies.iter().map(Vec::as_slice).collect();
                let weights = worst_case(&of);
                let mean = |y: usize| of.iter().zip(&weights).map(|(log, w)| w * log[y]).sum();
                (0..of[0].len()).map(mean).collect()
            });
            assert_eq!(found, expected);
        }
    }
    let policies = fixtures::policies_apart(&base, 3, 2);
    let worst = Decoding { head: HeadChoice::WorstCase, divergence: Divergence::ForwardKl };
    let device = Default::default();
    let wrong = generate(&base, Some(&policies), worst, &[vec![1]], END, &config(0.0, 2), &device);
    assert!(wrong.unwrap_err().to_string().contains("reverse_kl only"));
    let plain =
        generate(&base, None, HeadChoice::WorstCase, &[vec![1]], END, &config(0.0, 2), &device);
    assert!(plain.is_err());
}

#[test]
fn equal_heads_mix_to_themselves_and_a_vertex_is_its_policy() {
    let base = fixtures::base::<B>(1);
    let params = fixtures::policies(&base, 3, 2);
    let mut equal = params.clone();
    equal.heads.heads = vec![params.heads.heads[2].clone(); 3];
    let policy = |index| run(&base, &params, HeadChoice::Policy(index), &config(1.0, 10));
    for divergence in divergences() {
        let of = |params, weights: &[f32]| {
            run(&base, params, decoding(divergence, weights), &config(1.0, 10))
        };
        assert_eq!(of(&equal, &WEIGHTS), policy(2), "{divergence}");
        assert_eq!(of(&params, &[0.0, 1.0, 0.0]), policy(1), "{divergence}");
        // The same heads, with one weight split in two.
        assert_eq!(of(&equal, &[0.0, 0.4, 0.6]), policy(2), "{divergence}");
    }
    // Logits, not only samples.
    let forward = decoding(Divergence::ForwardKl, &WEIGHTS);
    for (prompt, found) in prompts().iter().zip(first_step(&base, &equal, &forward)) {
        let hidden = last_hidden(&base, Some(params.adapter(0)), prompt);
        let head = log_softmax(&values(params.heads.heads[2].logits(hidden)));
        let head: Vec<f32> = head.iter().map(|log| *log as f32).collect();
        assert_close(&found, &head, 2e-5);
    }
}

#[test]
fn only_another_divergence_runs_the_base_beside_the_policies() {
    let base = fixtures::base::<B>(1);
    let params = fixtures::policies(&base, 3, 2);
    // One block of the cache for each pass over the model.
    let needed = |decoding: Decoding| {
        let device = Default::default();
        let mut engine =
            Engine::new(&base, Some(&params), EngineConfig::default(), &device).unwrap();
        let request = Request {
            prompt: vec![1, 2],
            decoding,
            policies: None,
            generation: config(0.0, 5),
            end_of_text: END,
            row_id: 0,
        };
        engine.submit(request).unwrap();
        engine.step();
        engine.stats().blocks_in_use
    };
    assert_eq!(needed(decoding(Divergence::Jeffreys, &WEIGHTS)), 2);
    assert_eq!(needed(decoding(Divergence::ReverseKl, &WEIGHTS)), 1);
    assert_eq!(needed(decoding(Divergence::Jeffreys, &[0.0, 0.0, 1.0])), 1);
    let head = HeadChoice::Policy(1);
    assert_eq!(needed(Decoding { head: head.clone(), divergence: Divergence::Jeffreys }), 1);
    // A single head is reverse KL, as before.
    let mixture = HeadChoice::Mixture(WEIGHTS.to_vec());
    assert_eq!(Decoding::from(&mixture), decoding(Divergence::ReverseKl, &WEIGHTS));
    assert_eq!(Decoding::from(head.clone()).head, head);
}

#[test]
fn rows_under_another_divergence_do_not_depend_on_the_batch() {
    let base = fixtures::base::<B>(1);
    let params = fixtures::policies(&base, 3, 2);
    let decoding = decoding(Divergence::JensenShannon, &WEIGHTS);
    let together = run(&base, &params, &decoding, &config(1.0, 10));
    for (prompt, together) in prompts().into_iter().zip(together) {
        let device = Default::default();
        let alone =
            generate(&base, Some(&params), &decoding, &[prompt], END, &config(1.0, 10), &device);
        assert_eq!(alone.unwrap(), [together]);
    }
}

#[test]
fn divergences_that_cannot_mix_are_errors_for_mixtures_only() {
    let base = fixtures::base::<B>(1);
    let params = fixtures::policies(&base, 3, 2);
    let attempt = |head: &HeadChoice, divergence| {
        let decoding = Decoding { head: head.clone(), divergence };
        let device = Default::default();
        generate(&base, Some(&params), decoding, &[vec![1]], END, &config(0.0, 2), &device)
    };
    let mixture = HeadChoice::Mixture(WEIGHTS.to_vec());
    for (divergence, words) in [
        (Divergence::ChiSquared, "`divergence` is chi_squared"),
        (Divergence::TotalVariation, "barrier"),
        (Divergence::Alpha(1.0), "between 0 and 1"),
    ] {
        let error = attempt(&mixture, divergence).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        attempt(&HeadChoice::Policy(0), divergence).unwrap();
    }
}
