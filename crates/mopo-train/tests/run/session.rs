//! Sessions: pieces of text make the answer, whoever else is answered; stop texts, log-probabilities, conversations.

use std::collections::HashMap;
use std::ops::ControlFlow;

use mopo_data::Message;
use mopo_lm::{GenerationConfig, HeadChoice};
use mopo_testkit::TestBackend;
use mopo_train::{
    Prompt, Question, Sampler, SamplingOverrides, Session, Silent, TextEvent, TokenText,
};

use super::finished;

type B = TestBackend;

fn question(text: &str, head: HeadChoice) -> Question {
    Question {
        prompt: Prompt::Text(format!("\n\nHuman: {text}\n\nAssistant:")),
        decoding: head.into(),
        overrides: SamplingOverrides {
            max_new_tokens: Some(20),
            temperature: Some(1.0),
            ..Default::default()
        },
        stop: vec![],
        sample: 0,
        log_probs: Some(2),
    }
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq, Default)]
struct Answer {
    text: String,
    tokens: Vec<TokenText>,
    is_cut: bool,
    n_tokens: usize,
}

fn run(session: &mut Session<'_, B>, questions: &[Question]) -> Vec<Answer> {
    let ids: Vec<_> =
        questions.iter().map(|question| session.ask(question.clone()).unwrap().id).collect();
    let mut answers: HashMap<_, Answer> = HashMap::new();
    let mut ended = vec![];
    while !session.is_idle() {
        for event in session.step() {
            match event {
                TextEvent::Piece { id, text, tokens } => {
                    assert!(!ended.contains(&id));
                    let answer = answers.entry(id).or_default();
                    answer.text += &text;
                    answer.tokens.extend(tokens);
                }
                TextEvent::End { id, is_cut, n_tokens, .. } => {
                    let answer = answers.entry(id).or_default();
                    (answer.is_cut, answer.n_tokens) = (is_cut, n_tokens);
                    ended.push(id);
                }
                TextEvent::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
    assert_eq!(ended.len(), ids.len());
    ids.into_iter().map(|id| answers.remove(&id).unwrap()).collect()
}

#[test]
fn answers_together_are_those_alone_and_those_of_a_batch() {
    let (_tmp, path) = finished(&["model.scratch.max_position_embeddings=80"]);
    let sampler = Sampler::<B>::open(&path, &Default::default()).unwrap();
    let heads = [
        HeadChoice::Base,
        HeadChoice::Policy(1),
        HeadChoice::Mixture(vec![0.5, 0.2, 0.3]),
        HeadChoice::WorstCase,
    ];
    let mut questions: Vec<Question> =
        (0..12).map(|i| question(&format!("What about {i}?"), heads[i % 4].clone())).collect();
    questions[5].sample = 3;
    let mut session = sampler.session(sampler.limits(5)).unwrap();
    let together = run(&mut session, &questions);
    assert_eq!(session.stats().blocks_in_use, 0);
    for (question, answer) in questions.iter().zip(&together) {
        let mut alone = sampler.session(sampler.limits(1)).unwrap();
        assert_eq!(&run(&mut alone, std::slice::from_ref(question))[0], answer);
        assert_eq!(answer.tokens.len(), answer.n_tokens);
        let bytes: Vec<u8> = answer.tokens.iter().flat_map(|t| t.drawn.bytes.clone()).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), answer.text);
        for token in &answer.tokens {
            assert!(token.top.len() == 2 && token.top[0].log_prob >= token.drawn.log_prob);
        }
        // The whole answer at once, before a dialogue's next turn cuts it.
        let Prompt::Text(prompt) = &question.prompt else { unreachable!() };
        let settings = GenerationConfig { max_new_tokens: 20, ..Default::default() };
        let whole = sampler.answer(
            &question.decoding,
            std::slice::from_ref(prompt),
            &settings,
            &mut Silent,
        );
        let whole = whole.unwrap().remove(0);
        assert_eq!(answer.text.starts_with(&whole), question.sample == 0, "{answer:?}, {whole}");
    }
}

#[test]
fn a_stop_text_ends_the_answer_before_it() {
    let (_tmp, path) = finished(&["model.scratch.max_position_embeddings=80"]);
    let sampler = Sampler::<B>::open(&path, &Default::default()).unwrap();
    let mut session = sampler.session(sampler.limits(4)).unwrap();
    let free: Vec<Question> =
        (0..8).map(|i| question(&format!("Why {i}?"), HeadChoice::Policy(0))).collect();
    let whole = run(&mut session, &free);
    let stopped: Vec<Question> = free
        .iter()
        .zip(&whole)
        .map(|(question, answer)| {
            // Two characters of its middle; a text that is not in it; and an empty one.
            let middle = answer.text.chars().skip(answer.text.chars().count() / 2);
            let stop = vec!["no such text".into(), middle.take(2).collect(), String::new()];
            Question { stop, ..question.clone() }
        })
        .collect();
    for ((answer, question), whole) in run(&mut session, &stopped).iter().zip(&stopped).zip(&whole)
    {
        let at = whole.text.find(&question.stop[1]).unwrap();
        let has_stop = !question.stop[1].is_empty();
        assert_eq!(answer.text, if has_stop { &whole.text[..at] } else { &whole.text[..] });
        assert!(!(has_stop && answer.is_cut) && answer.n_tokens <= whole.n_tokens);
    }
    assert!(session.is_idle() && session.stats().blocks_in_use == 0);
}

#[test]
fn a_conversation_goes_on_from_what_was_read() {
    let (_tmp, path) = finished(&["model.scratch.max_position_embeddings=400"]);
    let sampler = Sampler::<B>::open(&path, &Default::default()).unwrap();
    let message = |role: &str, text: &str| Message { role: role.into(), content: text.into() };
    let mut session = sampler.session(sampler.limits(1)).unwrap();
    let overrides = SamplingOverrides {
        max_new_tokens: Some(12),
        temperature: Some(0.0),
        ..Default::default()
    };
    let mut messages = vec![message("user", "What is the best tea for a rainy morning at home?")];
    let mut reply = |messages: &[Message]| {
        let mut pieces = String::new();
        let reply = session.reply(HeadChoice::Policy(0), messages, &overrides, &mut |piece| {
            pieces += piece;
            ControlFlow::Continue(())
        });
        let reply = reply.unwrap();
        assert_eq!(reply.text, pieces);
        assert_eq!(reply.text.trim(), reply.text);
        (reply, session.stats().shared_tokens)
    };
    let (first, shared) = reply(&messages);
    assert_eq!(shared, 0);
    messages.push(message("assistant", "Green."));
    messages.push(message("user", "And which one for the evening?"));
    let (second, shared) = reply(&messages);
    assert!(shared > 0 && shared % 16 == 0);
    // The same from a session that knows nothing.
    let mut fresh = sampler.session(sampler.limits(1)).unwrap();
    let go_on = &mut |_: &str| ControlFlow::Continue(());
    for (messages, expected) in [(&messages[..1], first), (&messages, second)] {
        let found = fresh.reply(HeadChoice::Policy(0), messages, &overrides, go_on).unwrap();
        assert_eq!(found, expected);
    }
    // A break ends it there, and leaves nothing behind.
    let mut n = 0;
    let stop = &mut |_: &str| {
        n += 1;
        ControlFlow::Break(())
    };
    fresh.reply(HeadChoice::Policy(0), &messages, &overrides, stop).unwrap();
    assert!(n <= 1 && fresh.is_idle());
    let long = SamplingOverrides { max_new_tokens: Some(400), ..overrides };
    let error = fresh.reply(HeadChoice::Base, &messages, &long, go_on).unwrap_err().to_string();
    assert!(error.contains("context of 400"), "{error}");
}
