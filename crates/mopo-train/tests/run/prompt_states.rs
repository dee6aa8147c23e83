//! The hidden states by which prompts are clustered.

use mopo_data::Tokenizer;
use mopo_lm::{Decoder, PackedBatch, load_policy};
use mopo_testkit::TestBackend;
use mopo_train::{Sampler, load_base};

use super::*;

#[test]
fn a_prompts_state_is_the_mean_over_its_tokens_with_the_policies_adapter_whatever_the_batch() {
    let (_tmp, path) = finished(&[]);
    let (run, config, _) = RunDir::open(&path).unwrap();
    let device = Default::default();
    let sampler = Sampler::<TestBackend>::load(&run, &config, &device).unwrap();
    // More than a batch, and one that is cut to the run's limit of 24 tokens.
    let mut prompts: Vec<String> =
        (0..40).map(|i| format!("\n\nHuman: What about {i}?\n\nAssistant:")).collect();
    prompts.push("many words ".repeat(60));
    let states = sampler.prompt_states(&prompts).unwrap();
    assert_eq!((states.len(), states[0].len()), (41, 16));

    let base = load_base::<TestBackend>(&run, config.model.base, &device).unwrap();
    let (params, _) = load_policy(path.join("policy"), &base, &device).unwrap();
    let tokenizer = Tokenizer::load(path.join("tokenizer.json")).unwrap();
    for i in [0, 37, 40] {
        let ids = tokenizer.encode(&prompts[i]).unwrap();
        let ids = ids[ids.len().saturating_sub(24)..].to_vec();
        let n = ids.len();
        let inputs = PackedBatch::prompts(&[ids]).unwrap().inputs::<TestBackend>(&device);
        let hidden = base.hidden_states_packed(&inputs, Some(params.adapter(0)));
        let hidden = hidden.into_data().to_vec::<f32>().unwrap();
        let mean = |d: usize| (0..n).map(|t| hidden[t * 16 + d]).sum::<f32>() / n as f32;
        for (d, &found) in states[i].iter().enumerate() {
            assert!((found - mean(d)).abs() < 1e-4, "prompt {i}: {found} against {}", mean(d));
        }
    }
    assert!(sampler.prompt_states(&[String::new()]).is_err());
}
