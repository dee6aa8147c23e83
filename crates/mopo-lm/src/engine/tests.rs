//! The engine: answers alone and in company, bit for bit; places, shared beginnings, and what fails.

use std::collections::HashMap;
use std::sync::Arc;

use mopo_core::divergence::Divergence;
use mopo_testkit::TestBackend;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::fixtures::{self, tokens};
use crate::layers::BLOCK_TOKENS;
use crate::{HeadChoice, Phi};

type B = TestBackend;

/// Long enough for several blocks.
fn long_base() -> Phi<B> {
    fixtures::base_with(crate::PhiConfig { max_position_embeddings: 256, ..fixtures::tiny() }, 1)
}

/// No token ends an answer.
const NEVER: u32 = 4000;

fn request(prompt: Vec<u32>, head: HeadChoice) -> Request<B> {
    let generation =
        GenerationConfig { max_new_tokens: 12, log_probs: Some(3), ..Default::default() };
    Request {
        prompt,
        decoding: head.into(),
        policies: None,
        generation,
        end_of_text: NEVER,
        row_id: 5,
    }
}

/// An answer with the log-probabilities of its tokens, bit for bit.
type Answer = Vec<(u32, u32)>;

fn limits(max_rows: usize, n_blocks: u64, prefill_tokens: usize) -> EngineConfig {
    let cache_bytes = n_blocks * block_bytes(&long_base().shape());
    EngineConfig { max_rows, cache_bytes, prefill_tokens }
}

/// Runs requests that join at these steps; what each answered.
fn run_all(engine: &mut Engine<'_, B, Phi<B>>, requests: &[(usize, Request<B>)]) -> Vec<Answer> {
    let mut answers: HashMap<RequestId, Answer> = HashMap::new();
    let mut ids = vec![None; requests.len()];
    let mut step = 0;
    while !engine.is_idle() || ids.contains(&None) {
        for (id, (_, request)) in
            ids.iter_mut().zip(requests).filter(|(id, (at, _))| id.is_none() && *at <= step)
        {
            *id = Some(engine.submit(request.clone()).unwrap());
        }
        for event in engine.step() {
            if let Event::Token { id, token, log_probs } = event {
                let log_prob = log_probs.unwrap().log_prob.to_bits();
                answers.entry(id).or_default().push((token, log_prob));
            }
        }
        let EngineStats { blocks, blocks_in_use, .. } = engine.stats();
        assert!(blocks_in_use <= blocks);
        step += 1;
    }
    ids.into_iter().map(|id| answers.remove(&id.unwrap()).unwrap_or_default()).collect()
}

/// Requests of all kinds, of which many begin alike.
fn mixed_requests(n: usize, seed: u64) -> Vec<(usize, Request<B>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let common = tokens(100, &mut rng);
    let heads = [
        HeadChoice::Base,
        HeadChoice::Policy(1),
        HeadChoice::Mixture(vec![0.2, 0.5, 0.3]),
        HeadChoice::Mixture(vec![0.6, 0.0, 0.4]),
        HeadChoice::WorstCase,
    ];
    let other = Arc::new(fixtures::policies(&long_base(), 3, 9));
    (0..n)
        .map(|i| {
            let mut prompt = common[..rng.random_range(0..100)].to_vec();
            let n_own = rng.random_range(1..20);
            prompt.extend(tokens(n_own, &mut rng));
            let mut request = request(prompt, heads[i % heads.len()].clone());
            if i % 4 == 2 && matches!(request.decoding.head, HeadChoice::Mixture(_)) {
                request.decoding.divergence = Divergence::ForwardKl;
            }
            if i % 7 == 3 {
                request.policies = Some(other.clone());
            }
            request.generation.max_new_tokens = rng.random_range(1..40);
            request.generation.temperature = [0.0, 1.0, 0.7][i % 3];
            request.generation.top_p = [1.0, 0.9][i % 2];
            request.row_id = i as u64;
            (rng.random_range(0..30), request)
        })
        .collect()
}

#[test]
fn an_answer_has_the_same_bits_whoever_else_is_answered() {
    let base = long_base();
    for params in [fixtures::policies(&base, 3, 2), fixtures::policies_apart(&base, 3, 2)] {
        let requests = mixed_requests(24, 3);
        let alone: Vec<Answer> = requests
            .iter()
            .map(|(_, request)| {
                let limits = limits(1, 64, 2048);
                let mut engine =
                    Engine::new(&base, Some(&params), limits, &Default::default()).unwrap();
                run_all(&mut engine, &[(0, request.clone())]).pop().unwrap()
            })
            .collect();
        assert!(
            alone.iter().zip(&requests).all(|(answer, (_, request))| {
                answer.len() == request.generation.max_new_tokens
            })
        );
        for limits in [limits(24, 2000, 2048), limits(7, 120, 33), limits(3, 60, 5)] {
            let mut engine =
                Engine::new(&base, Some(&params), limits, &Default::default()).unwrap();
            let together = run_all(&mut engine, &requests);
            assert!(together == alone, "{limits:?}");
            let stats = engine.stats();
            assert!(stats.blocks_in_use == 0 && stats.shared_tokens > 0, "{stats:?}");
            // The cache has grown with what was needed, and no further than it may.
            let n = engine.cache.n_blocks();
            assert!((limits.max_rows < 24 || n > FIRST_BLOCKS) && n <= stats.blocks, "{n}");
            // Once more: now the beginnings are there from the start.
            let before = stats.shared_tokens;
            assert!(run_all(&mut engine, &requests) == alone, "{limits:?}, again");
            assert!(engine.stats().shared_tokens > before);
        }
    }
}

#[test]
fn weights_at_a_corner_are_that_policy_and_zeros_cost_nothing() {
    let base = long_base();
    let params = fixtures::policies_apart(&base, 3, 2);
    let of = |head: HeadChoice, divergence| {
        let mut engine =
            Engine::new(&base, Some(&params), limits(2, 64, 64), &Default::default()).unwrap();
        let mut request = request(vec![3, 4, 5], head);
        request.decoding.divergence = divergence;
        run_all(&mut engine, &[(0, request)]).pop().unwrap()
    };
    for divergence in [Divergence::ReverseKl, Divergence::ForwardKl] {
        let corner = of(HeadChoice::Mixture(vec![0.0, 1.0, 0.0]), divergence);
        assert_eq!(corner, of(HeadChoice::Policy(1), divergence));
        assert_ne!(corner, of(HeadChoice::Policy(2), divergence));
    }
}

#[test]
fn requests_wait_for_blocks_and_none_is_lost() {
    let base = long_base();
    let device = Default::default();
    // Room for one request of 30 + 12 tokens at a time.
    let mut engine = Engine::new(&base, None, limits(8, 4, 64), &device).unwrap();
    let prompts = |seed| tokens(30, &mut ChaCha8Rng::seed_from_u64(seed));
    let ids: Vec<_> =
        (0..5).map(|i| engine.submit(request(prompts(i), HeadChoice::Base)).unwrap()).collect();
    assert_eq!(engine.stats().waiting, 5);
    let mut ended = vec![];
    while !engine.is_idle() {
        for event in engine.step() {
            if let Event::End { id, end } = event {
                assert_eq!(end, None);
                ended.push(id);
            }
        }
        assert!(engine.stats().running <= 1);
    }
    assert_eq!(ended, ids);
    // One that can never run is refused at once, with what to do.
    let error = engine.submit(request(prompts(9).repeat(2), HeadChoice::Base)).unwrap_err();
    assert!(matches!(error, Error::CacheTooSmall { n_tokens: 72, n_lanes: 1, cache_tokens: 64 }));
    assert!(engine.is_idle());
}

#[test]
fn cancelling_frees_blocks_wherever_the_request_is() {
    let base = long_base();
    let params = fixtures::policies(&base, 2, 2);
    let device = Default::default();
    let mut engine = Engine::new(&base, Some(&params), limits(2, 40, 8), &device).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut submit = |engine: &mut Engine<'_, B, Phi<B>>, n| {
        engine.submit(request(tokens(n, &mut rng), HeadChoice::Policy(0))).unwrap()
    };
    let reading = submit(&mut engine, 60);
    let answering = submit(&mut engine, 5);
    let waiting = submit(&mut engine, 5);
    engine.step();
    assert_eq!((engine.stats().running, engine.stats().waiting), (2, 1));
    engine.cancel(reading);
    engine.cancel(waiting);
    // Nothing is left of one that is gone; unknown ones do no harm.
    engine.cancel(waiting);
    let mut n = 0;
    while !engine.is_idle() {
        for event in engine.step() {
            let (Event::PromptRead { id, .. }
            | Event::Token { id, .. }
            | Event::End { id, .. }
            | Event::Failed { id, .. }) = event;
            assert_eq!(id, answering);
            n += 1;
        }
    }
    assert_eq!((n, engine.stats().blocks_in_use), (14, 0));
    let all = engine.stats().blocks;
    assert!(engine.blocks.reserve(all) && !engine.blocks.reserve(1));
}

#[test]
fn a_long_prompt_does_not_stop_the_others() {
    let base = long_base();
    let mut engine = Engine::new(&base, None, limits(4, 100, 16), &Default::default()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let quick = engine.submit(request(tokens(4, &mut rng), HeadChoice::Base)).unwrap();
    engine.step();
    let slow = engine.submit(request(tokens(160, &mut rng), HeadChoice::Base)).unwrap();
    for _ in 0..9 {
        let events = engine.step();
        assert!(matches!(events[..], [Event::Token { id, .. }] if id == quick));
    }
    let ids: Vec<_> = engine
        .step()
        .iter()
        .filter_map(|event| if let Event::Token { id, .. } = event { Some(*id) } else { None })
        .collect();
    assert!(ids.contains(&slow), "{ids:?}");
}

#[test]
fn a_beginning_in_the_cache_is_shared_by_whoever_comes_next() {
    let base = long_base();
    let params = fixtures::policies(&base, 2, 2);
    let device = Default::default();
    let mut engine = Engine::new(&base, Some(&params), limits(8, 100, 64), &device).unwrap();
    let prompt = tokens(50, &mut ChaCha8Rng::seed_from_u64(1));
    let mut ask = |prompt: &[u32], head: HeadChoice| {
        let before = engine.stats();
        run_all(&mut engine, &[(0, request(prompt.to_vec(), head))]);
        let after = engine.stats();
        let computed = (after.prompt_tokens - before.prompt_tokens) as usize;
        let shared = (after.shared_tokens - before.shared_tokens) as usize;
        assert_eq!(computed + shared, prompt.len());
        shared
    };
    assert_eq!(ask(&prompt, HeadChoice::Policy(0)), 0);
    // Policies that share an adapter share what it computed; the base does not.
    assert_eq!(ask(&prompt, HeadChoice::Policy(1)), 3 * BLOCK_TOKENS);
    assert_eq!(ask(&prompt, HeadChoice::Base), 0);
    // The last token is always computed: its logits are needed.
    assert_eq!(ask(&prompt[..32], HeadChoice::Policy(0)), BLOCK_TOKENS);
    let other = [&prompt[..20], &[1; 20]].concat();
    assert_eq!(ask(&other, HeadChoice::Policy(0)), BLOCK_TOKENS);
    // Several at once, with one beginning: one of them computes it.
    let new = tokens(50, &mut ChaCha8Rng::seed_from_u64(2));
    let before = engine.stats().prompt_tokens;
    let requests: Vec<_> = (0..4).map(|_| (0, request(new.clone(), HeadChoice::Base))).collect();
    run_all(&mut engine, &requests);
    assert_eq!(engine.stats().prompt_tokens - before, 50 + 3 * 2);
}

#[test]
fn one_that_fails_leaves_the_others_alone() {
    use burn::tensor::Tensor;
    let base = long_base();
    let mut params = fixtures::policies(&base, 2, 2);
    let bias = params.heads.heads[1].bias.as_mut().unwrap();
    *bias = bias.clone().map(|bias| {
        let nan = Tensor::full([1], f32::NAN, &Default::default());
        bias.slice_assign(burn::tensor::s![5..6], nan)
    });
    let device = Default::default();
    let mut engine = Engine::new(&base, Some(&params), limits(4, 40, 64), &device).unwrap();
    let good = engine.submit(request(vec![1, 2], HeadChoice::Policy(0))).unwrap();
    let bad = engine.submit(request(vec![1, 2], HeadChoice::Policy(1))).unwrap();
    let (mut failed, mut ended) = (vec![], vec![]);
    while !engine.is_idle() {
        for event in engine.step() {
            match event {
                Event::Failed { id, error } => failed.push((id, error.to_string())),
                Event::End { id, .. } => ended.push(id),
                Event::Token { id, .. } => assert_eq!(id, good),
                Event::PromptRead { .. } => {}
            }
        }
    }
    assert_eq!(ended, [good]);
    assert!(failed.len() == 1 && failed[0].0 == bad, "{failed:?}");
    assert!(failed[0].1.contains("not finite"), "{failed:?}");
    assert_eq!(engine.stats().blocks_in_use, 0);
}

#[test]
fn limits_that_make_no_sense_are_errors() {
    let base = long_base();
    for (limits, field) in [
        (limits(0, 4, 8), "max_rows"),
        (limits(1, 0, 8), "cache_bytes"),
        (limits(1, 4, 0), "prefill_tokens"),
    ] {
        let engine = Engine::new(&base, None, limits, &Default::default());
        let error = engine.err().unwrap().to_string();
        assert!(error.contains(field), "{error}");
    }
}
