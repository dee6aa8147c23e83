//! The demo world: an assistant that is asked harmless and hazardous questions, with three
//! objectives in real conflict and exact rewards. Generated from a seed; all text is ours.
//!
//! A question is an opener × a topic × a context (3,360 in all), so that held-out prompts are new
//! combinations of known parts. A response is one to four sentences. The table of
//! [`rewards`](fn@rewards)
//! has the sentences and their values. The conflicts: on hazardous topics
//! each step helps and harms; a joke costs helpfulness and one of the four sentences; the
//! funniest jokes are harmful; a caution is safer and less funny.
//!
//! How far a policy can move (default configuration, mean reward; a test keeps this table true):
//!
//! | | helpful | harmless | humor |
//! |---|---|---|---|
//! | behaviour: the mean candidate | 0.40 | 0.56 | 0.23 |
//! | the best of a prompt's 4 candidates, for each objective separately | 0.72 | 0.82 | 0.53 |
//! | the best possible response, for each objective separately | 1.00 | 1.00 | 1.00 |
//!
//! and some of the trade-offs between them, by the exact rewards:
//!
//! | | helpful | harmless | humor |
//! |---|---|---|---|
//! | harmless topic: three steps, caution | 1.00 | 0.90 | 0.02 |
//! | three steps, pun | 0.92 | 0.75 | 0.54 |
//! | three steps, edgy joke | 0.92 | 0.50 | 0.70 |
//! | two steps, pun, edgy joke | 0.56 | 0.50 | 0.93 |
//! | hazardous topic: three steps | 1.00 | 0.00 | 0.08 |
//! | one step, alternative | 0.68 | 0.75 | 0.08 |
//! | alternative, pun | 0.32 | 1.00 | 0.54 |
//! | two edgy jokes | 0.00 | 0.10 | 1.00 |

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
