//! The demo world: an assistant that is asked harmless and hazardous things, with three
//! objectives in real conflict and exact rewards. Generated from a seed; all text is ours.
//!
//! A question is an opener × a topic × a context (3,360 in all), so that held-out prompts are new
//! combinations of known parts. A response is one to four sentences. The sentences and what they
//! are worth are in [`rewards`](fn@rewards)' table; the conflicts are these: on hazardous topics
//! each step helps and harms; a joke costs helpfulness and a place among the four sentences; the
//! funniest jokes are harmful; a caution is safer and less funny.

mod generate;
mod rewards;
mod sentences;
mod topics;

pub use generate::{DemoConfig, generate, generate_split, objectives};
pub use rewards::{MAX_SENTENCES, rewards};
pub use sentences::{Kind, kind_of, split_sentences};
pub use topics::{N_PROMPTS, TOPICS, Topic, is_hazardous, topic_of};

#[cfg(test)]
mod tests;
