//! Scores of both responses of pairs, in batches that do not depend on how the work is split.

use mopo_data::{PreferenceRecord, Scores};
use rayon::prelude::*;

use crate::{Error, Result, Reward};

/// Number of pairs that a reward scores at once. It is fixed, and shards begin at multiples of it:
/// if a model's last bits depend on its batch, an interrupted, resumed or sharded labelling still
/// gives the same bits.
pub const BATCH_PAIRS: usize = 8;

/// Scores both responses of each pair with each reward, in the order of `records`,
/// `[n_rewards]` per response. Batches are the first [`BATCH_PAIRS`] records, the next, and so on.
///
/// Rewards that leave cores idle run on several threads, without any effect on scores.
///
/// # Errors
/// [`Error::Score`] names reward, record and response for what cannot be scored: a score that is
/// NaN or
/// infinite, or an error of the reward. A program or endpoint that cannot be used is an error of its own.
pub fn score_pairs(
    rewards: &[Box<dyn Reward>],
    records: &[PreferenceRecord],
) -> Result<Vec<Scores>> {
    let mut scores: Vec<Scores> = records
        .iter()
        .map(|_| Scores {
            first: Vec::with_capacity(rewards.len()),
            second: Vec::with_capacity(rewards.len()),
        })
        .collect();
    for reward in rewards {
        let batch = |records: &[PreferenceRecord]| score_batch(reward.as_ref(), records);
        let batches = records.chunks(BATCH_PAIRS);
        let column: Vec<Vec<[f32; 2]>> = if reward.uses_all_cores() {
            batches.map(batch).collect::<Result<_>>()?
        } else {
            let batches: Vec<_> = batches.collect();
            // Collect all before looking for the first error, which is then the same every time.
            let results: Vec<Result<_>> = batches.into_par_iter().map(batch).collect();
            results.into_iter().collect::<Result<_>>()?
        };
        for (scores, [first, second]) in scores.iter_mut().zip(column.into_iter().flatten()) {
            scores.first.push(first);
            scores.second.push(second);
        }
    }
    Ok(scores)
}

/// The reason in an error about a text, without what the caller adds.
fn reason(error: Error) -> String {
    match error {
        Error::Text { why, .. } => format!("the text {why}"),
        other => other.to_string(),
    }
}

/// Whether an error would be that of any text: a program that ended, an endpoint that is not there.
fn is_of_all(error: &Error) -> bool {
    match error {
        Error::Program { .. } => true,
        // These statuses may be about what was sent.
        Error::Hub(mopo_hub::Error::Endpoint { status, .. }) => {
            !matches!(status, Some(400 | 413 | 422))
        }
        _ => false,
    }
}

fn score_batch(reward: &dyn Reward, records: &[PreferenceRecord]) -> Result<Vec<[f32; 2]>> {
    let items: Vec<(&str, &str)> = records
        .iter()
        .flat_map(|r| [(r.prompt.as_str(), r.first.as_str()), (&r.prompt, &r.second)])
        .collect();
    let wrong = |i: usize, why: String| Error::Score {
        reward: reward.name().into(),
        record: records[i / 2].id.clone(),
        response: ["first", "second"][i % 2],
        why,
    };
    let scores = match reward.score_batch(&items) {
        Ok(scores) => scores,
        // Not a matter of one text.
        Err(error) if is_of_all(&error) => return Err(error),
        Err(error) => {
            // The error of a batch does not say which text it was.
            let one = |(i, (prompt, response)): (usize, &(&str, &str))| {
                reward.score(prompt, response).map_err(|error| wrong(i, reason(error)))
            };
            let scores: Vec<f32> = items.iter().enumerate().map(one).collect::<Result<_>>()?;
            tracing::warn!(
                "reward `{}`: {error}; its {} texts were scored one by one: try a smaller `batch_size`",
                reward.name(),
                items.len()
            );
            scores
        }
    };
    if scores.len() != items.len() {
        return Err(Error::Length {
            field: format!("scores of reward `{}`", reward.name()),
            found: scores.len(),
            expected: items.len(),
            reason: "one score per response",
        });
    }
    if let Some(i) = scores.iter().position(|score| !score.is_finite()) {
        return Err(wrong(i, format!("the score is {}, not a finite number", scores[i])));
    }
    Ok(scores.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect())
}
