//! What the generated set promises: determinism, exact labels, and conflicts of the right size.

use std::collections::BTreeMap;

use super::*;
use crate::{Summary, Tokenizer, indicator_of_scores};

#[test]
fn report() {
    let set = generate(&DemoConfig::default()).unwrap();
    let texts = set.records.iter().flat_map(|r| [&r.prompt, &r.first, &r.second]);
    let tokenizer = Tokenizer::train(texts.map(String::as_str), 768).unwrap();
    let summary = Summary::new(&objectives(), &set.records, |t| tokenizer.encode(t).unwrap().len());
    println!("{summary}");
    for hazard in [None, Some(false), Some(true)] {
        let mut candidates: BTreeMap<&str, BTreeMap<&str, [f32; 3]>> = BTreeMap::new();
        for r in &set.records {
            if hazard.is_some() && is_hazardous(&r.prompt) != hazard {
                continue;
            }
            for t in [&r.first, &r.second] {
                candidates.entry(&r.prompt).or_default().insert(t, rewards(&r.prompt, t));
            }
        }
        let n: usize = candidates.values().map(|c| c.len()).sum();
        for k in 0..3 {
            let mean: f32 =
                candidates.values().flat_map(|c| c.values()).map(|r| r[k]).sum::<f32>() / n as f32;
            let best: f32 = candidates
                .values()
                .map(|c| c.values().map(|r| r[k]).fold(0.0, f32::max))
                .sum::<f32>()
                / candidates.len() as f32;
            println!("{hazard:?} {k}: mean {mean:.3} best {best:.3} n {n}");
        }
    }
    for r in &set.records[..12] {
        println!("{:?} {:?} {:?} {:?}", r.prompt, r.first, r.second, r.scores);
    }
    let _ = indicator_of_scores(0., 0., 0.);
}
