//! `mopo generate`: answers prompts with a policy of a run, a mixture of all, or a plain model.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mopo_core::divergence::Divergence;
use mopo_data::{Message, Prompt};
use mopo_hub::{RowJob, ShardIndex, check_output_file, counted, write_atomically_with};
use mopo_lm::Decoding;
use mopo_ops::FusedBackend;
use mopo_train::{Progress as _, PromptJob, Sampler, Silent, Unit, prompt_job};
use serde_json::{Map, Value, json};

use super::shards::{kind_in, locked, say_done, say_written, shard_at};
use crate::args::{DecodingArgs, GenerateArgs, ModelArgs, ShardArgs, Targets, Weights};
use crate::device::{self, Job, dispatch};
use crate::output::{errln, outln};
use crate::progress::Bars;

pub(crate) fn run(mut args: GenerateArgs) -> Result<()> {
    device::check(args.device)?;
    device::set_matmul_precision(args.device, args.model.precision.matmul, device::PRECISION_FLAG)?;
    match (&args.prompts, &args.out) {
        (Some(prompts), Some(out)) => {
            let (shard, out) = shard_at(args.shards.shard, out)?;
            let merged = args.shards.merge.iter().flatten();
            check_output_file(&out, merged.chain([prompts]).map(PathBuf::as_path))?;
            args.out = Some(out);
            generate_file(args, shard)
        }
        _ => {
            let ShardArgs { shard, merge } = &args.shards;
            ensure!(
                shard.is_none() && merge.is_none(),
                "--shard and --merge divide a file of prompts: give --prompts and --out"
            );
            ensure!(
                args.out.is_none() && !args.force,
                "--out and --force are of a file of prompts: give --prompts FILE, or leave them out and redirect the output"
            );
            dispatch(args.device, Generate(args))
        }
    }
}

/// Answers a file of prompts, whole or a shard of it, or puts shards together.
fn generate_file(args: GenerateArgs, shard: Option<ShardIndex>) -> Result<()> {
    let GenerateArgs { model, prompts, out, .. } = &args;
    let (file, out) = (prompts.as_ref().expect("asked for"), out.as_ref().expect("asked for"));
    let dir = super::models::given(&model.run, &model.model, &model.revision)?;
    let (job, prompts) = prompt_job("mopo generate", file, &dir, options(&args), shard, out)?;
    if let Some(files) = &args.shards.merge {
        check_free(&args, out)?;
        let set = job.merge(files)?;
        write_lines(&job, |each| set.for_each(each))?;
        outln!("wrote {} ({})", out.display(), counted(job.n_rows, "answer"));
        return Ok(());
    }
    match shard {
        Some(_) if !args.force && job.shard_is_done()? => {
            say_done(out);
            return Ok(());
        }
        None => check_free(&args, out)?,
        Some(_) => {}
    }
    let _lock = locked(&job)?;
    dispatch(args.device, GenerateRows { args, job, prompts })
}

/// Refuses to replace a result that nobody said to.
fn check_free(args: &GenerateArgs, out: &Path) -> Result<()> {
    ensure!(args.force || !out.exists(), "{} exists; replace it with --force", out.display());
    Ok(())
}

/// What answers depend on besides prompts and model.
fn options(args: &GenerateArgs) -> Map<String, Value> {
    let DecodingArgs { policy, weights, divergence } = &args.decoding;
    let mut options = Map::new();
    for (key, value) in [
        ("device", json!(kind_in(args.device, args.model.precision.matmul))),
        ("policy", json!(policy)),
        ("weights", json!(weights.as_ref().map(|Weights(weights)| weights))),
        ("divergence", json!(divergence.map(|divergence| divergence.to_string()))),
        ("targets", json!(args.targets.as_ref().map(|Targets(targets)| targets))),
        ("system", json!(args.system)),
        ("sampling", json!(args.sampling.overrides())),
    ] {
        options.insert(key.into(), value);
    }
    // Not null without it: answers from before there was a choice are of the same job.
    if let Some(base) = args.model.base {
        options.insert("base".into(), json!(base.name()));
    }
    options
}

/// Writes the lines of all rows to the job's result, whole or not at all.
fn write_lines(
    job: &RowJob,
    lines: impl FnOnce(&mut dyn FnMut(&str) -> mopo_hub::Result<()>) -> mopo_hub::Result<()>,
) -> Result<()> {
    // Errors of the lines are kept apart from those of the file.
    let mut wrong = None;
    let written = write_atomically_with(&job.out, |file| {
        let mut full = None;
        let given = lines(&mut |line| {
            let written = file.write_all(line.as_bytes()).and_then(|()| file.write_all(b"\n"));
            written.map_err(|source| {
                full = Some(source);
                mopo_hub::Error::Io {
                    action: "write",
                    path: job.out.clone(),
                    source: std::io::ErrorKind::Other.into(),
                }
            })
        });
        match (given, full) {
            (_, Some(source)) => Err(source),
            (Err(error), None) => {
                wrong = Some(error);
                Err(std::io::Error::other("its lines"))
            }
            (Ok(()), None) => Ok(()),
        }
    });
    match wrong {
        Some(error) => Err(error.into()),
        None => Ok(written?),
    }
}

/// The prompts of a file, or of a shard of it.
struct GenerateRows {
    args: GenerateArgs,
    job: RowJob,
    prompts: Vec<Prompt>,
}

impl Job for GenerateRows {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let Self { args, job, prompts } = self;
        let mut saved = job.open()?;
        let (done, rows) = (saved.n_done(), job.rows());
        // Where nothing is left to do, no model is needed.
        if done < rows.len() {
            let (sampler, decoding) = chosen::<B>(&args, &device)?;
            let asked = PromptJob {
                prompts,
                decoding,
                system: args.system.clone(),
                overrides: args.sampling.overrides(),
            };
            let mut bars = Bars::new();
            if done > 0 {
                bars.note(&format!("resuming: {done} of {} answers are already there", rows.len()));
            }
            bars.begin("generate", done as u64, rows.len() as u64, Unit::Steps);
            sampler.answer_rows(rows, &mut saved, &asked, &mut bars).with_context(|| {
                format!("finished answers are kept in {}", job.progress_dir().display())
            })?;
            bars.end("");
        }
        match job.shard {
            Some(shard) => {
                job.write_shard(&Value::Null, || saved.lines())?;
                say_written(&job, shard, "answers");
            }
            None => {
                write_lines(&job, |each| saved.lines().try_for_each(|line| each(&line?)))?;
                outln!("wrote {} ({})", job.out.display(), counted(job.n_rows, "answer"));
            }
        }
        Ok(job.remove_saved()?)
    }
}

struct Generate(GenerateArgs);

impl Job for Generate {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let args = self.0;
        let (sampler, decoding) = chosen::<B>(&args, &device)?;
        if let Some(system) = &args.system {
            return with_system(&sampler, system, &args, decoding);
        }
        let prompts =
            args.prompt.iter().map(|typed| sampler.prompt(typed)).collect::<Result<Vec<_>, _>>()?;
        let generation = sampler.generation(&args.sampling.overrides(), &prompts)?;
        sampler.cut_prompts(&prompts)?.iter().for_each(|note| errln!("{note}"));
        let responses = sampler.answer(&decoding, &prompts, &generation, &mut Silent)?;
        for (prompt, response) in args.prompt.iter().zip(responses) {
            outln!("{}\n→{response}\n", prompt.trim());
        }
        Ok(())
    }
}

/// Opens the model with the policy that the flags choose.
fn chosen<B: FusedBackend>(
    args: &GenerateArgs,
    device: &B::Device,
) -> Result<(Sampler<B>, Decoding)> {
    let mut sampler = open::<B>(&args.model, device)?;
    if let Some(Targets(targets)) = &args.targets {
        sampler = sampler.aimed_at(targets)?;
    }
    let decoding = decoding(&sampler, &args.decoding)?;
    Ok((sampler, decoding))
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
    let sampler = Sampler::<B>::open_in(&dir, args.base, device)?;
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
