//! Generation against the model without a cache, and against itself in other batches.

use burn::tensor::activation;
use mopo_testkit::TestBackend;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::fixtures::{self, END, tokens, values};
use crate::{PackedBatch, Phi};

type B = TestBackend;

fn prompts() -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    [5, 1, 9, 3].into_iter().map(|n| tokens(n, &mut rng)).collect()
}

fn config(temperature: f64, n: usize) -> GenerationConfig {
    GenerationConfig { max_new_tokens: n, temperature, seed: 11, ..Default::default() }
}

fn run(
    base: &Phi<B>,
    params: &PolicyParams<B>,
    head: &HeadChoice,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
) -> Vec<Vec<u32>> {
    generate(base, Some(params), head, prompts, END, config, &Default::default()).unwrap()
}

/// Log-probabilities (up to a constant for mixtures) of the token after `ids`, without cache or
/// other rows.
fn next(base: &Phi<B>, params: &PolicyParams<B>, head: &HeadChoice, ids: &[u32]) -> Vec<f32> {
    // A dummy response token turns the last of `ids` into a predictor.
    let pair = ([ids, &[0], &[]], [true, false]);
    let inputs = PackedBatch::pack(&[pair]).unwrap().inputs::<B>(&Default::default());
    let last = |adapter| base.hidden_states_packed(&inputs, adapter).narrow(0, ids.len() - 1, 1);
    let of = |k: usize| {
        let logits = params.heads.heads[k].logits(last(Some(params.adapter(k))));
        values(activation::log_softmax(logits, 1))
    };
    match head {
        HeadChoice::Base => values(activation::log_softmax(base.lm_head.logits(last(None)), 1)),
        HeadChoice::Policy(k) => of(*k),
        HeadChoice::Mixture(weights) => {
            let parts: Vec<Vec<f32>> = (0..weights.len()).map(of).collect();
            let sum = |token: usize| weights.iter().zip(&parts).map(|(w, p)| w * p[token]).sum();
            (0..parts[0].len()).map(sum).collect()
        }
        HeadChoice::WorstCase => unreachable!("not tested here"),
    }
}

fn greedy_without_cache(
    base: &Phi<B>,
    params: &PolicyParams<B>,
    head: &HeadChoice,
    prompt: &[u32],
    n: usize,
) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..n {
        let log_probs = next(base, params, head, &ids);
        let best = (0..log_probs.len()).max_by(|a, b| log_probs[*a].total_cmp(&log_probs[*b]));
        match best.unwrap() as u32 {
            END => break,
            token => ids.push(token),
        }
    }
    ids.split_off(prompt.len())
}

#[test]
fn greedy_with_cache_and_prompts_of_several_lengths_equals_greedy_without() {
    let base = fixtures::base::<B>(1);
    let params = fixtures::policies(&base, 2, 2);
    for head in [HeadChoice::Base, HeadChoice::Policy(1), HeadChoice::Mixture(vec![0.3, 0.7])] {
        let found = run(&base, &params, &head, &prompts(), &config(0.0, 12));
        for (prompt, found) in prompts().iter().zip(found) {
            assert_eq!(found, greedy_without_cache(&base, &params, &head, prompt, 12), "{head:?}");
        }
    }
}

#[test]
fn responses_do_not_depend_on_the_batch() {
    let base = fixtures::base::<B>(1);
    let params = fixtures::policies(&base, 2, 2);
    for temperature in [0.0, 1.0] {
        let config = config(temperature, 10);
        let head = HeadChoice::Policy(0);
        let together = run(&base, &params, &head, &prompts(), &config);
        for (prompt, together) in prompts().into_iter().zip(&together) {
            assert_eq!(&run(&base, &params, &head, &[prompt], &config)[0], together);
        }
        let mut reversed: Vec<_> = prompts();
        reversed.reverse();
        let mut back = run(&base, &params, &head, &reversed, &config);
        back.reverse();
        assert_eq!(back, together);
    }
}

#[test]
fn row_ids_and_seeds_choose_the_sample() {
    let base = fixtures::base::<B>(1);
    let prompts = vec![vec![3, 4]; 3];
    let sample = |ids: &[u64], seed| {
        let config = GenerationConfig { seed, ..config(1.0, 12) };
        let head = HeadChoice::Base;
        let device = Default::default();
        generate_with_row_ids::<B>(&base, None, &head, &prompts, ids, END, &config, &device)
            .unwrap()
    };
    let found = sample(&[1, 2, 1], 0);
    assert_eq!(found[0], found[2]);
    assert_ne!(found[0], found[1]);
    assert_eq!(sample(&[2, 1, 1], 0)[1], found[0]);
    assert_ne!(sample(&[1, 2, 1], 1)[0], found[0]);
}

#[test]
fn a_row_stops_at_the_end_of_text_without_the_others() {
    let base = fixtures::base::<B>(1);
    let params = fixtures::policies(&base, 1, 2);
    let head = HeadChoice::Policy(0);
    let free = run(&base, &params, &head, &prompts(), &config(0.0, 12));
    // A token of one row, late enough, becomes the end of text.
    let (row, at) = (0..free.len())
        .flat_map(|row| (3..free[row].len()).map(move |at| (row, at)))
        .find(|(row, at)| !free[*row][..*at].contains(&free[*row][*at]))
        .expect("a row with a late new token");
    let end = free[row][at];
    let device = Default::default();
    let stopped =
        generate(&base, Some(&params), &head, &prompts(), end, &config(0.0, 12), &device).unwrap();
    assert_eq!(stopped[row], free[row][..at]);
    for (stopped, free) in stopped.iter().zip(&free) {
        let n = free.iter().position(|token| *token == end).unwrap_or(free.len());
        // A row that ended at END before continues past it now.
        assert_eq!(stopped[..n.min(stopped.len())], free[..n.min(stopped.len())]);
        assert!(!stopped.contains(&end));
    }
}

#[test]
fn what_cannot_be_generated_is_an_error() {
    let base = fixtures::base::<B>(1);
    let params = fixtures::policies(&base, 2, 2);
    let attempt = |params: Option<&PolicyParams<B>>, head: HeadChoice, prompt: Vec<u32>, config| {
        let device = Default::default();
        match generate(&base, params, &head, &[prompt], END, &config, &device) {
            Ok(_) => panic!("it generated"),
            Err(error) => error.to_string(),
        }
    };
    let mixture = HeadChoice::Mixture;
    let short = || config(0.0, 4);
    for (params, head, prompt, config, words) in [
        (None, HeadChoice::Policy(0), vec![1], short(), "there are 0"),
        (Some(&params), HeadChoice::Policy(2), vec![1], short(), "policy 2"),
        (Some(&params), mixture(vec![1.0]), vec![1], short(), "there are 2 policies"),
        (Some(&params), mixture(vec![1.5, -0.5]), vec![1], short(), "negative"),
        (Some(&params), mixture(vec![0.5, 0.6]), vec![1], short(), "sum is 1.1"),
        (None, HeadChoice::Base, vec![], short(), "prompt 0 is empty"),
        (None, HeadChoice::Base, vec![40], short(), "token 40"),
        (None, HeadChoice::Base, vec![1; 61], short(), "61 tokens, and 4 new ones"),
        (None, HeadChoice::Base, vec![1], config(-1.0, 4), "generation.temperature"),
        (None, HeadChoice::Base, vec![1], config(1.0, 0), "generation.max_new_tokens"),
    ] {
        let error = attempt(params, head, prompt, config);
        assert!(error.contains(words), "{error}");
    }
    let top_p = GenerationConfig { top_p: 0.0, ..short() };
    assert!(attempt(None, HeadChoice::Base, vec![1], top_p).contains("generation.top_p"));
    // The limit itself is allowed.
    let full = run(&base, &params, &HeadChoice::Base, &[vec![1; 60]], &short());
    assert!(full[0].len() <= 4);
    let error = serde_json::from_str::<GenerationConfig>(r#"{"top_a": 5}"#).unwrap_err();
    assert!(error.to_string().contains("top_a"));
}

#[test]
fn ids_beyond_the_tokenizer_are_never_sampled_and_stop_tokens_end_a_row() {
    let base = fixtures::base::<B>(1);
    let params = fixtures::policies(&base, 2, 2);
    let prompts = prompts();
    let with = |head: &HeadChoice, temperature, n_tokens| {
        let config = GenerationConfig { n_tokens, ..config(temperature, 40) };
        run(&base, &params, head, &prompts, &config)
    };
    for head in [HeadChoice::Base, HeadChoice::Policy(1), HeadChoice::Mixture(vec![0.5, 0.5])] {
        for temperature in [0.0, 3.0] {
            let all = with(&head, temperature, None).concat();
            let few = with(&head, temperature, Some(7)).concat();
            assert!(all.iter().any(|id| *id >= 7) && !few.is_empty());
            assert!(few.iter().all(|id| *id < 7), "{few:?}");
            // A limit at or beyond the model's rows has no effect.
            assert_eq!(with(&head, temperature, Some(40)).concat(), all);
            assert_eq!(with(&head, temperature, Some(400)).concat(), all);
        }
    }
    let free = with(&HeadChoice::Policy(0), 2.0, None);
    let stop = free.iter().find(|row| row.len() > 8).unwrap()[6];
    let config = GenerationConfig { stop: vec![stop], ..config(2.0, 40) };
    let stopped = run(&base, &params, &HeadChoice::Policy(0), &prompts, &config);
    for (row, free) in stopped.iter().zip(&free) {
        let end = free.iter().position(|id| *id == stop).unwrap_or(free.len());
        assert_eq!(row[..], free[..end]);
    }
    // An end of text for which the model has no row is never met, and does no harm.
    let never = 4000;
    let config = GenerationConfig { max_new_tokens: 5, ..Default::default() };
    let device = Default::default();
    let rows = generate(&base, None, HeadChoice::Base, &prompts, never, &config, &device).unwrap();
    assert!(rows.iter().all(|row| row.len() == 5));
}

#[test]
fn logits_that_are_not_finite_are_an_error_whatever_the_head_and_the_temperature() {
    use burn::tensor::Tensor;
    let base = fixtures::base::<B>(4);
    let params = fixtures::policies(&base, 2, 2);
    let mixture = HeadChoice::Mixture(vec![0.4, 0.6]);
    let spoiled = |bias: &mut Option<burn::module::Param<Tensor<B, 1>>>, id: usize, value: f32| {
        let bias = bias.as_mut().unwrap();
        *bias = bias.clone().map(|bias| {
            let value = Tensor::full([1], value, &Default::default());
            bias.slice_assign(burn::tensor::s![id..id + 1], value)
        });
    };
    let prompts = [vec![1, 2], vec![3]];
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (mut base, mut params) = (base.clone(), params.clone());
        spoiled(&mut base.lm_head.bias, 5, value);
        spoiled(&mut params.heads.heads[1].bias, 5, value);
        for temperature in [0.0, 1.0] {
            for (decoding, is_spoiled) in [
                (Decoding::from(HeadChoice::Base), true),
                (HeadChoice::Policy(1).into(), true),
                (HeadChoice::Policy(0).into(), false),
                (mixture.clone().into(), true),
                // Here the reference, the base, counts too.
                (
                    Decoding {
                        head: HeadChoice::Mixture(vec![0.5, 0.5]),
                        divergence: mopo_core::divergence::Divergence::ForwardKl,
                    },
                    true,
                ),
            ] {
                for config in [
                    config(temperature, 3),
                    GenerationConfig { top_k: 3, top_p: 0.5, ..config(temperature, 3) },
                ] {
                    let device = Default::default();
                    let attempt = |config: &GenerationConfig| {
                        let decoding = decoding.clone();
                        generate(&base, Some(&params), decoding, &prompts, END, config, &device)
                    };
                    match attempt(&config) {
                        Ok(_) => assert!(!is_spoiled, "{decoding:?} {value}"),
                        Err(e) => {
                            let error = e.to_string();
                            assert!(is_spoiled && error.contains("not finite"), "{error}");
                            assert!(error.contains("after 0 new tokens"), "{error}");
                        }
                    }
                }
            }
        }
        // Rows of the model without a token are ignored.
        let config = GenerationConfig { n_tokens: Some(5), ..config(0.0, 2) };
        let head = HeadChoice::Base;
        generate(&base, None, head, &prompts, END, &config, &Default::default()).unwrap();
    }
}

#[test]
fn a_cache_for_which_there_is_no_memory_is_an_error() {
    let long = crate::PhiConfig { max_position_embeddings: 1 << 46, ..fixtures::tiny() };
    let shape = crate::DecoderShape { max_position_embeddings: 1 << 46, ..long.shape() };
    let limits = EngineConfig::for_prompts(&shape, &[vec![1]], 1 << 45, 1);
    let base = fixtures::base::<B>(4);
    let engine = Engine::new(&base, None, limits, &Default::default());
    let error = engine.err().unwrap().to_string();
    assert!(
        error.contains("the cache of keys and values") && error.contains("new tokens"),
        "{error}"
    );
}

#[test]
fn the_token_that_ended_a_response_is_known() {
    let base = fixtures::base::<B>(4);
    let params = fixtures::policies(&base, 1, 5);
    let (device, prompts) = (Default::default(), prompts());
    // Half of all tokens end a response.
    let config = GenerationConfig { stop: (0..20).collect(), ..config(1.0, 3) };
    let head = HeadChoice::Policy(0);
    let params = Some(&params);
    let (mut kinds, mut ended) = ([0, 0, 0], 0);
    for row in 0..20 {
        let row_ids: Vec<u64> = (0..4).map(|i| 4 * row + i).collect();
        let ids = Some(&row_ids[..]);
        let found = generate_with_ends(
            &base,
            params,
            head.clone(),
            &prompts,
            ids,
            END,
            &config,
            &device,
            &mut || ended += 1,
        )
        .unwrap();
        let plain = generate_with_row_ids(
            &base,
            params,
            head.clone(),
            &prompts,
            &row_ids,
            END,
            &config,
            &device,
        )
        .unwrap();
        for (response, ids) in found.iter().zip(&plain) {
            assert_eq!(response.ids, *ids);
            assert!(!response.ids.iter().any(|id| *id < 20 || *id == END));
            let drawn = response.drawn();
            match response.end {
                Some(end) => {
                    assert!(end < 20 || end == END);
                    assert_eq!((drawn.len(), drawn.last()), (ids.len() + 1, Some(&end)));
                    kinds[usize::from(ids.is_empty())] += 1;
                }
                None => {
                    assert_eq!((drawn.len(), &drawn), (3, ids));
                    kinds[2] += 1;
                }
            }
        }
    }
    assert!(kinds.iter().all(|n| *n > 0) && ended == 20 * prompts.len(), "{kinds:?}");
}
