//! `mopo generate`: answers prompts with a policy of a run, a mixture of all, or a plain model.

use std::ops::ControlFlow;

use anyhow::Result;
use mopo_core::divergence::Divergence;
use mopo_data::Message;
use mopo_lm::Decoding;
use mopo_ops::FusedBackend;
use mopo_train::{Sampler, Silent};

use crate::args::{DecodingArgs, GenerateArgs, ModelArgs, Targets, Weights};
use crate::device::{self, Job, dispatch};
use crate::output::outln;

pub(crate) fn run(args: GenerateArgs) -> Result<()> {
    device::check(args.device)?;
    dispatch(args.device, Generate(args))
}

struct Generate(GenerateArgs);

impl Job for Generate {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let args = self.0;
        let mut sampler = open::<B>(&args.model, &device)?;
        if let Some(Targets(targets)) = &args.targets {
            sampler = sampler.aimed_at(targets)?;
        }
        let decoding = decoding(&sampler, &args.decoding)?;
        if let Some(system) = &args.system {
            return with_system(&sampler, system, &args, decoding);
        }
        let prompts =
            args.prompt.iter().map(|typed| sampler.prompt(typed)).collect::<Result<Vec<_>, _>>()?;
        let generation = sampler.generation(&args.sampling.overrides(), &prompts)?;
        let responses = sampler.answer(&decoding, &prompts, &generation, &mut Silent)?;
        for (prompt, response) in args.prompt.iter().zip(responses) {
            outln!("{}\n→{response}\n", prompt.trim());
        }
        Ok(())
    }
}

/// Answers each prompt as the first message of a conversation with a system message.
fn with_system<B: FusedBackend>(
    sampler: &Sampler<B>,
    system: &str,
    args: &GenerateArgs,
    decoding: Decoding,
) -> Result<()> {
    let mut session = sampler.session(sampler.limits(1))?;
    let message = |role: &str, text: &str| Message { role: role.into(), content: text.into() };
    for prompt in &args.prompt {
        let messages = [message("system", system), message("user", prompt)];
        let overrides = args.sampling.overrides();
        let go_on = &mut |_: &str| ControlFlow::Continue(());
        let reply = session.reply(&decoding, &messages, &overrides, go_on)?;
        outln!("{}\n→ {}\n", prompt.trim(), reply.text);
    }
    Ok(())
}

/// Opens a model, with warnings about what of it is ignored.
pub(super) fn open<B: FusedBackend>(args: &ModelArgs, device: &B::Device) -> Result<Sampler<B>> {
    let dir = super::models::given(&args.run, &args.model, &args.revision)?;
    let sampler = Sampler::<B>::open(&dir, device)?;
    let ignored = sampler.ignored_settings();
    if !ignored.is_empty() {
        tracing::warn!(
            "{}: {} is not supported and ignored; responses may differ from the publisher's",
            dir.join("generation_config.json").display(),
            ignored.join(", ")
        );
    }
    if sampler.has_unknown_template() {
        tracing::warn!(
            "{}: the chat template of its tokenizer is not supported, so prompts are used as they \
             are; write them in the model's own form",
            dir.display()
        );
    }
    Ok(sampler)
}

/// The distribution that the flags ask for.
pub(super) fn decoding<B: FusedBackend>(
    sampler: &Sampler<B>,
    args: &DecodingArgs,
) -> Result<Decoding> {
    let weights = match &args.weights {
        Some(Weights(given)) => Some(sampler.weights(given)?),
        None => None,
    };
    let head = sampler.head(args.policy.as_deref(), weights.as_deref())?;
    Ok(sampler.decoding(head, args.divergence)?)
}

/// Parses `--divergence`, so that bad values fail before a model is loaded.
pub(crate) fn mixable(name: &str) -> mopo_core::Result<Divergence> {
    let divergence: Divergence = name.parse()?;
    divergence.check_mixable().map(|()| divergence)
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
        assert_eq!(parse(&["--weights", "0.5,0.5"]).unwrap().decoding.divergence, None);
        for divergence in Divergence::ALL.into_iter().filter(Divergence::has_barrier) {
            let name = divergence.to_string();
            let args = parse(&["--weights", "0.5,0.5", "--divergence", &name]).unwrap();
            assert_eq!(args.decoding.divergence, Some(divergence));
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_before_a_model_is_loaded() {
        for (flag, values) in [
            ("--temperature", &["-1", "nan", "inf", "1e30"][..]),
            ("--top-p", &["0", "-1", "7", "nan"]),
            ("--min-p", &["-1", "1.1", "nan"]),
            ("--repetition-penalty", &["0", "-1", "inf"]),
            ("--presence-penalty", &["nan", "inf", "x"]),
            ("--seed", &["-1", "x", "1.5", "9223372036854775808"]),
            ("--top-k", &["-1", "x"]),
            ("--max-new-tokens", &["0", "-1", "1e3"]),
        ] {
            for value in values {
                let error = parse(&[flag, value]).expect_err(value);
                assert!(error.contains(flag), "{flag} {value}: {error}");
                if ["--temperature", "--seed"].contains(&flag) {
                    let cli = Cli::try_parse_from(["mopo", "pareto", "run", flag, value]);
                    assert!(cli.unwrap_err().to_string().contains(flag), "{flag} {value}");
                }
            }
        }
        assert!(Cli::try_parse_from(["mopo", "pareto", "run", "--n-prompts", "0"]).is_err());
        assert_eq!(parse(&["--temperature", "0"]).unwrap().sampling.temperature, Some(0.0));
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
