//! Exporting policies: one as a plain Hugging Face directory, or all of them in MOPO's own layout
//! (docs/formats.md). An export is written next to its place and exchanged with an existing one in
//! one call: it is whole or absent. One policy may also become a GGUF file.

mod gguf;

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use mopo_data::{ChatTemplate, PromptForm, Tokenizer};
use mopo_hub::{DirWriter, check_output_dir, write_json};
use mopo_lm::{
    CausalLm, Decoder, DecoderShape, HubGeneration, LoadOptions, OutputLayer, PolicyMeta,
    PolicyParams, WeightDtype, export_hub, load_policy, merge, read_policy_meta, save_adapter,
    save_policy,
};
use mopo_ops::FusedBackend;

use crate::conditioned::Conditioning;
use crate::sample::WITHOUT_POLICY;
use crate::tokens::{generation, load_run_tokenizer, load_tokenizer};
use crate::{Error, Result, RunConfig, RunDir};
pub use gguf::check_gguf_place;

/// Everything that an export may contain, and so all that replacing one may remove.
const OWN_FILES: [&str; 7] = [
    "base",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "policy",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// What to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportChoice {
    /// One policy, with its adapter merged into the base and its head as the output layer.
    Policy(usize),
    /// Only the base of the policies.
    Sft,
    /// Base, adapter and the heads of all policies.
    All,
}

/// Paths of a model with policies.
#[derive(Debug)]
pub struct ExportSource {
    /// The run, or an export of all policies, with the tokenizer.
    root: PathBuf,
    base: PathBuf,
    policy: PathBuf,
    objectives: Vec<String>,
    /// The run, if there is one.
    run: Option<(RunDir, RunConfig)>,
}

impl ExportSource {
    /// Finds the parts in a finished run, its `policy/`, or an export of all policies.
    ///
    /// # Errors
    /// There are no policies or no base model; a run's configuration was changed, or one of its
    /// files is not
    /// the recorded one.
    pub fn open(dir: &Path) -> Result<Self> {
        let (root, policy) = match dir.join("policy.json").exists() {
            // The parent of `policy` is "".
            true => {
                let real = dir.canonicalize().map_err(Error::io("reading", dir))?;
                (real.parent().unwrap_or(dir).to_path_buf(), dir.to_path_buf())
            }
            false => (dir.to_path_buf(), dir.join("policy")),
        };
        let run = match RunDir::is_run(&root) {
            true => {
                let (run, config, record) = RunDir::open(&root)?;
                run.check_finished()?;
                run.check_policies(&record)?;
                Some((run, config))
            }
            false => None,
        };
        if !policy.join("policy.json").exists() {
            let message = "no policies found (no policy/policy.json); pass a finished run, its policy/ \
                           directory, or a directory written by `mopo export --all`";
            return Err(refused(dir, message));
        }
        let base = ["warm_start", "base"].map(|name| root.join(name));
        let Some(base) = base.into_iter().find(|base| base.join("config.json").exists()) else {
            let message = "the base model of these policies is missing (no warm_start/ or base/)";
            return Err(refused(&root, message));
        };
        let objectives = read_policy_meta(&policy)?.objectives;
        Ok(Self { root, base, policy, objectives, run })
    }

    /// A policy by its objective or its index, or the model without any; without a name all
    /// policies.
    ///
    /// # Errors
    /// There is no policy of that name; the error lists the existing ones.
    pub fn choose(&self, name: Option<&str>) -> Result<ExportChoice> {
        let Some(name) = name else { return Ok(ExportChoice::All) };
        if WITHOUT_POLICY.contains(&name) {
            return Ok(ExportChoice::Sft);
        }
        let by_name = self.objectives.iter().position(|objective| objective == name);
        let by_index = || name.parse().ok().filter(|index| *index < self.objectives.len());
        by_name.or_else(by_index).map(ExportChoice::Policy).ok_or_else(|| {
            let message = format!(
                "unknown policy `{name}`; there are {} (0 to {}), and `{}` is the model without any",
                self.objectives.join(", "),
                self.objectives.len().saturating_sub(1),
                WITHOUT_POLICY.join("` or `")
            );
            refused(&self.root, message)
        })
    }

    /// The name of a choice in messages: "policy `helpful`".
    pub fn describe(&self, choice: ExportChoice) -> String {
        match choice {
            ExportChoice::Policy(index) => format!("policy `{}`", self.objectives[index]),
            ExportChoice::Sft => "the SFT model".into(),
            ExportChoice::All => format!("{} policies", self.objectives.len()),
        }
    }

    /// Writes an export to `out`, in `dtype` or in the base's own data type, which is returned.
    /// An existing export stays until the new one is complete.
    ///
    /// # Errors
    /// Those of [`check_export_place`]; a file of the source that is damaged or does not fit the
    /// others; a
    /// weight out of range of `dtype`; a file that cannot be written.
    pub fn export<B: FusedBackend>(
        &self,
        choice: ExportChoice,
        dtype: Option<WeightDtype>,
        out: &Path,
        force: bool,
        device: &B::Device,
    ) -> Result<WeightDtype> {
        check_export_place(out, force)?;
        if real(&self.root).starts_with(real(out)) {
            let message = "the export would replace its own source; choose another directory";
            return Err(refused(out, message));
        }
        let loaded = self.load::<B>(device)?;
        let dtype = dtype.unwrap_or_else(|| loaded.base.weight_dtype());
        let generation = generation(&loaded.tokenizer, self.generation()?);
        let conditioning = Conditioning::read(&self.policy)?;

        let writer = DirWriter::new(out)?;
        let dir = writer.path();
        let write = || -> Result<()> {
            match loaded.whole(choice)? {
                None => write_all(&loaded, dtype, &generation, conditioning.as_ref(), dir)?,
                Some((model, lm_head)) => export_hub(&model, lm_head, dtype, &generation, dir)?,
            }
            loaded.tokenizer.save(dir.join("tokenizer.json"))?;
            Ok(write_json(&dir.join("tokenizer_config.json"), &loaded.tokenizer_config())?)
        };
        // Errors name the place that was asked for, and not the hidden directory.
        write().map_err(|error| match error {
            Error::Hub(e) | Error::Lm(mopo_lm::Error::Hub(e)) => e.placed(dir, out).into(),
            other => other,
        })?;
        // Another process may have written there meanwhile.
        check_export_place(out, force)?;
        writer.place()?;
        Ok(dtype)
    }

    /// Reads everything that an export may need.
    fn load<B: FusedBackend>(&self, device: &B::Device) -> Result<Loaded<B>> {
        let (tokenizer, template) = self.tokenizer()?;
        let shape = DecoderShape::read(&self.base)?;
        tokenizer.check_fits(shape.vocab_size)?;
        let base = CausalLm::<B>::load(&self.base, self.load_options(), device)?.no_grad();
        let (params, meta) = load_policy::<B>(&self.policy, &base, device)?;
        Ok(Loaded { tokenizer, template, shape, base, params, meta })
    }

    /// The format of the base during the training of the policies.
    fn load_options(&self) -> LoadOptions {
        self.run
            .as_ref()
            .map_or_else(LoadOptions::default, |(_, config)| config.model.base.load_options())
    }

    /// The tokenizer, and the template that the policies were trained with, if known and not the
    /// model's own.
    fn tokenizer(&self) -> Result<(Tokenizer, Option<ChatTemplate>)> {
        if let Some((run, config)) = &self.run {
            return load_run_tokenizer(run, config);
        }
        let tokenizer = load_tokenizer(&self.root)?;
        let template = match tokenizer.form() {
            PromptForm::Template(template) => Some(template),
            PromptForm::Text | PromptForm::Raw | PromptForm::Model => None,
        };
        Ok((tokenizer, template))
    }

    /// The run's generation settings.
    fn generation(&self) -> Result<HubGeneration> {
        match &self.run {
            Some((_, config)) => Ok(config.evaluation.generation()),
            None => Ok(HubGeneration::read(&self.root)?.unwrap_or_default()),
        }
    }
}

/// A model without an adapter, and its output layer if that is not the model's own.
type Whole<'a, B> = (CausalLm<B>, Option<&'a OutputLayer<B>>);

/// The parts of a source.
struct Loaded<B: FusedBackend> {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    shape: DecoderShape,
    base: CausalLm<B>,
    params: PolicyParams<B>,
    meta: PolicyMeta,
}

impl<B: FusedBackend> Loaded<B> {
    /// One policy or the SFT model; `None` for all policies.
    fn whole(&self, choice: ExportChoice) -> Result<Option<Whole<'_, B>>> {
        let Self { base, params, .. } = self;
        Ok(match choice {
            ExportChoice::All => None,
            ExportChoice::Sft => Some(match base.own_adapter() {
                None => (base.clone(), None),
                Some((adapter, _)) => (merge(base, adapter)?, None),
            }),
            ExportChoice::Policy(index) => {
                Some((merge(base, params.adapter(index))?, Some(params.heads.get(index)?)))
            }
        })
    }

    /// `tokenizer_config.json`, which transformers' `AutoTokenizer` needs.
    fn tokenizer_config(&self) -> serde_json::Value {
        let mut json = self.tokenizer.settings();
        json["model_max_length"] = self.shape.max_position_embeddings.into();
        // A run that encoded control tokens as text must not be read as if it had the tokens.
        if let Some(template) = self.template.filter(|one| one.control_tokens().is_empty()) {
            json["chat_template"] = template.jinja().into();
        }
        json
    }
}

/// Base, adapter and heads.
fn write_all<B: FusedBackend>(
    loaded: &Loaded<B>,
    dtype: WeightDtype,
    generation: &HubGeneration,
    conditioning: Option<&Conditioning>,
    dir: &Path,
) -> Result<()> {
    let Loaded { base, params, meta, shape, .. } = loaded;
    export_hub(base, None, dtype, generation, dir.join("base"))?;
    if let Some((adapter, lora)) = base.own_adapter() {
        save_adapter(adapter, shape, lora, dir.join("base"))?;
    }
    save_policy(params, shape, meta.loras(), &meta.objectives, meta.mixing, dir.join("policy"))?;
    if let Some(conditioning) = conditioning {
        conditioning.write(&dir.join("policy"))?;
    }
    Ok(generation.write(dir)?)
}

/// Refuses to overwrite anything at `out` but an export, and that only with `force`.
///
/// # Errors
/// What exists there, with a remedy.
pub fn check_export_place(out: &Path, force: bool) -> Result<()> {
    if out.file_name().is_none() {
        return Err(refused(out, "an export needs a directory with a name"));
    }
    if let Some(owner) = owner(out) {
        let message = format!("it belongs to {}; choose a directory outside", owner.display());
        return Err(refused(out, message));
    }
    check_output_dir(out).or_else(|error| match out.is_symlink() && !out.exists() {
        // A link whose target is still to be made.
        true => Ok(()),
        false => Err(error),
    })?;
    if !out.exists() {
        return Ok(());
    }
    let mut names = vec![];
    for entry in fs::read_dir(out).map_err(Error::io("reading", out))? {
        let entry = entry.map_err(Error::io("reading", out))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if !names.is_empty() && !force {
        let message = "the directory is not empty; choose another one, or replace it with --force";
        return Err(refused(out, message));
    }
    match names.iter().find(|name| !OWN_FILES.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let message = format!(
                "`{name}` is not part of an export, and --force replaces nothing else; choose another \
                 directory with --out, or remove it yourself"
            );
            Err(refused(out, message))
        }
    }
}

/// The run, or the export of all policies, of which `out` is a part, or in a part of which it lies: the
/// base model of a run looks like an export, and must not be replaced by one.
fn owner(out: &Path) -> Option<PathBuf> {
    const PARTS: [&str; 6] = ["base", "checkpoints", "data", "pareto", "policy", "warm_start"];
    let out = real(out);
    out.ancestors().find_map(|place| {
        let folder = place.parent()?;
        let is_part = PARTS.iter().any(|part| place.file_name().is_some_and(|name| name == *part));
        let has_parts =
            ["run.json", "policy/policy.json"].iter().any(|file| folder.join(file).exists());
        (is_part && has_parts).then(|| folder.to_path_buf())
    })
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let there = path.ancestors().find_map(|place| Some((place, place.canonicalize().ok()?)));
    there.map_or_else(
        || path.clone(),
        |(place, real)| match path.strip_prefix(place) {
            Ok(below) if !below.as_os_str().is_empty() => real.join(below),
            _ => real,
        },
    )
}

fn refused(path: &Path, message: impl Into<String>) -> Error {
    Error::Export { path: path.into(), message: message.into() }
}
