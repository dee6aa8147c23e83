//! Plain Hugging Face models in the sampler: vocabularies larger than the tokenizer's, and vice
//! versa.

use std::path::Path;
use std::sync::PoisonError;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use mopo_data::Tokenizer;
use mopo_lm::{Decoder, GenerationConfig, HeadChoice, PhiConfig};
use mopo_testkit::TestBackend;
use mopo_train::{Result, Sampler, Silent};

/// A tiny model with this many rows, of which the last is by far the likeliest, and a tokenizer
/// with 260 tokens.
fn write(dir: &Path, vocab_size: usize) {
    let config = PhiConfig {
        vocab_size,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        max_position_embeddings: 64,
        ..PhiConfig::phi_1_5()
    };
    let device = Default::default();
    let mut phi = {
        let _alone = crate::ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        config.init::<TestBackend>(&device)
    };
    let mut bias = vec![0f32; vocab_size];
    bias[vocab_size - 1] = 1000.0;
    let bias = Tensor::from_data(TensorData::new(bias, [vocab_size]), &device);
    phi.lm_head.bias = Some(Param::from_tensor(bias));
    phi.save(dir).unwrap();
    let texts = ["the tea and the water and the tea"; 4];
    let tokenizer = Tokenizer::train(texts.into_iter(), 260).unwrap();
    assert_eq!(tokenizer.vocab_size(), 260);
    tokenizer.save(dir.join("tokenizer.json")).unwrap();
}

fn answer(dir: &Path, temperature: f64) -> Result<Vec<String>> {
    let sampler = Sampler::<TestBackend>::load_hub(dir, Default::default(), &Default::default())?;
    let config = GenerationConfig { max_new_tokens: 12, temperature, ..Default::default() };
    let prompts = ["the tea".to_string(), "x".into()];
    sampler.answer(HeadChoice::Base, &prompts, &config, &mut Silent)
}

#[test]
fn rows_without_a_token_never_become_text() {
    let dir = tempfile::tempdir().unwrap();
    // The decoder drops unknown ids: if they were chosen, nothing would be left.
    write(dir.path(), 300);
    for temperature in [0.0, 1.0] {
        let responses = answer(dir.path(), temperature).unwrap();
        assert!(responses.iter().all(|response| !response.is_empty()), "{responses:?}");
    }
    // The same preference for a token that exists.
    write(dir.path(), 260);
    let responses = answer(dir.path(), 0.0).unwrap();
    let first = responses[0].chars().next().unwrap();
    assert!(responses.iter().all(|response| response.starts_with(first)), "{responses:?}");
}

#[test]
fn a_tokenizer_beyond_the_models_rows_is_an_error_with_both_numbers() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 259);
    let error = answer(dir.path(), 0.0).unwrap_err().to_string();
    assert!(error.contains("260") && error.contains("259"), "{error}");
}
