//! How messages become the text of a prompt.

use serde::{Deserialize, Serialize};

/// One turn of a dialogue.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// `system`, `user` or `assistant`; ChatML takes any.
    pub role: String,
    /// Verbatim.
    pub content: String,
}

/// The text around turns. What a model was trained with, it should be asked with.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum ChatTemplate {
    /// HH-RLHF's: `\n\nHuman: …\n\nAssistant:` and a response that starts with a space. What a
    /// system message says comes first, as it is.
    Dialogue,
    /// `<|im_start|>role\n…<|im_end|>\n` for each turn, then `<|im_start|>assistant\n`; the response
    /// as it is.
    Chatml,
    /// The user's one message and the response as they are, with nothing between them.
    Plain,
}

impl ChatTemplate {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dialogue => "dialogue",
            Self::Chatml => "chatml",
            Self::Plain => "plain",
        }
    }

    /// The prompt that asks for an answer to `messages`.
    ///
    /// # Errors
    /// Says why there is none: no messages, one without text, the assistant's turn at the end, or a
    /// role that the template has no words for.
    pub fn prompt(self, messages: &[Message]) -> Result<String, String> {
        match messages.last() {
            None => return Err("the prompt has no message".into()),
            Some(last) if last.role == "assistant" || last.role == "system" => {
                return Err(format!(
                    "the prompt ends with a message of the {}, so there is nothing to answer",
                    last.role
                ));
            }
            Some(_) => {}
        }
        if let Some(i) = messages.iter().position(|message| message.content.trim().is_empty()) {
            return Err(format!("message {i} of the prompt is empty"));
        }
        let no_role = |role: &str| {
            Err(format!("the chat template `{}` has no words for the role `{role}`", self.name()))
        };
        let mut text = String::new();
        for (i, Message { role, content }) in messages.iter().enumerate() {
            match (self, role.as_str()) {
                (Self::Dialogue, "user") => text.push_str(&format!("\n\nHuman: {content}")),
                (Self::Dialogue, "assistant") => {
                    text.push_str(&format!("\n\nAssistant:{}", spaced(content)));
                }
                (Self::Dialogue, "system") if i == 0 => text.push_str(content),
                (Self::Chatml, role) => {
                    text.push_str(&format!("<|im_start|>{role}\n{content}<|im_end|>\n"));
                }
                (Self::Plain, "user") if messages.len() == 1 => text.push_str(content),
                (Self::Plain, _) if messages.len() > 1 => {
                    return Err(
                        "the chat template `plain` has no words for several messages; use \
                                `dialogue` or `chatml`"
                            .into(),
                    );
                }
                (_, role) => return no_role(role),
            }
        }
        match self {
            Self::Dialogue => text.push_str("\n\nAssistant:"),
            Self::Chatml => text.push_str("<|im_start|>assistant\n"),
            Self::Plain => {}
        }
        Ok(text)
    }

    /// The prompt of one question.
    ///
    /// # Errors
    /// If it is empty.
    pub fn question(self, text: &str) -> Result<String, String> {
        self.prompt(&[Message { role: "user".into(), content: text.into() }])
    }

    /// The response as it follows the prompt.
    pub fn response(self, text: &str) -> String {
        match self {
            Self::Dialogue => spaced(text),
            Self::Chatml | Self::Plain => text.into(),
        }
    }
}

/// A text that starts with white space: what follows a colon.
pub(crate) fn spaced(text: &str) -> String {
    if text.starts_with(char::is_whitespace) { text.into() } else { format!(" {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(turns: &[(&str, &str)]) -> Vec<Message> {
        let message = |&(role, content): &(&str, &str)| Message {
            role: role.into(),
            content: content.into(),
        };
        turns.iter().map(message).collect()
    }

    #[test]
    fn turns_become_text() {
        let turns = messages(&[
            ("system", "Be brief."),
            ("user", "Hi"),
            ("assistant", "Hello"),
            ("user", "Tea?"),
        ]);
        assert_eq!(
            ChatTemplate::Dialogue.prompt(&turns).unwrap(),
            "Be brief.\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tea?\n\nAssistant:"
        );
        assert_eq!(
            ChatTemplate::Chatml.prompt(&turns[2..]).unwrap(),
            "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nTea?<|im_end|>\n\
             <|im_start|>assistant\n"
        );
        assert_eq!(ChatTemplate::Plain.question("Tea?").unwrap(), "Tea?");
        assert_eq!(ChatTemplate::Dialogue.response("Yes"), " Yes");
        assert_eq!(ChatTemplate::Dialogue.response("\nYes"), "\nYes");
        assert_eq!(ChatTemplate::Chatml.response("Yes"), "Yes");
    }

    #[test]
    fn what_has_no_words_is_refused() {
        for (template, turns, expected) in [
            (ChatTemplate::Dialogue, vec![], "no message"),
            (
                ChatTemplate::Chatml,
                vec![("user", "Hi"), ("assistant", "Yes")],
                "ends with a message",
            ),
            (ChatTemplate::Dialogue, vec![("tool", "4")], "role `tool`"),
            (
                ChatTemplate::Dialogue,
                vec![("user", "Hi"), ("system", "x"), ("user", "y")],
                "`system`",
            ),
            (ChatTemplate::Plain, vec![("system", "x"), ("user", "Hi")], "several messages"),
            (ChatTemplate::Chatml, vec![("user", " ")], "message 0 of the prompt is empty"),
        ] {
            let error = template.prompt(&messages(&turns)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
