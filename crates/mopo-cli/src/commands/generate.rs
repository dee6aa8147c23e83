//! `mopo generate`: one policy of a run, or a mixture of all, answers prompts.

use anyhow::{Result, bail};
use burn::tensor::backend::Backend;
use mopo_lm::{GenerationConfig, HeadChoice};
use mopo_train::{RunDir, Sampler, Silent};

use crate::args::GenerateArgs;
use crate::device::{self, Job, dispatch};

pub(crate) fn run(args: GenerateArgs) -> Result<()> {
    device::check(args.device)?;
    dispatch(args.device, Generate(args))
}

struct Generate(GenerateArgs);

impl Job for Generate {
    type Output = ();

    fn run<B: Backend>(self, device: B::Device) -> Result<()> {
        let args = self.0;
        let (run, config, _) = RunDir::open(&args.run)?;
        let sampler = Sampler::<B>::load(&run, &config, &device)?;
        let head = match (&args.weights, &args.policy) {
            (Some(weights), _) => HeadChoice::Mixture(weights.clone()),
            (None, Some(name)) if name == "warm-start" => HeadChoice::Base,
            (None, name) => {
                let known = sampler.policies();
                let name = name.as_ref().unwrap_or(&known[0]);
                match known.iter().position(|k| k == name) {
                    Some(index) => HeadChoice::Policy(index),
                    None => bail!(
                        "--policy {name}: this run has the policies {} and `warm-start`",
                        known.join(", ")
                    ),
                }
            }
        };
        let e = &config.evaluation;
        let generation = GenerationConfig {
            max_new_tokens: args.max_new_tokens.unwrap_or(e.max_new_tokens),
            temperature: args.temperature.unwrap_or(e.temperature),
            top_p: args.top_p.unwrap_or(e.top_p),
            seed: args.seed,
        };
        let prompts: Vec<String> = args.prompt.iter().map(|p| dialogue(p)).collect();
        let responses = sampler.answer(&head, &prompts, &generation, &mut Silent)?;
        for (prompt, response) in args.prompt.iter().zip(responses) {
            println!("{}\n→{response}\n", prompt.trim());
        }
        Ok(())
    }
}

/// A plain question becomes the prompt that the models were trained on.
fn dialogue(prompt: &str) -> String {
    if prompt.ends_with("Assistant:") {
        return prompt.to_string();
    }
    format!("\n\nHuman: {}\n\nAssistant:", prompt.trim())
}
