//! Answers to a file of prompts, as rows of a job: whole or in shards, resumable.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use mopo_data::{Message, Prompt as FilePrompt, file_sha256, read_prompts};
use mopo_hub::{RowJob, SavedRows, ShardIndex};
use mopo_lm::{Decoding, GenerationConfig};
use mopo_ops::FusedBackend;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::identity::model_sha256;
use crate::sample::{Prompt, Question, Sampler, SamplingOverrides, TextEvent};
use crate::{Error, Progress, Result, Silent};

/// Prompts that are answered together: as many as the engine runs at a time.
pub(crate) const UNIT: usize = 32;

/// What is asked of the prompts of a file.
#[derive(Debug, Clone)]
pub struct PromptJob {
    /// The prompts, in order.
    pub prompts: Vec<FilePrompt>,
    /// The distribution of the answers.
    pub decoding: Decoding,
    /// A system message before each prompt.
    pub system: Option<String>,
    /// Settings, instead of the model's own.
    pub overrides: SamplingOverrides,
}

/// A line of the result.
#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    source: &'a str,
    prompt: &'a str,
    response: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
}

/// Answers to the prompts of a file as a job. `options` are what else the answers depend on: the policy, the settings of
/// sampling, the device.
///
/// # Errors
/// Those of [`read_prompts`] and [`model_sha256`]; a file without prompts.
pub fn prompt_job(
    command: &'static str,
    file: &Path,
    model: &Path,
    options: Map<String, Value>,
    shard: Option<ShardIndex>,
    out: &Path,
) -> Result<(RowJob, Vec<FilePrompt>)> {
    let prompts = read_prompts(file)?;
    if prompts.is_empty() {
        return Err(Error::corrupt(
            file,
            "it has no prompts; write some with `mopo prepare … --prompts`",
        ));
    }
    let mut identity = Map::new();
    identity.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    identity.insert("prompts (their SHA-256)".into(), file_sha256(file)?.into());
    identity.insert("model (its SHA-256)".into(), model_sha256(model)?.into());
    identity.extend(options);
    let n_rows = prompts.len();
    Ok((RowJob { command, identity, n_rows, unit: UNIT, shard, out: out.into() }, prompts))
}

impl<B: FusedBackend> Sampler<B> {
    /// Answers the prompts of a job that are not saved yet, and saves the answers: lines with `id`, `source`, `prompt`
    /// and `response`, as `mopo score` reads them. An answer depends on its prompt and the seed, not on its place.
    ///
    /// # Errors
    /// Settings or head out of range; a prompt without tokens, or one that leaves no room for its answer, before any is
    /// answered.
    pub fn answer_rows(
        &self,
        rows: Range<usize>,
        saved: &mut SavedRows,
        asked: &PromptJob,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let typed = asked.prompts.iter().map(|prompt| self.prompt(&prompt.prompt));
        let typed = typed.collect::<Result<Vec<String>>>()?;
        // Those of all prompts of the file: the limit of a model's whole text leaves the longest prompt the least.
        let generation = self.generation(&asked.overrides, &typed)?;
        if asked.system.is_none() {
            self.check_prompts(asked.decoding.clone(), &typed[rows], &generation)?;
            self.cut_prompts(&typed)?.iter().for_each(|note| progress.note(note));
        }
        let mut compute = |rows: Range<usize>| {
            let mut lines = Vec::with_capacity(rows.len());
            let at_once = if self.answers_alone() { rows.len() } else { UNIT };
            let mut start = rows.start;
            while start < rows.end {
                let rows = start..rows.end.min(start + at_once);
                start = rows.end;
                let responses = match &asked.system {
                    None => {
                        let prompts = &typed[rows.clone()];
                        self.answer(asked.decoding.clone(), prompts, &generation, &mut Silent)?
                    }
                    Some(system) => self.replies(system, asked, rows.clone(), &generation)?,
                };
                for (prompt, response) in asked.prompts[rows].iter().zip(&responses) {
                    let FilePrompt { id, source, prompt, reference } = prompt;
                    let reference = reference.as_deref();
                    let answer = Answer { id, source, prompt, response, reference };
                    lines.push(serde_json::to_string(&answer).expect("texts"));
                }
            }
            Ok::<_, Error>(lines)
        };
        saved.fill(&mut compute, &mut |n| progress.advance(n as u64, ""))
    }

    /// Answers to prompts as the first messages of conversations with a system message.
    fn replies(
        &self,
        system: &str,
        asked: &PromptJob,
        rows: Range<usize>,
        generation: &GenerationConfig,
    ) -> Result<Vec<String>> {
        let mut session = self.session(self.limits(rows.len().min(UNIT)))?;
        let message = |role: &str, text: &str| Message { role: role.into(), content: text.into() };
        let overrides = SamplingOverrides {
            max_new_tokens: Some(generation.max_new_tokens),
            ..asked.overrides
        };
        let mut texts = vec![String::new(); rows.len()];
        let mut waiting = HashMap::new();
        for (i, prompt) in asked.prompts[rows].iter().enumerate() {
            let messages = vec![message("system", system), message("user", &prompt.prompt)];
            let question = Question {
                prompt: Prompt::Chat(messages),
                decoding: asked.decoding.clone(),
                overrides,
                stop: vec![],
                sample: 0,
                log_probs: None,
            };
            waiting.insert(session.ask(question)?.id, i);
        }
        while !waiting.is_empty() {
            for event in session.step() {
                match event {
                    TextEvent::Piece { id, text, .. } => {
                        if let Some(i) = waiting.get(&id) {
                            texts[*i] += &text;
                        }
                    }
                    TextEvent::End { id, .. } => drop(waiting.remove(&id)),
                    TextEvent::Failed { error, .. } => return Err(error),
                }
            }
        }
        Ok(texts)
    }
}
