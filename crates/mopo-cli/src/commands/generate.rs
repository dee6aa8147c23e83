//! `mopo generate`: one policy of a run, a mixture of all, or a plain hub model answers prompts.

use std::path::Path;

use anyhow::{Result, bail};
use mopo_core::divergence::Divergence;
use mopo_lm::{Decoding, GenerationConfig, HeadChoice, HubGeneration};
use mopo_ops::FusedBackend;
use mopo_train::config::EvaluationConfig;
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

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let args = self.0;
        let dir = super::models::given(&args.run, &args.model, &args.revision)?;
        let (sampler, defaults) = open::<B>(&dir, &device)?;
        let head = head(&args, &dir, sampler.policies())?;
        let prompts: Vec<String> = match sampler.is_dialogue() {
            true => args.prompt.iter().map(|p| dialogue(p)).collect(),
            false => args.prompt.clone(),
        };
        let generation = generation(&args, defaults, &sampler, &prompts)?;
        let decoding = Decoding { head, divergence: args.divergence.unwrap_or_default() };
        let responses = sampler.answer(&decoding, &prompts, &generation, &mut Silent)?;
        for (prompt, response) in args.prompt.iter().zip(responses) {
            println!("{}\n→{response}\n", prompt.trim());
        }
        Ok(())
    }
}

/// What a directory holds, and what it says about generation.
fn open<B: FusedBackend>(dir: &Path, device: &B::Device) -> Result<(Sampler<B>, HubGeneration)> {
    if dir.join("config.toml").exists() {
        let (run, config, _) = RunDir::open(dir)?;
        let defaults = evaluation_defaults(&config.evaluation);
        return Ok((Sampler::load(&run, &config, device)?, defaults));
    }
    let is_export = dir.join("policy/policy.json").exists();
    if !is_export && !dir.join("config.json").exists() {
        bail!(
            "{}: this is no run (it has no config.toml), no export of all policies (no \
             policy/policy.json) and no hub model (no config.json)",
            dir.display()
        );
    }
    let defaults = match HubGeneration::read(dir)? {
        Some(defaults) => defaults,
        None if is_export => HubGeneration::default(),
        None => HubGeneration::from_config(dir)?,
    };
    let ignored = defaults.ignored();
    if !ignored.is_empty() {
        tracing::warn!(
            "{}: generation here does not do {}; responses may differ from the publisher's",
            dir.join("generation_config.json").display(),
            ignored.join(", ")
        );
    }
    let sampler = match is_export {
        true => Sampler::load_export(dir, device)?,
        false => Sampler::load_hub(dir, &defaults, device)?,
    };
    Ok((sampler, defaults))
}

fn head(args: &GenerateArgs, dir: &Path, known: &[String]) -> Result<HeadChoice> {
    if known.is_empty() {
        if args.weights.is_some() || args.policy.as_ref().is_some_and(|name| name != "warm-start") {
            bail!("{}: a plain model has no policies to choose from", dir.display());
        }
        return Ok(HeadChoice::Base);
    }
    Ok(match (&args.weights, &args.policy) {
        (Some(weights), _) => HeadChoice::Mixture(weights.clone()),
        (None, Some(name)) if name == "warm-start" => HeadChoice::Base,
        (None, name) => {
            let name = name.as_ref().unwrap_or(&known[0]);
            match known.iter().position(|k| k == name) {
                Some(index) => HeadChoice::Policy(index),
                None => bail!(
                    "--policy {name}: this run has the policies {} and `warm-start`",
                    known.join(", ")
                ),
            }
        }
    })
}

/// The flags, and below them the directory's own defaults.
fn generation<B: FusedBackend>(
    args: &GenerateArgs,
    mut defaults: HubGeneration,
    sampler: &Sampler<B>,
    prompts: &[String],
) -> Result<GenerationConfig> {
    defaults.max_new_tokens = args.max_new_tokens.or(defaults.max_new_tokens);
    let mut longest = 0;
    for prompt in prompts {
        longest = longest.max(sampler.n_tokens(prompt)?);
    }
    let config = defaults.config(longest)?;
    Ok(GenerationConfig {
        temperature: args.temperature.unwrap_or(config.temperature),
        top_k: args.top_k.unwrap_or(config.top_k),
        top_p: args.top_p.unwrap_or(config.top_p),
        seed: args.seed,
        ..config
    })
}

/// A run's settings, in the words of `generation_config.json`.
pub(crate) fn evaluation_defaults(settings: &EvaluationConfig) -> HubGeneration {
    let mut defaults =
        HubGeneration { max_new_tokens: Some(settings.max_new_tokens), ..Default::default() };
    if settings.temperature > 0.0 {
        defaults.do_sample = Some(true);
        defaults.temperature = Some(settings.temperature);
        defaults.top_k = Some(0);
        defaults.top_p = Some(settings.top_p);
    }
    defaults
}

/// The value of `--divergence`: refused on the command line, before a model is loaded.
pub(crate) fn mixable(name: &str) -> mopo_core::Result<Divergence> {
    let divergence: Divergence = name.parse()?;
    divergence.check_mixable().map(|()| divergence)
}

/// A plain question becomes the prompt that the models were trained on.
fn dialogue(prompt: &str) -> String {
    if prompt.ends_with("Assistant:") {
        return prompt.to_string();
    }
    format!("\n\nHuman: {}\n\nAssistant:", prompt.trim())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(extra: &[&str]) -> Result<GenerateArgs, String> {
        let words = ["mopo", "generate", "run", "--prompt", "Hello"];
        let cli = Cli::try_parse_from(words.iter().chain(extra)).map_err(|e| e.to_string())?;
        match cli.command {
            Command::Generate(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_divergence_of_a_mixture_is_read() {
        assert_eq!(parse(&["--weights", "0.5,0.5"]).unwrap().divergence, None);
        for divergence in Divergence::ALL.into_iter().filter(Divergence::has_barrier) {
            let name = divergence.to_string();
            let args = parse(&["--weights", "0.5,0.5", "--divergence", &name]).unwrap();
            assert_eq!(args.divergence, Some(divergence));
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_before_a_model_is_loaded() {
        for (flag, values) in [
            ("--temperature", &["-1", "nan", "inf", "1e30"][..]),
            ("--top-p", &["0", "-1", "7", "nan"]),
            ("--max-new-tokens", &["0", "-1", "1e3"]),
        ] {
            for value in values {
                let error = parse(&[flag, value]).expect_err(value);
                assert!(error.contains(flag), "{flag} {value}: {error}");
                if flag != "--max-new-tokens" && flag != "--top-p" {
                    let cli = Cli::try_parse_from(["mopo", "pareto", "run", flag, value]);
                    assert!(cli.unwrap_err().to_string().contains(flag), "{flag} {value}");
                }
            }
        }
        assert!(Cli::try_parse_from(["mopo", "pareto", "run", "--n-prompts", "0"]).is_err());
        assert_eq!(parse(&["--temperature", "0"]).unwrap().temperature, Some(0.0));
    }

    #[test]
    fn a_divergence_that_cannot_mix_is_refused_at_once() {
        for (extra, words) in [
            (&["--divergence", "forward_kl"][..], "--weights"),
            (&["--divergence", "forward_kl", "--policy", "helpful"], "--policy"),
            (&["--weights", "1", "--divergence", "chi_squared"], "barrier"),
            (&["--weights", "1", "--divergence", "kl"], "reverse_kl, forward_kl"),
            (&["--weights", "1", "--divergence", "alpha:2"], "between 0 and 1"),
        ] {
            let error = parse(extra).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
