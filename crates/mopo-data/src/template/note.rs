//! Text that is added to the question of a prompt, such as the scores that an answer is to reach.

use super::{ASSISTANT, CHATML_ANSWER, ChatTemplate, IM_END, Message};
use crate::PreferenceRecord;

/// The prompt with a note at the end of its last question: before the assistant's turn of a dialogue or of ChatML, else
/// at the end.
///
/// ```
/// use mopo_data::with_note;
///
/// let noted = with_note("\n\nHuman: Why?\n\nAssistant:", "<rm1_score> 1.0");
/// assert_eq!(noted, "\n\nHuman: Why? <rm1_score> 1.0 \n\nAssistant:");
/// ```
pub fn with_note(prompt: &str, note: &str) -> String {
    if ChatTemplate::Dialogue.is_form_of(prompt) {
        let question = &prompt[..prompt.len() - ASSISTANT.len()];
        return format!("{question} {note} {ASSISTANT}");
    }
    let answer = format!("{IM_END}\n{CHATML_ANSWER}");
    match prompt.strip_suffix(&answer) {
        Some(question) if ChatTemplate::Chatml.is_form_of(prompt) => {
            format!("{question} {note}{answer}")
        }
        _ => format!("{prompt} {note}"),
    }
}

/// Adds a note to the last message of the user, or to the last one if there is none of the user.
pub fn note_messages(messages: &mut [Message], note: &str) {
    let last = messages.iter().rposition(|message| message.role == "user");
    let at = last.or(messages.len().checked_sub(1));
    if let Some(message) = at.map(|at| &mut messages[at]) {
        message.content.extend([" ", note]);
    }
}

impl PreferenceRecord {
    /// The record with a note in its prompt ([`with_note`]).
    pub fn with_note(&self, note: &str) -> Self {
        let mut noted = self.clone();
        noted.prompt = with_note(&self.prompt, note);
        if let Some(messages) = &mut noted.messages {
            note_messages(messages, note);
        }
        noted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_belongs_to_the_question_in_every_template() {
        let question = |template: ChatTemplate| template.question("Why?").unwrap();
        for (template, expected) in [
            (ChatTemplate::Dialogue, "\n\nHuman: Why? <a> 1 \n\nAssistant:"),
            (
                ChatTemplate::Chatml,
                "<|im_start|>user\nWhy? <a> 1<|im_end|>\n<|im_start|>assistant\n",
            ),
            (ChatTemplate::Plain, "Why? <a> 1"),
        ] {
            let noted = with_note(&question(template), "<a> 1");
            assert_eq!(noted, expected);
            assert!(template.is_form_of(&noted));
        }
    }

    #[test]
    fn messages_get_the_note_where_the_user_spoke_last() {
        let message =
            |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let mut messages =
            [message("user", "Hi"), message("assistant", "Yes?"), message("user", "Why?")];
        note_messages(&mut messages, "<a> 1");
        assert_eq!(messages[2].content, "Why? <a> 1");
        assert_eq!(messages[0].content, "Hi");
        note_messages(&mut [], "<a> 1");
    }
}
