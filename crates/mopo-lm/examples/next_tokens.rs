//! Prints the next token's log-probabilities of sequences of token ids and 64 greedy tokens after them, one JSON line
//! each: `next_tokens MODEL < SEQUENCES`, where a line of the input is a JSON list of ids. To compare models from files
//! with other programs.

use std::io::BufRead;
use std::path::Path;

use burn::tensor::activation::log_softmax;
use mopo_lm::{CausalLm, Decoder, KvCache, LoadOptions, NewTokens};
use mopo_testkit::TestBackend;

fn main() {
    let model = std::env::args().nth(1).expect("a model's path");
    let device = Default::default();
    let clock = std::time::Instant::now();
    let model =
        CausalLm::<TestBackend>::load(Path::new(&model), LoadOptions::default(), &device).unwrap();
    eprintln!("loaded in {:.2} s", clock.elapsed().as_secs_f64());
    for line in std::io::stdin().lock().lines() {
        let ids: Vec<u32> = serde_json::from_str(&line.unwrap()).unwrap();
        let (mut cache, mut row) =
            KvCache::for_sequences(&model.shape(), [ids.len() + 64], &device);
        let clock = std::time::Instant::now();
        let new = NewTokens::of_prompts([(&ids[..], &mut row[0])], &device);
        let hidden = model.next_states(&new, None, &mut cache);
        let logits = model.lm_head().logits(hidden);
        eprintln!("prefill {:.3} s", clock.elapsed().as_secs_f64());
        let first: Vec<f32> = log_softmax(logits.clone(), 1).into_data().iter().collect();
        let mut logits: Vec<f32> = logits.into_data().iter().collect();
        let mut greedy = vec![];
        let clock = std::time::Instant::now();
        for _ in 0..64 {
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            greedy.push(best as u32);
            let new = NewTokens::of_answers([(&[best as u32][..], &mut row[0])], &device);
            let hidden = model.next_states(&new, None, &mut cache);
            logits = model.lm_head().logits(hidden).into_data().iter().collect();
        }
        eprintln!("{:.1} tokens/s", 64.0 / clock.elapsed().as_secs_f64());
        let line = serde_json::json!({ "log_probs": first, "greedy": greedy });
        println!("{line}");
    }
}
