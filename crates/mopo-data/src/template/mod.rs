//! Chat templates: how messages become a prompt, how a response follows it, where an answer ends,
//! and which template a prompt has. All templates are defined here.

mod note;
mod turns;

use serde::{Deserialize, Serialize};

pub use note::{note_messages, with_note};
pub use turns::cut_at_turn;
use turns::settled;
pub(crate) use turns::{Piece, chatml_pieces, messages_of, split_dialogue};

/// One turn of a dialogue.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// `system`, `user` or `assistant`; ChatML accepts any role.
    pub role: String,
    /// Verbatim.
    pub content: String,
}

/// The text around turns. A model should be prompted with the template of its training.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum ChatTemplate {
    /// HH-RLHF's: `\n\nHuman: …\n\nAssistant:` and a response that starts with a space. The text of
    /// a system message comes first, unchanged.
    Dialogue,
    /// `<|im_start|>role\n…<|im_end|>\n` for each turn, then `<|im_start|>assistant\n`; the
    /// response unchanged.
    Chatml,
    /// The user's single message and the response unchanged, with nothing between them.
    Plain,
}

/// Begins a turn of the user in HH-RLHF's template.
pub(crate) const HUMAN: &str = "\n\nHuman:";
/// Begins a turn of the assistant.
pub(crate) const ASSISTANT: &str = "\n\nAssistant:";
/// Begins a turn in ChatML.
const IM_START: &str = "<|im_start|>";
/// Ends a turn.
const IM_END: &str = "<|im_end|>";
/// The end of a prompt in ChatML.
const CHATML_ANSWER: &str = "<|im_start|>assistant\n";
/// Between two turns of ChatML.
const CHATML_BETWEEN: &str = "<|im_end|>\n<|im_start|>";

/// The templates as Jinja, for transformers' `apply_chat_template`.
const JINJA: [(ChatTemplate, &str); 3] = [
    (
        ChatTemplate::Dialogue,
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ '\\n\\nHuman: ' + \
         message['content'] }}{% elif message['role'] == 'assistant' %}{{ '\\n\\nAssistant: ' + \
         message['content'] }}{% else %}{{ message['content'] }}{% endif %}{% endfor %}{% if \
         add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}",
    ),
    (
        ChatTemplate::Chatml,
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + \
         message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ \
         '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    (ChatTemplate::Plain, "{% for message in messages %}{{ message['content'] }}{% endfor %}"),
];

impl ChatTemplate {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dialogue => "dialogue",
            Self::Chatml => "chatml",
            Self::Plain => "plain",
        }
    }

    /// The template as Jinja, the form of `chat_template` in a `tokenizer_config.json`.
    pub fn jinja(self) -> &'static str {
        JINJA.iter().find(|(template, _)| *template == self).expect("every template is listed").1
    }

    /// The template with this [`jinja`](Self::jinja); others are [`JinjaTemplate`](crate::JinjaTemplate)s.
    pub fn from_jinja(text: &str) -> Option<Self> {
        // Jinja ignores one line break at the end, which editors put there.
        let text = text.strip_suffix('\n').unwrap_or(text);
        JINJA.iter().find(|(_, jinja)| *jinja == text).map(|(template, _)| *template)
    }

    /// The template of most of these prompts.
    pub fn of_prompts<T: AsRef<str>>(prompts: impl IntoIterator<Item = T>) -> Self {
        let (mut n, mut dialogue, mut chatml) = (0, 0, 0);
        for prompt in prompts {
            let prompt = prompt.as_ref();
            n += 1;
            dialogue += usize::from(Self::Dialogue.is_form_of(prompt));
            chatml += usize::from(Self::Chatml.is_form_of(prompt));
        }
        match n {
            _ if 2 * chatml > n => Self::Chatml,
            _ if 2 * dialogue > n => Self::Dialogue,
            _ => Self::Plain,
        }
    }

    /// Whether a text already has this template, so that it is a prompt and not a question.
    pub fn is_form_of(self, text: &str) -> bool {
        match self {
            Self::Dialogue => text.ends_with(ASSISTANT),
            Self::Chatml => text.starts_with(IM_START) && text.ends_with(CHATML_ANSWER),
            Self::Plain => true,
        }
    }

    /// The token that ends a turn, if the template has one.
    pub fn end_of_turn(self) -> Option<&'static str> {
        match self {
            Self::Chatml => Some(IM_END),
            Self::Dialogue | Self::Plain => None,
        }
    }

    /// Texts that are single tokens if the tokenizer has them.
    pub fn control_tokens(self) -> &'static [&'static str] {
        match self {
            Self::Chatml => &[IM_START, IM_END],
            Self::Dialogue | Self::Plain => &[],
        }
    }

    /// The prompt that asks for an answer to `messages`.
    ///
    /// # Errors
    /// Why there is none: no messages, one without text, the assistant's turn at the end, a role
    /// that the template does not have, or a text that contains the border between two turns.
    pub fn prompt(self, messages: &[Message]) -> Result<String, String> {
        match messages.last() {
            None => return Err("the prompt has no message".into()),
            Some(last) if last.role == "assistant" || last.role == "system" => {
                return Err(format!(
                    "the prompt ends with a message of the {}, so there is no question to answer",
                    last.role
                ));
            }
            Some(_) => {}
        }
        if let Some(i) = messages.iter().position(|message| message.content.trim().is_empty()) {
            return Err(format!("message {i} of the prompt is empty"));
        }
        let no_role = |role: &str| {
            Err(format!("the chat template `{}` does not support the role `{role}`", self.name()))
        };
        let mut text = String::new();
        for (i, Message { role, content }) in messages.iter().enumerate() {
            match (self, role.as_str()) {
                (Self::Dialogue, "user") => text.push_str(&format!("{HUMAN} {content}")),
                (Self::Dialogue, "assistant") => {
                    text.push_str(&format!("{ASSISTANT}{}", spaced(content)));
                }
                (Self::Dialogue, "system") if i == 0 => text.push_str(content),
                (Self::Chatml, role) if role.contains(['\n', '<', '|', '>']) => {
                    return no_role(role);
                }
                // Such a text would be read as two turns, with somebody else's words attributed to
                // the assistant.
                (Self::Chatml, _) if content.contains(CHATML_BETWEEN) => {
                    return Err(format!(
                        "message {i} of the prompt contains the separator of turns \
                         ({CHATML_BETWEEN:?})"
                    ));
                }
                (Self::Chatml, role) => {
                    text.push_str(&format!("{IM_START}{role}\n{content}{IM_END}\n"));
                }
                (Self::Plain, "user") if messages.len() == 1 => text.push_str(content),
                (Self::Plain, _) if messages.len() > 1 => {
                    return Err(
                        "the chat template `plain` does not support several messages; use \
                         `dialogue` or `chatml`"
                            .into(),
                    );
                }
                (_, role) => return no_role(role),
            }
        }
        match self {
            Self::Dialogue => text.push_str(ASSISTANT),
            Self::Chatml => text.push_str(CHATML_ANSWER),
            Self::Plain => {}
        }
        Ok(text)
    }

    /// The prompt for a question.
    ///
    /// # Errors
    /// The question is empty.
    pub fn question(self, text: &str) -> Result<String, String> {
        self.prompt(&[Message { role: "user".into(), content: text.into() }])
    }

    /// The prompt for what a person typed: a text in this template unchanged, any other as a
    /// [`question`](Self::question) without surrounding white space.
    ///
    /// # Errors
    /// Those of [`prompt`](Self::prompt).
    pub fn ask(self, text: &str) -> Result<String, String> {
        match self {
            Self::Plain => Ok(text.into()),
            _ if self.is_form_of(text) => Ok(text.into()),
            Self::Chatml if text.starts_with(IM_START) => {
                // Shells remove a final line break.
                let shorn = text.ends_with(CHATML_ANSWER.trim_end());
                Ok(if shorn { format!("{text}\n") } else { text.into() })
            }
            Self::Dialogue | Self::Chatml => self.question(text.trim()),
        }
    }

    /// The response as it follows the prompt.
    pub fn response(self, text: &str) -> String {
        match self {
            Self::Dialogue => spaced(text),
            Self::Chatml | Self::Plain => text.into(),
        }
    }

    /// The part of a generated text that is the answer: in a dialogue everything before the next
    /// turn.
    pub fn answer(self, text: &str) -> &str {
        match self {
            Self::Dialogue => cut_at_turn(text),
            Self::Chatml | Self::Plain => text,
        }
    }

    /// The part of an unfinished text that is in its [`answer`](Self::answer), whatever follows it.
    pub fn settled(self, text: &str) -> &str {
        match (self, self.answer(text)) {
            (Self::Dialogue, answer) if answer.len() == text.len() => settled(text),
            (_, answer) => answer,
        }
    }
}

/// The text with white space at the start, to follow a colon.
pub(crate) fn spaced(text: &str) -> String {
    if text.starts_with(char::is_whitespace) { text.into() } else { format!(" {text}") }
}

#[cfg(test)]
mod tests;
