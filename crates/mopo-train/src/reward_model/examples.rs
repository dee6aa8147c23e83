//! Training examples of a reward model, as token ids: compared pairs of texts, or texts of two
//! kinds.

use std::cmp::Ordering;

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData, activation};
use mopo_lm::TokenRow;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// An example: the texts to score, and the target.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Example {
    /// Two responses to one prompt.
    Pair {
        /// The model's input for the prompt and the first response.
        first: TokenRow,
        /// The model's input for the prompt and the second response.
        second: TokenRow,
        /// The indicator: 1 prefers the first, 0 the second, 0.5 is a tie, values between are soft.
        indicator: f32,
    },
    /// A text of one of several kinds.
    Text {
        /// The model's input for the text.
        row: TokenRow,
        /// The kind, from 0.
        label: usize,
    },
}

impl Example {
    /// The texts, each of which gets logits.
    pub(crate) fn rows(&self) -> Vec<&TokenRow> {
        match self {
            Self::Pair { first, second, .. } => vec![first, second],
            Self::Text { row, .. } => vec![row],
        }
    }

    /// Number of tokens of all rows.
    pub(crate) fn n_tokens(&self) -> usize {
        self.rows().iter().map(|row| row.ids.len()).sum()
    }

    /// Removes each token with probability `p`, except the first and the last of a text and the
    /// classified one. The target is unchanged, so that the model cannot rely on single words.
    pub(crate) fn with_tokens_dropped(&self, p: f64, rng: &mut ChaCha8Rng) -> Self {
        let mut thin = |row: &TokenRow| thinned(row, p, rng);
        match self {
            Self::Pair { first, second, indicator } => {
                Self::Pair { first: thin(first), second: thin(second), indicator: *indicator }
            }
            Self::Text { row, label } => Self::Text { row: thin(row), label: *label },
        }
    }
}

fn thinned(row: &TokenRow, p: f64, rng: &mut ChaCha8Rng) -> TokenRow {
    let last = row.ids.len().saturating_sub(1);
    let mut new = TokenRow { ids: Vec::with_capacity(row.ids.len()), pool: 0 };
    for (i, id) in row.ids.iter().enumerate() {
        // Drawn for every token, so that the stream does not depend on its position.
        let dropped = rng.random::<f64>() < p;
        if i == row.pool {
            new.pool = new.ids.len();
        }
        if i == 0 || i == last || i == row.pool || !dropped {
            new.ids.push(*id);
        }
    }
    new
}

/// Of two texts with one prompt, whose beginnings have lost so many tokens, cuts the one that lost fewer to where the
/// other begins, so that the rest of the prompt is the same in both. Texts that would lose their response stay as they
/// are.
pub(crate) fn cut_alike(
    first: &mut TokenRow,
    second: &mut TokenRow,
    first_cut: usize,
    second_cut: usize,
) {
    let (longer, other, excess) = match first_cut.cmp(&second_cut) {
        Ordering::Less => (first, &*second, second_cut - first_cut),
        Ordering::Equal => return,
        Ordering::Greater => (second, &*first, first_cut - second_cut),
    };
    // A token that the tokenizer puts before every text.
    let kept = usize::from(longer.ids[0] == other.ids[0]);
    let from = kept + excess;
    if longer.ids.get(from) == other.ids.get(kept) && from < longer.pool {
        longer.ids.drain(kept..from);
        longer.pool -= excess;
    }
}

/// An independent stream for each step.
pub(crate) fn step_rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// The mean loss of some examples under `logits` `[n_rows, n_labels]`, their rows in order. For
/// pairs that of Bradley and Terry, −I log σ(r_first − r_second) − (1 − I) log σ(r_second −
/// r_first), with the indicator I as the probability that the first is preferred, so a tie pulls
/// the scores together. For texts cross-entropy. All examples are of one kind; there is at least
/// one.
pub(crate) fn mean_loss<B: Backend>(examples: &[Example], logits: Tensor<B, 2>) -> Tensor<B, 1> {
    let device = logits.device();
    let n = examples.len();
    let losses = match &examples[0] {
        Example::Pair { .. } => {
            let scores = logits.narrow(1, 0, 1).reshape([n, 2]);
            let difference =
                (scores.clone().narrow(1, 0, 1) - scores.narrow(1, 1, 1)).flatten(0, 1);
            let indicators: Vec<f32> = examples
                .iter()
                .map(|example| match example {
                    Example::Pair { indicator, .. } => *indicator,
                    Example::Text { .. } => unreachable!("examples are of one kind"),
                })
                .collect();
            let first = Tensor::<B, 1>::from_data(TensorData::new(indicators, [n]), &device);
            let second = first.clone().neg().add_scalar(1.0);
            (first * activation::log_sigmoid(difference.clone())
                + second * activation::log_sigmoid(difference.neg()))
            .neg()
        }
        Example::Text { .. } => {
            let labels: Vec<i32> = examples
                .iter()
                .map(|example| match example {
                    Example::Text { label, .. } => *label as i32,
                    Example::Pair { .. } => unreachable!("examples are of one kind"),
                })
                .collect();
            let labels = Tensor::<B, 1, Int>::from_data(TensorData::new(labels, [n]), &device)
                .reshape([n, 1]);
            activation::log_softmax(logits, 1).gather(1, labels).flatten(0, 1).neg()
        }
    };
    losses.mean()
}

/// How many of the decided examples are classified correctly by the logits `[n_rows][n_labels]`,
/// and how many are decided. Ties are not decided; equal scores of a decided pair count half.
pub(crate) fn count_right(examples: &[Example], logits: &[Vec<f32>]) -> (f64, usize) {
    let (mut right, mut decided, mut row) = (0.0, 0, 0);
    for example in examples {
        match example {
            Example::Pair { indicator, .. } => {
                let difference = logits[row][0] - logits[row + 1][0];
                row += 2;
                if *indicator == 0.5 {
                    continue;
                }
                decided += 1;
                right += match difference == 0.0 {
                    true => 0.5,
                    false => f64::from(u8::from((difference > 0.0) == (*indicator > 0.5))),
                };
            }
            Example::Text { label, .. } => {
                let scores = &logits[row];
                row += 1;
                decided += 1;
                let best = scores
                    .iter()
                    .enumerate()
                    .fold(0, |best, (i, score)| if *score > scores[best] { i } else { best });
                right += f64::from(u8::from(best == *label));
            }
        }
    }
    (right, decided)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::ElementConversion;
    use mopo_testkit::TestBackend;

    #[test]
    fn texts_of_a_pair_are_cut_alike() {
        // The prompt is 1 to 9, of which the tokenizer's limit of 6 left 7 to 9 and 5 to 9.
        let (long, short) = (row([7, 8, 9, 20, 21, 22], 5), row([5, 6, 7, 8, 9, 30], 5));
        let cut = row([7, 8, 9, 30], 3);
        let (mut first, mut second) = (long.clone(), short.clone());
        cut_alike(&mut first, &mut second, 6, 4);
        assert_eq!((&first, &second), (&long, &cut));
        cut_alike(&mut second, &mut first, 6, 6);
        assert_eq!((&first, &second), (&long, &cut));
        let (mut first, mut second) = (short.clone(), long.clone());
        cut_alike(&mut first, &mut second, 4, 6);
        assert_eq!((first, second), (cut, long));
        // The first token is one of the tokenizer's.
        let (mut first, mut second) = (row([0, 8, 9, 20], 3), row([0, 6, 7, 8, 9, 30], 5));
        cut_alike(&mut first, &mut second, 4, 2);
        assert_eq!(second, row([0, 8, 9, 30], 3));
        // Nothing is left of the prompt in one of them.
        let (mut first, mut second) = (row([20, 21, 22], 2), row([8, 9, 30], 2));
        cut_alike(&mut first, &mut second, 12, 7);
        assert_eq!(second, row([8, 9, 30], 2));
    }

    fn row(ids: impl IntoIterator<Item = u32>, pool: usize) -> TokenRow {
        TokenRow { ids: ids.into_iter().collect(), pool }
    }

    fn pair(indicator: f32) -> Example {
        Example::Pair { first: row([1, 2, 3], 2), second: row([4, 5], 1), indicator }
    }

    fn loss(examples: &[Example], logits: &[[f32; 2]]) -> f64 {
        let data = TensorData::new(logits.concat(), [logits.len(), 2]);
        let logits = Tensor::<TestBackend, 2>::from_data(data, &Default::default());
        let logits = match examples[0] {
            Example::Pair { .. } => logits.narrow(1, 0, 1),
            Example::Text { .. } => logits,
        };
        mean_loss(examples, logits).into_scalar().elem()
    }

    #[test]
    fn bradley_terry_by_hand() {
        let log_sigmoid = |x: f64| -(1.0 + (-x).exp()).ln();
        let logits = [[2.0, 0.0], [0.5, 0.0]];
        for (indicator, expected) in [
            (1.0, -log_sigmoid(1.5)),
            (0.0, -log_sigmoid(-1.5)),
            (0.5, -0.5 * (log_sigmoid(1.5) + log_sigmoid(-1.5))),
            (0.25, -0.25 * log_sigmoid(1.5) - 0.75 * log_sigmoid(-1.5)),
        ] {
            let found = loss(&[pair(indicator)], &logits);
            assert!((found - expected).abs() < 1e-5, "{indicator}: {found} for {expected}");
        }
    }

    #[test]
    fn cross_entropy_by_hand() {
        let texts = [0, 1].map(|label| Example::Text { row: row([1], 0), label });
        let found = loss(&texts, &[[1.0, 3.0], [0.0, 0.0]]);
        let expected = 0.5 * ((1.0 + 2.0_f64.exp()).ln() + 2.0_f64.ln());
        assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
    }

    #[test]
    fn right_is_counted_over_what_is_decided() {
        let logits = [[1.0], [0.0], [0.0], [1.0], [2.0], [2.0], [5.0], [1.0]].map(|x| x.to_vec());
        let examples = [pair(1.0), pair(1.0), pair(0.0), pair(0.5)];
        assert_eq!(count_right(&examples, &logits), (1.5, 3));
        let texts = [0, 1].map(|label| Example::Text { row: row([1], 0), label });
        assert_eq!(count_right(&texts, &[vec![0.0, 1.0], vec![0.0, 1.0]]), (1.0, 2));
    }

    #[test]
    fn dropped_tokens_leave_the_ends_and_the_label() {
        let long = Example::Text { row: row(0..1000, 500), label: 1 };
        let once = long.with_tokens_dropped(0.3, &mut step_rng(7));
        let Example::Text { row: TokenRow { ids, pool }, label: 1 } = &once else {
            panic!("{once:?}")
        };
        assert!((600..800).contains(&ids.len()), "{}", ids.len());
        assert_eq!((ids[0], ids[*pool], ids[ids.len() - 1]), (0, 500, 999));
        assert!(ids.is_sorted());
        assert_eq!(once, long.with_tokens_dropped(0.3, &mut step_rng(7)));
        assert_ne!(once, long.with_tokens_dropped(0.3, &mut step_rng(8)));
        assert_eq!(pair(0.5).with_tokens_dropped(1.0, &mut step_rng(0)).n_tokens(), 4);
        assert_eq!(pair(0.5).with_tokens_dropped(0.0, &mut step_rng(0)), pair(0.5));
    }
}
