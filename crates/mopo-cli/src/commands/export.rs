//! `mopo export`: one policy in the layout of Hugging Face, or all of them in MOPO's own
//! (docs/formats.md). Written to a temporary directory and renamed: whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::module::Module;
use mopo_data::{ChatTemplate, PromptForm, Tokenizer, write_atomically};
use mopo_lm::{
    HubGeneration, LoadOptions, Phi, PhiConfig, PolicyMeta, PolicyParams, WeightDtype, export_hub,
    load_phi, load_policy, merge, read_policy_meta, save_policy,
};
use mopo_ops::FusedBackend;
use mopo_train::{RunDir, load_run_tokenizer, load_tokenizer};

use crate::args::ExportArgs;
use crate::device::{self, Job, dispatch};

/// Everything an export may contain, and so all that `--force` may remove.
const OWN_FILES: [&str; 7] = [
    "base",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "policy",
    "tokenizer.json",
    "tokenizer_config.json",
];

pub(crate) fn run(args: ExportArgs) -> Result<()> {
    device::check(args.device)?;
    // Fail before any work.
    check_out(&args.out, args.force)?;
    dispatch(args.device, Export(args))
}

struct Export(ExportArgs);

impl Job for Export {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let args = self.0;
        let source =
            Source::open(&super::models::given(&args.source, &args.model, &args.revision)?)?;
        let choice = args.policy.as_ref().map(|name| source.choose(name)).transpose()?;
        let (tokenizer, template) = source.tokenizer()?;
        let config = PhiConfig::from_file(source.base.join("config.json"))?;
        tokenizer.check_fits(config.vocab_size)?;
        let base: Phi<B> = load_phi(&source.base, &config, source.load_options()?, &device)?;
        let base = base.no_grad();
        let (params, meta) = load_policy::<B>(&source.policy, &base, &device)?;
        let dtype = args.dtype.unwrap_or_else(|| base.weight_dtype());

        let generation = mopo_train::generation(&tokenizer, source.generation()?);
        let tokens = tokenizer_config(&tokenizer, template, &config);
        let what = match choice {
            Some(Choice::Policy(index)) => format!("policy `{}`", meta.objectives[index]),
            Some(Choice::WarmStart) => "the SFT model".into(),
            None => format!("{} policies", meta.objectives.len()),
        };
        let write = |dir: &Path| -> Result<()> {
            match choice {
                Some(choice) => write_one(choice, &base, &params, dtype, &generation, dir)?,
                None => write_all(&base, &params, &meta, dtype, &generation, dir)?,
            }
            tokenizer.save(dir.join("tokenizer.json"))?;
            write_atomically(&dir.join("tokenizer_config.json"), tokens.as_bytes())?;
            Ok(())
        };
        into_place(&args.out, args.force, write)?;
        println!("{what} in {} ({})", args.out.display(), dtype.hub_name());
        Ok(())
    }
}

/// Paths of a model with policies.
struct Source {
    /// The run, or an export of all policies: holds the tokenizer.
    root: PathBuf,
    base: PathBuf,
    policy: PathBuf,
    objectives: Vec<String>,
}

#[derive(Clone, Copy)]
enum Choice {
    Policy(usize),
    WarmStart,
}

impl Source {
    fn open(dir: &Path) -> Result<Self> {
        let (root, policy) = match dir.join("policy.json").exists() {
            // `policy` alone has the parent "".
            true => (dir.canonicalize()?.parent().unwrap_or(dir).to_path_buf(), dir.to_path_buf()),
            false => (dir.to_path_buf(), dir.join("policy")),
        };
        if !policy.join("policy.json").exists() {
            bail!(
                "{}: no policies found (no policy/policy.json); pass a finished run, its policy/ \
                 directory, or a directory written by `mopo export --all`",
                dir.display()
            );
        }
        let base = ["warm_start", "base"].map(|name| root.join(name));
        let Some(base) = base.into_iter().find(|base| base.join("config.json").exists()) else {
            bail!(
                "{}: the base model of these policies is missing (no warm_start/ or base/)",
                root.display()
            );
        };
        if root.join("config.toml").exists() {
            let (run, _, record) = RunDir::open(&root)?;
            run.check_policies(&record)?;
        }
        let objectives = read_policy_meta(&policy)?.objectives;
        Ok(Self { root, base, policy, objectives })
    }

    fn choose(&self, name: &str) -> Result<Choice> {
        if ["sft", "warm-start"].contains(&name) {
            return Ok(Choice::WarmStart);
        }
        let by_name = self.objectives.iter().position(|objective| objective == name);
        let by_index = || name.parse().ok().filter(|index| *index < self.objectives.len());
        by_name.or_else(by_index).map(Choice::Policy).with_context(|| {
            format!(
                "--policy {name}: unknown policy; there are {} (0 to {}) and `sft`",
                self.objectives.join(", "),
                self.objectives.len() - 1
            )
        })
    }

    /// How the base was loaded when the policies were trained.
    fn load_options(&self) -> Result<LoadOptions> {
        if self.root.join("config.toml").exists() {
            let (_, config, _) = RunDir::open(&self.root)?;
            return Ok(config.model.base.load_options());
        }
        Ok(LoadOptions::default())
    }

    /// The tokenizer, and the template that the policies were trained with, if known.
    fn tokenizer(&self) -> Result<(Tokenizer, Option<ChatTemplate>)> {
        if self.root.join("config.toml").exists() {
            let (run, config, _) = RunDir::open(&self.root)?;
            let (tokenizer, template) = load_run_tokenizer(&run, &config)?;
            return Ok((tokenizer, Some(template)));
        }
        let tokenizer = load_tokenizer(&self.root)?;
        let template = match tokenizer.form() {
            PromptForm::Template(template) => Some(template),
            PromptForm::Text | PromptForm::Raw => None,
        };
        Ok((tokenizer, template))
    }

    /// Generation settings of the run.
    fn generation(&self) -> Result<HubGeneration> {
        if self.root.join("config.toml").exists() {
            let (_, config, _) = RunDir::open(&self.root)?;
            return Ok(config.evaluation.generation());
        }
        Ok(HubGeneration::read(&self.root)?.unwrap_or_default())
    }
}

/// One policy: the adapter merged, its head as the output layer.
fn write_one<B: FusedBackend>(
    choice: Choice,
    base: &Phi<B>,
    params: &PolicyParams<B>,
    dtype: WeightDtype,
    generation: &HubGeneration,
    dir: &Path,
) -> Result<()> {
    let written = match choice {
        Choice::WarmStart => export_hub(base, &base.lm_head, dtype, generation, dir),
        Choice::Policy(index) => {
            let merged = merge(base, &params.adapter)?;
            export_hub(&merged, params.heads.get(index)?, dtype, generation, dir)
        }
    };
    Ok(written?)
}

/// Base, adapter and heads.
fn write_all<B: FusedBackend>(
    base: &Phi<B>,
    params: &PolicyParams<B>,
    meta: &PolicyMeta,
    dtype: WeightDtype,
    generation: &HubGeneration,
    dir: &Path,
) -> Result<()> {
    export_hub(base, &base.lm_head, dtype, generation, dir.join("base"))?;
    save_policy(params, &meta.lora, &meta.objectives, dir.join("policy"))?;
    Ok(generation.write(dir)?)
}

/// `tokenizer_config.json`, which transformers' `AutoTokenizer` needs.
fn tokenizer_config(
    tokenizer: &Tokenizer,
    template: Option<ChatTemplate>,
    config: &PhiConfig,
) -> String {
    let mut json = tokenizer.settings();
    json["model_max_length"] = config.max_position_embeddings.into();
    // An old run that wrote control tokens as plain text must not be read as if it had them.
    if let Some(template) = template.filter(|template| template.control_tokens().is_empty()) {
        json["chat_template"] = template.jinja().into();
    }
    format!("{json:#}\n")
}

/// Refuses to overwrite anything but an export, and that only with `--force`.
fn check_out(out: &Path, force: bool) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(out)
        .with_context(|| format!("--out {}: exists and is not a directory", out.display()))?;
    let mut names = vec![];
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if !names.is_empty() && !force {
        bail!(
            "--out {}: the directory is not empty; choose another one, or replace it with --force",
            out.display()
        );
    }
    if let Some(name) = names.iter().find(|name| !OWN_FILES.contains(&name.as_str())) {
        bail!(
            "--out {} --force: `{name}` is not part of an export; choose another directory, or remove \
             it yourself",
            out.display()
        );
    }
    Ok(())
}

/// Lets `write` fill a hidden directory beside `out` and renames it into place.
fn into_place(out: &Path, force: bool, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = out
        .file_name()
        .with_context(|| format!("--out {}: not a directory name", out.display()))?;
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let io = |what: &str| format!("cannot {what} {}", out.display());
    fs::create_dir_all(parent).with_context(|| io("create the parent of"))?;
    let hidden = |kind: &str| {
        parent.join(format!(".{}.{kind}-{}", name.to_string_lossy(), std::process::id()))
    };
    let (new, old) = (hidden("new"), hidden("old"));
    fs::create_dir(&new).with_context(|| io("create a directory beside"))?;
    let written = write(&new).and_then(|()| {
        // Nor overwrite what another process wrote meanwhile.
        check_out(out, force)?;
        if out.exists() {
            fs::rename(out, &old).with_context(|| io("move away"))?;
        }
        fs::rename(&new, out).with_context(|| io("move the export to"))?;
        fs::File::open(parent).and_then(|dir| dir.sync_all()).with_context(|| io("flush"))
    });
    if written.is_err() {
        if old.exists() && !out.exists() {
            let _ = fs::rename(&old, out);
        }
        let _ = fs::remove_dir_all(&new);
        return written;
    }
    if old.exists() {
        fs::remove_dir_all(&old).with_context(|| io("remove the old export of"))?;
    }
    Ok(())
}
