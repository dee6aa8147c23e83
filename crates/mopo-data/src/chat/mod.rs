//! Chat templates of models on Hugging Face: Jinja texts that turn messages into the text of a
//! model's training. Not the templates of a run's own prompts, which are in `template`.

mod bounds;
mod conversation;
mod engine;
mod json;
mod methods;
mod rewrite;
mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind};

use crate::guarded::guarded;
use crate::{Error, Message, Result};
use bounds::Bounds;
pub use conversation::Segment;
use engine::{NOW, Raised, Written, environment, parse_time};

/// Bytes of a template; published ones are far shorter.
const MAX_TEMPLATE: usize = 256 << 10;
/// Stack of the thread that compiles: a template's parts are inside each other, and the library
/// recurses into them.
const COMPILER_STACK: usize = 64 << 20;
/// The template's name in the engine.
const NAME: &str = "template";

const FIX: &str = "correct the template, or use one that transformers can render";
const OTHER: &str = "change the messages as the template asks, or use another template";
const SHORTEN: &str = "shorten the conversation, or use another template";

/// A model's own chat template, rendered as transformers does with `apply_chat_template`.
///
/// What a template can do is limited: it has a budget of steps, its text and what it writes have a
/// largest size, and values cannot grow without bounds. It reads no files and runs no code. Of
/// Jinja it lacks `include`, `import`, `extends`, `block`, `call` and recursive loops, and the
/// filters `batch`, `format`, `groupby`, `pprint`, `slice` and `sum`.
///
/// ```
/// use mopo_data::{JinjaTemplate, Message};
///
/// let template = JinjaTemplate::new(
///     "my.jinja",
///     "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}{% endfor %}\
///      {% if add_generation_prompt %}<assistant>{% endif %}",
/// )?
/// .with_variable("eos_token", "</s>");
/// let mut messages = vec![Message { role: "user".into(), content: " Tea? ".into() }];
/// assert_eq!(template.render(&messages, true)?, "<user>Tea?</s><assistant>");
///
/// messages.push(Message { role: "assistant".into(), content: "Yes.".into() });
/// let segments = template.segments(&messages)?;
/// assert_eq!(segments[0].text, "<user>Tea?</s><assistant>");
/// assert_eq!((segments[1].text.as_str(), segments[1].is_response), ("Yes.</s>", true));
/// # Ok::<(), mopo_data::Error>(())
/// ```
#[derive(Clone)]
pub struct JinjaTemplate {
    engine: Arc<Environment<'static>>,
    what: String,
    variables: BTreeMap<String, Value>,
}

impl fmt::Debug for JinjaTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JinjaTemplate")
            .field("what", &self.what)
            .field("variables", &self.variables)
            .finish_non_exhaustive()
    }
}

impl JinjaTemplate {
    /// Compiles a template; `what` names it in errors: a file, or the key of a file's metadata.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] with the line: a syntax error, a statement that is not supported, or
    /// a text that is too long. [`Error::Thread`] if there is no memory for the compiler's stack.
    pub fn new(what: impl Into<String>, text: &str) -> Result<Self> {
        let what = what.into();
        let refused =
            |line, why| Error::ChatTemplate { what: what.clone(), line, why, remedy: FIX };
        if text.len() > MAX_TEMPLATE {
            let why = format!("it has {} bytes, more than {MAX_TEMPLATE}", text.len());
            return Err(refused(None, why));
        }
        // As Jinja does.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        let rewritten =
            rewrite::rewrite(&text).map_err(|found| refused(Some(line(found.at)), found.why))?;
        let compile = || {
            let mut engine = environment()?;
            engine.add_template_owned(NAME, rewritten)?;
            Ok::<_, minijinja::Error>(engine)
        };
        let compiled = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(COMPILER_STACK);
            let run = || guarded("minijinja", || Ok(compile()));
            // Not the template's fault: who does without a template that is refused must not do without this one.
            let thread = thread
                .spawn_scoped(scope, run)
                .map_err(|source| Error::Thread { what: what.clone(), source })?;
            let joined = thread.join();
            let ended = |_| Err("the thread that compiles it ended".into());
            Ok::<_, Error>(joined.unwrap_or_else(ended))
        });
        let engine = compiled?.map_err(|why| refused(None, why))?;
        let engine = engine.map_err(|error| refused(error.line(), words(&error)))?;
        Ok(Self { engine: Arc::new(engine), what: what.clone(), variables: BTreeMap::new() })
    }

    /// The template's name in errors.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// With a variable that the template can read: a special token such as `bos_token`, or an
    /// option such as Qwen3's `enable_thinking`.
    pub fn with_variable(mut self, name: &str, value: impl Into<TemplateValue>) -> Self {
        self.variables.insert(name.into(), value.into().0);
        self
    }

    /// With a fixed time, as `2024-07-26T12:00:00`: without it, a template that writes today's date
    /// renders other texts tomorrow.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if it is no time.
    pub fn with_time(self, time: &str) -> Result<Self> {
        match parse_time(time) {
            Some(_) => Ok(self.with_variable(NOW, time)),
            None => Err(Error::InvalidParameter {
                field: "time",
                value: time.into(),
                expected: "it must be a date and time such as 2024-07-26T12:00:00".into(),
            }),
        }
    }

    /// The text of a conversation; with `add_generation_prompt`, and what comes before a response
    /// to it.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] with the template's line: it refuses these messages, uses something
    /// that does not exist, or goes beyond the limits.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let n_bytes =
            messages.iter().map(|message| message.role.len() + message.content.len()).sum();
        let message = |message: &Message| {
            let content = Value::from(message.content.as_str());
            Value::from_pairs([("role", Value::from(message.role.as_str())), ("content", content)])
        };
        let own = [
            ("messages", messages.iter().map(message).collect()),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        let variables = self.variables.iter().map(|(name, value)| (name.clone(), value.clone()));
        let context = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let bounds = Bounds::of_conversation(messages.len(), n_bytes).variables();
        let context = Value::from_pairs(variables.chain(context).chain(bounds));
        let refused =
            |line, why, remedy| Error::ChatTemplate { what: self.what.clone(), line, why, remedy };

        let mut written = Written::default();
        let render = || {
            let template = self.engine.get_template(NAME)?;
            template.render_captured_to(context, &mut written).map(|_| ())
        };
        match guarded("minijinja", || Ok(render())) {
            Err(why) => Err(refused(None, why, FIX)),
            Ok(Err(error)) => Err(if written.is_full {
                let why = format!("it writes more than {} MiB", engine::MAX_OUTPUT >> 20);
                refused(error.line(), why, SHORTEN)
            } else if error.kind() == ErrorKind::OutOfFuel {
                let why = format!("it takes more than {} steps", engine::FUEL);
                refused(error.line(), why, SHORTEN)
            } else if std::error::Error::source(&error).is_some_and(|source| source.is::<Raised>())
            {
                let why = format!("it says: {}", error.detail().unwrap_or_default());
                refused(error.line(), why, OTHER)
            } else {
                refused(error.line(), words(&error), FIX)
            }),
            Ok(Ok(())) => String::from_utf8(written.bytes)
                .map_err(|_| refused(None, "it writes bytes that are not UTF-8".into(), FIX)),
        }
    }
}

/// The value of a variable: a text, a switch or a whole number.
#[derive(Debug, Clone)]
pub struct TemplateValue(Value);

macro_rules! template_values {
    ($($kind:ty),*) => {
        $(impl From<$kind> for TemplateValue {
            fn from(value: $kind) -> Self {
                Self(Value::from(value))
            }
        })*
    };
}
template_values!(&str, String, bool, i64);

/// The library's error without the place, which is told beside it.
fn words(error: &minijinja::Error) -> String {
    let kind = error.kind().to_string();
    let text = match error.detail() {
        Some(detail) => format!("{kind}: {detail}"),
        None => kind,
    };
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests;
