//! `mopo serve`: answers over HTTP with a run or a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use mopo_ops::FusedBackend;
use mopo_serve::{
    Extras, FrontSource, RunScorer, ServeOptions, SessionEngine, Stop, TextScorer, serve,
};

use super::generate;
use super::models::resolve;
use crate::args::ServeArgs;
use crate::device::{self, Job, dispatch};
use crate::output::{flush, outln};

pub(crate) fn run(args: ServeArgs) -> Result<()> {
    device::check(args.device)?;
    device::set_matmul_precision(args.device, args.model.precision.matmul, device::PRECISION_FLAG)?;
    let given = args.model.run.as_ref().or(args.model.model.as_ref());
    let options = args.options(name(given.expect("the command line requires one")));
    // Before a model is loaded.
    options.check()?;
    if !options.log_requests {
        hide_texts_of_panics();
    }
    dispatch(args.device, Serve { args, options })
}

/// The last part of a path or of a model's name on Hugging Face.
fn name(path: &Path) -> String {
    let whole: PathBuf = path.canonicalize().unwrap_or_else(|_| path.into());
    whole.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// A panic's message may quote the text that it was about.
fn hide_texts_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "unknown place".into(), ToString::to_string);
        tracing::error!("panic at {place}; --log-requests shows its message");
    }));
}

struct Serve {
    args: ServeArgs,
    options: ServeOptions,
}

impl Job for Serve {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let Self { args, options } = self;
        let path = super::models::given(&args.model.run, &args.model.model, &args.model.revision)?;
        let sampler = generate::open::<B>(&args.model, &device)?;
        let front = FrontSource::of(&path, sampler.policies());
        let scorer = RunScorer::open::<B>(&path, &device, &resolve)?
            .map(|scorer| Arc::new(scorer) as Arc<dyn TextScorer>);
        let limits = args.limits.engine();
        let mut engine = SessionEngine::new(&sampler, limits, options.max_new_tokens)?;
        let (extras, model) = (Extras { scorer, front }, options.name.clone());
        serve(&mut engine, extras, options, &Stop::default(), true, |address| {
            outln!("serving {model} at http://{address}/ (Ctrl-C ends)");
            flush();
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use mopo_lm::EngineConfig;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(extra: &[&str]) -> Result<ServeArgs, String> {
        let cli = Cli::try_parse_from(["mopo", "serve", "run"].iter().chain(extra));
        match cli.map_err(|e| e.to_string())?.command {
            Command::Serve(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_the_librarys() {
        let options = parse(&[]).unwrap().options("run".into());
        let library = ServeOptions::default();
        assert_eq!((options.host, options.port), (library.host, library.port));
        assert_eq!(parse(&[]).unwrap().limits.engine(), EngineConfig::default());
        assert_eq!(
            (options.queue_timeout, options.request_timeout, options.shutdown_timeout),
            (library.queue_timeout, library.request_timeout, library.shutdown_timeout)
        );
        assert_eq!(
            (options.queue, options.max_connections),
            (library.queue, library.max_connections)
        );
    }

    #[test]
    fn flags_are_read_and_wrong_ones_named() {
        let args =
            parse(&["--host", "localhost", "--queue-timeout", "0.5", "--name", "x"]).unwrap();
        let options = args.options("run".into());
        assert_eq!((&*options.name, options.queue_timeout), ("x", Duration::from_millis(500)));
        for (flag, values) in [
            ("--host", &["example.org", "1.2.3"][..]),
            ("--port", &["65536", "x"]),
            ("--queue", &["0", "x"]),
            ("--max-rows", &["0", "x"]),
            ("--cache-bytes", &["0", "1GB"]),
            ("--prefill-tokens", &["0", "x"]),
            ("--request-timeout", &["0", "nan", "x"]),
        ] {
            for value in values {
                let error = parse(&[flag, value]).expect_err(value);
                assert!(error.contains(flag), "{flag} {value}: {error}");
            }
        }
        let open = parse(&["--host", "0.0.0.0", "--api-key", "k"]).unwrap();
        open.options("run".into()).check().unwrap();
    }

    #[test]
    fn a_model_is_named_after_its_directory_or_file() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("demo-1");
        std::fs::create_dir(&run).unwrap();
        assert_eq!(name(&run.join(".")), "demo-1");
        assert_eq!(name(Path::new("org/some-model")), "some-model");
    }
}
