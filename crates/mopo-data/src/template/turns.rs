//! Where turns begin and end in an existing text.

use super::{ASSISTANT, CHATML_BETWEEN, IM_END, IM_START};

/// The starts of turns, after an empty line.
const ROLES: [&str; 2] = ["Human:", "Assistant:"];

/// The response up to the next turn: a model that continues with both sides of the dialogue is
/// judged by its first turn only. A turn is `Human:` or `Assistant:` at the beginning of a line
/// that follows an empty one; the same words elsewhere are text. White space before the cut is
/// removed too; a response without a further turn is returned unchanged.
pub fn cut_at_turn(response: &str) -> &str {
    let mut start = 0;
    // The first line of a response continues the line with the role, so it is never empty.
    let mut after_empty = false;
    for (i, line) in response.split_inclusive('\n').enumerate() {
        if after_empty && ROLES.iter().any(|role| line.starts_with(role)) {
            return response[..start].trim_end();
        }
        after_empty = i > 0 && line.trim().is_empty();
        start += line.len();
    }
    response
}

/// Prompt and response of a dialogue in HH-RLHF's template: the prompt ends with, and includes, the
/// last turn's `Assistant:`.
pub(crate) fn split_dialogue(dialogue: &str) -> Option<(&str, &str)> {
    dialogue.rfind(ASSISTANT).map(|at| dialogue.split_at(at + ASSISTANT.len()))
}

/// A part of a prompt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Piece<'a> {
    /// Text, whatever it contains.
    Text(&'a str),
    /// A control token of the template.
    Control(&'static str),
}

/// The pieces of a prompt in ChatML. Only what the template itself writes is a control token:
/// `<|im_start|>` at the very beginning, and `<|im_end|>`, a line break and `<|im_start|>` between
/// turns. The same strings anywhere else are part of a message, and are text. One piece of text if
/// the prompt does not begin as the template does.
pub(crate) fn chatml_pieces(prompt: &str) -> Vec<Piece<'_>> {
    let Some(rest) = prompt.strip_prefix(IM_START) else { return vec![Piece::Text(prompt)] };
    let mut pieces = vec![Piece::Control(IM_START)];
    for (i, turn) in rest.split(CHATML_BETWEEN).enumerate() {
        if i > 0 {
            let between = &CHATML_BETWEEN[IM_END.len()..CHATML_BETWEEN.len() - IM_START.len()];
            pieces.extend([Piece::Control(IM_END), Piece::Text(between), Piece::Control(IM_START)]);
        }
        pieces.push(Piece::Text(turn));
    }
    pieces
}
