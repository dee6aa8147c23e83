//! `mopo bench generate`: greedy generation with the key-value cache.

use std::time::Instant;

use anyhow::{Result, ensure};
use mopo_lm::{Decoder, GenerationConfig, HeadChoice, generate};
use mopo_ops::FusedBackend;
use serde::Serialize;

use super::{Program, after_the_first, median, peak_rss_mib, rows};
use crate::args::BenchGenerateArgs;
use crate::device::{Job, dispatch};

pub(super) fn run(args: BenchGenerateArgs) -> Result<()> {
    super::begin(&args.common)?;
    dispatch(args.common.device, Generate(args))
}

struct Generate(BenchGenerateArgs);

/// The measurement.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    program: Program,
    batch: usize,
    new_tokens: usize,
    prompt_tokens: Vec<usize>,
    /// Median after the first: prompt and new tokens.
    seconds_per_call: f64,
    /// New tokens of all rows, per time.
    tokens_per_second: f64,
    peak_rss_mib: Option<u64>,
    /// Every call.
    seconds: Vec<f64>,
    /// `[batch][new_tokens]`.
    ids: Vec<Vec<u32>>,
}

impl Job for Generate {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let args = self.0;
        let (base, tokenizer) = super::load::<B>(&args.input.model, args.common.base, &device)?;
        let pairs = rows::read(&args.input.pairs, &tokenizer, args.input.max_len, args.batch)?;
        let prompts: Vec<Vec<u32>> = pairs.into_iter().map(|p| p.prompt).collect();
        let config = GenerationConfig {
            max_new_tokens: args.new_tokens,
            temperature: 0.0,
            ..Default::default()
        };
        // The last row of the vocabulary belongs to no text: nothing ends early.
        let end = base.shape().vocab_size as u32 - 1;
        let (mut seconds, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..args.repeats {
            let clock = Instant::now();
            ids = generate(&base, None, HeadChoice::Base, &prompts, end, &config, &device)?;
            seconds.push(clock.elapsed().as_secs_f64());
        }
        for (row, ids) in ids.iter().enumerate() {
            ensure!(
                ids.len() == args.new_tokens,
                "row {row} ended after {} of {} tokens: the model chose the last id of its \
                 vocabulary; measure with another model",
                ids.len(),
                args.new_tokens
            );
        }
        let seconds_per_call = median(after_the_first(&seconds))?;
        super::print(&Line {
            program: Program::new(&args.common),
            batch: args.batch,
            new_tokens: args.new_tokens,
            prompt_tokens: prompts.iter().map(Vec::len).collect(),
            seconds_per_call,
            tokens_per_second: (args.batch * args.new_tokens) as f64 / seconds_per_call,
            peak_rss_mib: peak_rss_mib(),
            seconds,
            ids,
        })
    }
}
