//! Where turns begin and end in an existing text.

use super::{ASSISTANT, CHATML_BETWEEN, ChatTemplate, HUMAN, IM_END, IM_START, Message};

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

/// The part of an unfinished response that [`cut_at_turn`] keeps, whatever follows it.
pub(super) fn settled(response: &str) -> &str {
    let start = response.rfind('\n').map_or(0, |at| at + 1);
    let (before, line) = response.split_at(start);
    let may_be_turn = before.ends_with("\n\n") && ROLES.iter().any(|role| role.starts_with(line));
    if may_be_turn { before.trim_end() } else { response.trim_end() }
}

/// Prompt and response of a dialogue in HH-RLHF's template: the prompt ends with, and includes, the
/// last turn's `Assistant:`.
pub(crate) fn split_dialogue(dialogue: &str) -> Option<(&str, &str)> {
    dialogue.rfind(ASSISTANT).map(|at| dialogue.split_at(at + ASSISTANT.len()))
}

/// The messages of a prompt: the turns of a dialogue or of ChatML, else the text as the user's. The
/// text before the first turn of a dialogue is the system's. Neighbouring turns of one role are one
/// message, since most templates need roles that alternate.
pub(crate) fn messages_of(prompt: &str) -> Vec<Message> {
    let message =
        |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    if ChatTemplate::Chatml.is_form_of(prompt) {
        let turns = chatml_pieces(prompt).into_iter().filter_map(|piece| match piece {
            Piece::Text(turn) => turn.split_once('\n').filter(|(role, _)| !role.is_empty()),
            Piece::Control(_) => None,
        });
        let mut messages: Vec<Message> =
            turns.map(|(role, content)| message(role, content)).collect();
        // The beginning of the response.
        messages.pop();
        return messages;
    }
    let Some(dialogue) = prompt.strip_suffix(ASSISTANT) else {
        return vec![message("user", prompt)];
    };
    let marks = |mark: &'static str, role: &'static str| {
        dialogue.match_indices(mark).map(move |(at, _)| (at, at + mark.len(), role))
    };
    let mut starts = vec![(0, 0, "system")];
    starts.extend(marks(HUMAN, "user").chain(marks(ASSISTANT, "assistant")));
    starts.sort_unstable();
    let ends = starts.iter().skip(1).map(|(at, ..)| *at).chain([dialogue.len()]);
    let mut messages: Vec<Message> = Vec::new();
    for ((_, start, role), end) in starts.iter().zip(ends) {
        let turn = dialogue[*start..end].trim();
        match messages.last_mut().filter(|last| last.role == *role) {
            Some(last) => last.content.extend(["\n\n", turn]),
            None if *role == "system" && turn.is_empty() => {}
            None => messages.push(message(role, turn)),
        }
    }
    messages
}

/// A part of a prompt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Piece<'a> {
    /// Text, whatever it contains.
    Text(&'a str),
    /// A control token of the template.
    Control(&'a str),
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
